"""Fetch a ready-made set of image pairs into a folder that training reads, from the Hub or from a local copy.

    python -m vision_zero.make_data download magicbrush --out my/magicbrush --limit 1000
    python -m vision_zero.make_data download chartqa --source copies/ChartQA --out my/chartqa
    python -m vision_zero.make_data download somebody/edits --columns before after --out my/edits

Rows are streamed: a limit of 1000 fetches about so many. A fetch that was stopped continues with the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from vision_zero.data.folders import PairSourceError
from vision_zero.inspect_data import positive
from vision_zero.make_data.download import output
from vision_zero.make_data.download.candidates import (
    Candidate,
    chartqa_candidates,
    official_candidates,
    table_candidates,
)
from vision_zero.make_data.download.hub import SETS, HubError, Layout, Place, PublishedSet, hub_place, local_place
from vision_zero.make_data.download.imgedit import imgedit_candidates
from vision_zero.make_data.maker import MakingError
from vision_zero.types import DOMAINS


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error, 130 when it was stopped."""
    args = parse(argv)
    try:
        published = chosen_set(args)
        done = output.begin(args.out, described(published, args), args.limit)
        if done.n_seen:
            print(f"{done.n_kept} pairs are there already, {done.dropped.total()} were dropped")
        complete = fetch(published, args, done)
        output.finish(args.out, done, complete, with_manifest=published.layout != "chartqa")
    except KeyboardInterrupt:
        print(f"stopped; what was fetched is kept in {args.out}, the same command continues", file=sys.stderr)
        return 130
    except (PairSourceError, HubError, MakingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason, count in done.dropped.most_common():
        print(f"dropped  {count:>6}  {reason}")
    print(f"{done.n_kept} pairs in {args.out}{'' if complete else '; the set has more'}")
    return 0 if done.n_kept else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vision_zero.make_data download", description="Fetch a set of pairs."
    )
    parser.add_argument("set", help=f"{', '.join(SETS)}, or OWNER/NAME of any data set on the Hub")
    parser.add_argument("--out", type=Path, required=True, help="folder, new or begun by the same command")
    parser.add_argument("--source", type=Path, help="folder with the set's files; fetches nothing from the network")
    parser.add_argument("--limit", type=positive, help="pairs to keep (default: all)")
    parser.add_argument("--split", help="part of the set (default: train; ultraedit-500k: FreeForm)")
    parser.add_argument("--revision", help="commit or tag on the Hub (default: the newest)")
    parser.add_argument(
        "--columns", nargs=2, metavar=("IMAGE", "EDITED"), help="columns of a table (default: known ones)"
    )
    parser.add_argument("--layout", choices=get_args(Layout), help="how the set is laid out (default: as known)")
    parser.add_argument("--domain", choices=DOMAINS, help="wording of the prompts (default: as known, else photos)")
    parser.add_argument("--part", help="imgedit: the file of Parquet/ without its ending, as remove_part5")
    parser.add_argument("--archives", help="imgedit: beginning of the names of the archives in Singleturn/")
    return parser.parse_args(argv)


def chosen_set(args: argparse.Namespace) -> PublishedSet:
    """A known set, or any of the Hub as a table, with what the options change. Raises PairSourceError."""
    published = SETS.get(args.set)
    if published is None:
        if args.set.count("/") != 1:
            raise PairSourceError(f"{args.set}: not a known set ({', '.join(SETS)}) and not OWNER/NAME")
        published = PublishedSet(args.set, "table", "photos")
    changes = {name: getattr(args, name) for name in ("layout", "domain", "split") if getattr(args, name) is not None}
    if args.columns is not None:
        changes["columns"] = tuple(args.columns)
    return replace(published, **changes)


def described(published: PublishedSet, args: argparse.Namespace) -> dict[str, object]:
    """What must be the same for a fetch to be continued."""
    source = None if args.source is None else str(args.source.resolve())
    return {
        **vars(published),
        "source": source,
        "revision": args.revision,
        "part": args.part,
        "archives": args.archives,
    }


def fetch(published: PublishedSet, args: argparse.Namespace, done: output.Fetched) -> bool:
    """Take candidates until there are enough or no more; whether there are no more."""
    candidates = open_candidates(published, args, done.n_seen)
    with tqdm(total=args.limit, initial=done.n_kept, desc=args.set, unit="pair", disable=None) as bar:
        while args.limit is None or done.n_kept < args.limit:
            candidate = next_candidate(candidates, published, args.source)
            if candidate is None:
                return True
            output.add(args.out, candidate, published.domain, done)
            bar.update(done.n_kept - bar.n)
    return False


def next_candidate(candidates: Iterator[Candidate], published: PublishedSet, source: Path | None) -> Candidate | None:
    """None at the end. Raises HubError for whatever the network, the Hub or its libraries raise."""
    try:
        return next(candidates, None)
    except (PairSourceError, HubError, MakingError):
        raise
    except Exception as error:  # a dozen unrelated types from httpx, fsspec, datasets and huggingface_hub
        text = " ".join(str(error).split()) or type(error).__name__
        if source is not None:
            raise HubError(
                f"{source}: cannot be read as {published.layout}, split {published.split}: {text}"
            ) from error
        raise HubError(
            f"{published.repo} cannot be fetched: {text}\nWithout a way to the Hub from here: where there is one, run "
            f"`hf download --repo-type dataset {published.repo} --local-dir FOLDER`, and give --source FOLDER here. "
            "What was fetched is kept."
        ) from error


def open_candidates(published: PublishedSet, args: argparse.Namespace, start: int) -> Iterator[Candidate]:
    if published.layout == "table":
        where = published.repo if args.source is None else str(local_place(args.source).root)
        return table_candidates(where, published.split, published.columns, args.revision, start)
    place = place_of(published, args)
    if published.layout == "pairs":
        return official_candidates(place, start)
    if published.layout == "chartqa":
        return chartqa_candidates(place, published.split, start)
    return imgedit_candidates(place, args.part, args.archives, start)


def place_of(published: PublishedSet, args: argparse.Namespace) -> Place:
    return hub_place(published.repo, args.revision) if args.source is None else local_place(args.source)


if __name__ == "__main__":
    sys.exit(main())
