"""Reports on a run.

    python -m vision_zero.report RUN                   writes RUN/report.html: all curves and the recorded games
    python -m vision_zero.report RUN --against OTHER   the same with OTHER's curves beside RUN's: RUN/against.html
    python -m vision_zero.report RUN --summary         prints one screen
    python -m vision_zero.report RUN --curves          draws win rate, votes and clues over training: RUN/run.png
    python -m vision_zero.report RUN --game            draws a recorded game: RUN/game.png; --step N --game K choose it

None of them loads a model or needs a network (docs/runs.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vision_zero.config.game import add_options, beside
from vision_zero.data.errors import BadImageError
from vision_zero.rollout.stopping import end_with_reader
from vision_zero.run_folder import CONFIG, RunFolderError, check_own, read_config, writing_for

ANY_GAME = -1
OWN_PAGE = ": a run of Vision-Zero</title>"
PAGE_OPTIONS = {"games": 500, "image_size": 320, "evaluation": [], "against": None}
"""Options of the page alone, with their defaults."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parse(argv)
    try:
        for run in (args.run, *([args.against] if args.against else [])):
            if not (run / CONFIG).is_file():
                raise RunFolderError(f"{run} is not a run folder: it has no {CONFIG}")
        if args.summary:
            from vision_zero.report.summary import summarize_run

            print(summarize_run(args.run))
        elif args.curves:
            from vision_zero.report.plots import plot_run, save_figure

            out = args.out or args.run / "run.png"
            save_figure(lambda: plot_run(args.run), out)
            print(f"{out}: the curves of {args.run}")
        elif args.game is not None:
            draw_one_game(args.run, args.step, args.game, args.out or args.run / "game.png")
        else:
            write_page(args, args.out or args.run / ("against.html" if args.against else "report.html"))
    except (RunFolderError, BadImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vision_zero.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="the run's output_dir, finished or not")
    add_options(parser.add_mutually_exclusive_group(), beside(__file__)["what"])
    add_options(parser, beside(__file__)["options"])
    args = parser.parse_args(argv)
    page = not (args.summary or args.curves or args.game is not None)
    for name, default in PAGE_OPTIONS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not page:
            parser.error(f"--{name} is an option of the page; leave it out")
    if args.step is not None and args.game is None:
        parser.error("--step chooses the step of a game; give --game too")
    if args.out is not None and args.summary:
        parser.error(f"--out {args.out}: a summary is printed; leave --out out")
    if args.out is not None and page and args.out.suffix.lower() not in (".html", ".htm"):
        parser.error(f"--out {args.out}: must end in .html")  # else a slip would overwrite another file
    return args


def draw_one_game(run: Path, step: int | None, game: int, out: Path) -> None:
    from vision_zero.report.page import readable_pairs
    from vision_zero.report.plots import find_game, plot_game, save_with_few_colours

    record, notes = find_game(run, step, None if game == ANY_GAME else game), list[str]()
    pairs = readable_pairs(read_config(run), {record["pair"]}, notes)
    save_with_few_colours(plot_game(record, pairs), out)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{out}: game {record['game']} of step {record['step']}")


def write_page(args: argparse.Namespace, out: Path) -> None:
    """Write the page, and print what it leaves out. Raises RunFolderError, also if `out` cannot be written."""
    from vision_zero.report.page import make_report

    if missing := [file for file in args.evaluation if not file.is_file()]:
        raise RunFolderError(f"--evaluation {missing[0]}: there is no such file")
    check_own(out, "--out", OWN_PAGE)
    report = make_report(args.run, args.games, args.image_size, args.evaluation, args.against)
    with writing_for(out, "--out"):
        out.write_text(report.html, "utf-8", newline="\n")  # as it was hashed
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    shown = f"{report.n_games} of {report.n_recorded} recorded games, {report.n_images} images"
    print(f"{out}: {report.n_charts} charts, {shown}, {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main())
