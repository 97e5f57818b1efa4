"""Download a published set of image pairs, from the Hub or from a local copy, into a folder that training reads.

    python -m vision_zero.make_data download magicbrush --out my/magicbrush --limit 1000
    python -m vision_zero.make_data download chartqa --source copies/ChartQA --out my/chartqa
    python -m vision_zero.make_data download somebody/edits --columns before after --out my/edits

Rows of tables are streamed: a limit of 1000 fetches about so many. A fetch that was stopped continues with the same
command.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import get_args

from tqdm import tqdm

from vision_zero.config.game import add_options, beside
from vision_zero.data.errors import LFS_ADVICE, PairSourceError, is_lfs_pointer
from vision_zero.make_data.download import sets
from vision_zero.make_data.download.imgedit import imgedit_candidates
from vision_zero.make_data.download.output import FetchProgress, add, finish, open_output
from vision_zero.make_data.maker import MakerError, option_values
from vision_zero.types import DOMAINS


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error, 130 for a stopped run."""
    args = parse(argv)
    try:
        published = chosen_set(args)
        source = None if args.source is None else str(args.source.resolve())
        same = {"source": source, "revision": args.revision, "part": args.part, "archives": args.archives}
        done = open_output(args.out, {**vars(published), **same}, args.limit)
        if done.n_seen:
            print(f"{done.n_kept} pairs are there already, {done.dropped.total()} were dropped")
        complete = fetch(islice(candidates(published, args), done.n_seen, None), published, args, done)
        finish(args.out, done, complete, with_manifest=published.layout != "chartqa")
    except KeyboardInterrupt:
        print(f"stopped; what was fetched is kept in {args.out}, the same command continues", file=sys.stderr)
        return 130
    except (PairSourceError, MakerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason, count in done.dropped.most_common():
        print(f"dropped  {count:>6}  {reason}")
    print(f"{done.n_kept} pairs in {args.out}{'' if complete else '; the set has more'}")
    return 0 if done.n_kept else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vision_zero.make_data download", description=__doc__.split("\n")[0]
    )
    parser.add_argument("set", help=f"{', '.join(sets.SETS)}, or OWNER/NAME of any data set on the Hub")
    add_options(parser, beside(__file__), layout=get_args(sets.Layout), domain=DOMAINS)
    return parser.parse_args(argv)


def chosen_set(args: argparse.Namespace) -> sets.PublishedSet:
    """A known set, or any other of the Hub as a table, changed by the options. Raises PairSourceError."""
    if args.set not in sets.SETS and args.set.count("/") != 1:
        raise PairSourceError(f"{args.set}: not a known set ({', '.join(sets.SETS)}) and not OWNER/NAME")
    changes = option_values(args, "layout", "domain", "split", "columns")
    return replace(sets.SETS.get(args.set, sets.PublishedSet(args.set)), **changes)


def fetch(
    offered: Iterator[sets.Candidate], published: sets.PublishedSet, args: argparse.Namespace, done: FetchProgress
) -> bool:
    """Add candidates up to the limit. Returns True if the source has no more."""
    with tqdm(total=args.limit, initial=done.n_kept, desc=args.set, unit="pair", disable=None) as bar:
        while args.limit is None or done.n_kept < args.limit:
            candidate = next(offered, None)
            if candidate is None:
                return True
            add(args.out, candidate, published.domain, done)
            bar.update(done.n_kept - bar.n)
    return False


def candidates(published: sets.PublishedSet, args: argparse.Namespace) -> Iterator[sets.Candidate]:
    """All of the set, always in the same order. Raises PairSourceError for any error of the network and the Hub."""
    files = sets.Files(published.repo, args.revision, args.source)
    if args.source is not None and not args.source.is_dir():
        raise PairSourceError(f"{args.source}: no such folder; --source is a folder that holds the set's files")
    try:
        if published.layout == "table":
            yield from sets.table_rows(files, published)
        elif published.layout == "imgedit":
            yield from imgedit_candidates(files, args.part, args.archives)
        else:
            yield from sets.file_candidates(files, published)
    except PairSourceError:
        raise
    except Exception as error:  # a dozen unrelated types from httpx, fsspec, datasets and huggingface_hub
        text = " ".join(str(error).split()) or type(error).__name__
        if args.source is not None:
            pointers = [one for name in files.names() if is_lfs_pointer(one := args.source / name)]
            if pointers:
                raise PairSourceError(f"{pointers[0]} {LFS_ADVICE}") from error
            text = f"{args.source}: cannot be read as {published.layout}, split {published.split}: {text}"
            raise PairSourceError(text) from error
        raise PairSourceError(
            f"{published.repo} cannot be fetched: {text}. Without a way to the Hub from here: where there is one, run "
            f"`hf download --repo-type dataset {published.repo} --local-dir FOLDER`, and give --source FOLDER here. "
            "What was fetched is kept."
        ) from error
