"""Make image pairs of a domain, in parallel, or fetch a ready-made set; the same command continues what was stopped.

    python -m vision_zero.make_data clevr --out my/scenes --n 2000
    python -m vision_zero.make_data download magicbrush --out my/magicbrush --limit 1000

Pair k of a seed is the same whatever --n, --workers or the order they were made in (docs/data.md).
"""

import argparse
import io
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from vision_zero.config.game import add_options, beside
from vision_zero.data.folders import MANIFEST_NAME
from vision_zero.data.pairs import load_pairs, sample_rows
from vision_zero.inspect_data import contact_sheet
from vision_zero.make_data import output
from vision_zero.make_data.maker import Maker, MakerError
from vision_zero.make_data.workers import work
from vision_zero.rollout.stopping import end_with_reader

MAKERS: Mapping[str, str] = {name: f"vision_zero.make_data.{name}.maker" for name in ("clevr", "charts", "photos")}
"""Command -> module with `add_arguments(parser)` and `from_arguments(args) -> Maker`."""

DOWNLOAD = "download"
SHEET_PAIRS = 16
NOT_KEPT = ("out", "n", "workers", "domain", "blender_python", "blender_threads", "blender_timeout")
"""Options that may differ when a run is continued (--n only upwards): they change no pair."""


def main(argv: Sequence[str] | None = None, domains: Mapping[str, str] = MAKERS) -> int:
    """Returns the exit status: 0, 1 for an error, 130 for a stopped run."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [DOWNLOAD]:
        from vision_zero.make_data.download.main import main as download

        return download(argv[1:])
    args, module = parse(argv, domains)
    try:
        maker: Maker = module.from_arguments(args)
        n = args.n or maker.default_n
        with output.open_output(args.out, maker.name, kept_options(args, maker), n) as remaining:
            make_all(output.PairJob(maker, args.seed, args.out), remaining, n, args.workers)
            return finish(args.out, maker, n)
    except KeyboardInterrupt:
        print(f"stopped; what is done is kept in {args.out}, the same command continues", file=sys.stderr)
        return 130
    except (MakerError, ValueError) as error:  # a maker's refusal of its options is a ValueError, a bad image too
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str], domains: Mapping[str, str]) -> tuple[argparse.Namespace, ModuleType]:
    """The options and the module of the domain. Other domains are not imported."""
    parser = argparse.ArgumentParser(prog="python -m vision_zero.make_data", description="Make image pairs.")
    commands = parser.add_subparsers(dest="domain", required=True)
    by_name = {name: commands.add_parser(name) for name in domains}
    commands.add_parser(DOWNLOAD, help="fetch a ready-made set in place of making one")
    if not argv or argv[0] not in domains:
        parser.parse_args(argv[:1])  # ends the program: with help, or with what is wrong
    module = import_module(domains[argv[0]])
    add_options(by_name[argv[0]], beside(__file__), {"workers": os.cpu_count() or 1})
    module.add_arguments(by_name[argv[0]])
    return parser.parse_args(argv), module


def kept_options(args: argparse.Namespace, maker: Maker) -> dict[str, Any]:
    """JSON of what the pairs depend on: the domain and all its options."""
    given = {name: value for name, value in sorted(vars(args).items()) if name not in NOT_KEPT}
    # Paths absolute, so that a run can be continued from another folder.
    options = {name: str(one.resolve()) if isinstance(one, Path) else one for name, one in given.items()}
    if (material := maker.material()) is not None:
        options[output.MATERIAL] = material
    return {"domain": args.domain, "name": maker.name, "max_attempts": maker.max_attempts, **options}


def make_all(job: output.PairJob, remaining: Sequence[int], n: int, n_workers: int) -> None:
    """Make the missing pairs with a progress bar. Prints the speed."""
    start, rejected = time.monotonic(), 0
    with (
        closing(work(job, remaining, n_workers)) as results,
        tqdm(total=n, initial=n - len(remaining), desc="making pairs", unit="pair", disable=None) as bar,
    ):
        for rejects in results:
            rejected += sum(rejects.values())
            bar.set_postfix(rejected=rejected, refresh=False)
            bar.update()
    if remaining:
        seconds = time.monotonic() - start
        print(f"{len(remaining)} pairs in {seconds:.1f} s, {len(remaining) / seconds:.2f} pairs/s")


def finish(out: Path, maker: Maker, n: int) -> int:
    """Write manifest, summary and contact sheet. Returns the exit status."""
    records = output.write_manifest(out, maker.name, n)
    summary = output.make_summary(records, maker.summary())
    output.write_json(out / output.SUMMARY, summary)
    for reason, count in summary["rejects"].items():
        print(f"rejected  {count:>6}  {reason}")
    for reason, count in summary["material"].get("files_left_out", {}).items():
        print(f"left out  {count:>6}  files: {reason}")
    if columns := summary["material"].get("columns_left_out"):
        print(f"left out  {len(columns):>6}  columns whose numbers are not sure (first: {columns[0]})")
    if given_up := summary["given_up"]:
        print(
            f"warning: {len(given_up)} of {n} pairs were given up after {maker.max_attempts} attempts each, "
            f"{given_up[0]} the first; the manifest goes without them",
            file=sys.stderr,
        )
    if not summary["pairs"]:
        raise MakerError(f"{out}: not one of {n} pairs could be made; {out}/summary.json says why")
    pairs = load_pairs(out)
    sheet = io.BytesIO()
    contact_sheet([pairs[row] for row in sample_rows(len(pairs), SHEET_PAIRS, seed=0)]).save(sheet, "JPEG", quality=90)
    output.write_whole(out / output.SHEET, sheet.getvalue())
    print(
        f"{summary['pairs']} pairs in {out / MANIFEST_NAME}; median share of changed pixels "
        f"{summary['changed_pixels']['50%']:.1%}; look at {out / output.SHEET}"
    )
    return 0


if __name__ == "__main__":
    end_with_reader()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which schedulers send; stops a run as Ctrl-C does
    sys.exit(main())
