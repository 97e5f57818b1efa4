"""Make the page of a run: `python -m vision_zero.report runs/quickstart`, then open runs/quickstart/report.html.

One file with the curves and the recorded games, images included; it needs no network and no server (docs/report.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vision_zero.evaluation.report import Report, make_report
from vision_zero.run_folder import CONFIG, RunFolderError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parse(argv)
    out: Path = args.out or args.run / "report.html"
    try:
        if not (args.run / CONFIG).is_file():
            raise RunFolderError(f"{args.run} is not a run folder: it has no {CONFIG}")
        if missing := [file for file in args.evaluation if not file.is_file()]:
            raise RunFolderError(f"--evaluation {missing[0]}: there is no such file")
        report = make_report(args.run, args.games, args.image_size, args.evaluation)
        write(report, out)
    except RunFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    shown = f"{report.n_games} of {report.n_recorded} recorded games, {report.n_images} images"
    print(f"{out}: {report.n_charts} charts, {shown}, {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vision_zero.report", description="Make the page of a run.")
    parser.add_argument("run", type=Path, help="the run's output_dir, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="where to (default: report.html in the run)")
    parser.add_argument("--games", type=at_least(0), default=500, help="show at most this many games (default: 500)")
    parser.add_argument(
        "--image_size", type=at_least(16), default=320, help="longer side of the images, in pixels (default: 320)"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.jsonl",
        help="what evaluate win-rate --out wrote (default: evaluation*.jsonl in the run)",
    )
    args = parser.parse_args(argv)
    if args.out is not None and args.out.suffix.lower() not in (".html", ".htm"):  # else a slip would end another file
        parser.error(f"--out {args.out}: must end in .html")
    return args


def at_least(least: int) -> Callable[[str], int]:
    """A whole number for argparse, of at least `least`."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return whole_number


def write(report: Report, out: Path) -> None:
    """Raises RunFolderError for a place that cannot be written to."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report.html, "utf-8", newline="\n")  # as it was hashed
    except OSError as error:
        raise RunFolderError(f"--out {out}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
