"""Download a published set of image pairs, from the Hub or from a local copy, into a folder that training reads.

    python -m vision_zero.make_data download magicbrush --out my/magicbrush --limit 1000
    python -m vision_zero.make_data download chartqa --source copies/ChartQA --out my/chartqa
    python -m vision_zero.make_data download somebody/edits --columns before after --out my/edits

Rows of tables are streamed: a limit of 1000 fetches about so many. A fetch that was stopped continues with the same
command. Fetched pairs are kept, dropped candidates are counted by reason:

    OUT/source.json      the source; a stopped download continues with the same
    OUT/fetched.jsonl    one line per candidate, in order: the manifest's row, or why it was dropped
    OUT/images ...       the files, as they were published
    OUT/manifest.jsonl   at the end, the rows that were kept; not for ChartQA, whose folders are a layout themselves
    OUT/summary.json     counts
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, get_args

from PIL import Image
from tqdm import tqdm

from vision_zero.config.game import add_options, beside
from vision_zero.data.errors import LFS_ADVICE, BadImageError, PairSourceError, is_lfs_pointer
from vision_zero.data.folders import MANIFEST_NAME, read_json
from vision_zero.data.image_files import decode_bytes
from vision_zero.data.pairs import open_pair
from vision_zero.make_data.download import sets
from vision_zero.make_data.download.imgedit import imgedit_candidates
from vision_zero.make_data.maker import MakerError, option_values
from vision_zero.make_data.output import to_json, write_json, write_whole
from vision_zero.types import DOMAINS, Domain, ImagePair

SOURCE, JOURNAL, SUMMARY = "source.json", "fetched.jsonl", "summary.json"
KEPT = ""
FetchProgress: TypeAlias = Counter[str]
"""Candidates by why they were dropped, which is KEPT for those that were not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error, 130 for a stopped run."""
    args = parse(argv)
    try:
        published = chosen_set(args)
        source = None if args.source is None else str(args.source.resolve())
        same = {"source": source, "revision": args.revision, "part": args.part, "archives": args.archives}
        done = open_folder(args.out, {**vars(published), **same}, args.limit)
        if n_seen := done.total():
            print(f"{done[KEPT]} pairs are there already, {n_seen - done[KEPT]} were dropped")
        complete = fetch(islice(candidates(published, args), n_seen, None), published, args, done)
        finish(args.out, done, complete, with_manifest=published.layout != "chartqa")
    except KeyboardInterrupt:
        print(f"stopped; what was fetched is kept in {args.out}, the same command continues", file=sys.stderr)
        return 130
    except (PairSourceError, MakerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason, count in dropped(done).items():
        print(f"dropped  {count:>6}  {reason}")
    print(f"{done[KEPT]} pairs in {args.out}{'' if complete else '; the set has more'}")
    return 0 if done[KEPT] else 1


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


def dropped(done: FetchProgress) -> dict[str, int]:
    return {reason: count for reason, count in done.most_common() if reason != KEPT}


def fetch(
    offered: Iterator[sets.Candidate], published: sets.PublishedSet, args: argparse.Namespace, done: FetchProgress
) -> bool:
    """Add candidates up to the limit. Returns True if the source has no more."""
    with tqdm(total=args.limit, initial=done[KEPT], desc=args.set, unit="pair", disable=None) as bar:
        while args.limit is None or done[KEPT] < args.limit:
            candidate = next(offered, None)
            if candidate is None:
                return True
            done[add(args.out, candidate, published.domain)] += 1
            bar.update(done[KEPT] - bar.n)
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
            with sets.open_files(files) as found:
                chartqa = published.layout == "chartqa"
                yield from sets.charts(files, found, published.split) if chartqa else sets.pairs(files, found)
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


@dataclass(frozen=True)
class _Encoded:
    """An encoded image in memory, without a name: its errors are counted as reasons."""

    data: bytes
    name: str = ""

    def open(self) -> Image.Image:
        return decode_bytes(self.data, self.name)


def open_folder(out: Path, source: Mapping[str, Any], limit: int | None) -> FetchProgress:
    """Open a new or empty folder, or one that was started with the same source. Raises PairSourceError for others."""
    now = json.loads(json.dumps(dict(source)))
    if (out / SOURCE).is_file():
        before = read_json(out / SOURCE)
        alone = set(os.listdir(out)) == {SOURCE}  # it failed before its first pair
        if not isinstance(before, dict) or "repo" not in before or not (alone or (out / JOURNAL).is_file()):
            raise PairSourceError(f"{out / SOURCE}: was not written by this program; give an empty folder")
        different = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
        if different and (out / JOURNAL).is_file():  # else it failed before its first pair, say for a misspelt option
            named = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in different)
            raise PairSourceError(f"{out}: another source was begun there ({named}); give another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PairSourceError(f"{out}: is there already and was not begun by this program; give an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / SOURCE, to_json(now, SOURCE))
    done = Counter(line.get("dropped", KEPT) for line in _lines(out))
    if limit is not None and done[KEPT] > limit:
        raise PairSourceError(f"{out}: holds {done[KEPT]} pairs already, more than --limit {limit}")
    return done


def add(out: Path, candidate: sets.Candidate, domain: Domain) -> str:
    """Keep the candidate if its images can be used; append a line to the journal. Returns the reason, or KEPT."""
    problem = candidate.problem or _problem(candidate)
    line: dict[str, Any] = {"id": candidate.id, "dropped": problem}
    if problem == KEPT:
        for path, data in candidate.files.items():
            write_whole(out / path, data)
        edited = {} if candidate.edited is None else {"edited": candidate.edited}
        line = {"id": candidate.id, "image": candidate.image, **edited, "domain": domain, "meta": dict(candidate.meta)}
    try:
        with open(out / JOURNAL, "ab") as journal:
            journal.write(to_json(line, f"row {candidate.id}"))
    except OSError as error:
        reason = f"{out / JOURNAL}: cannot be written: {error.strerror}; the same command continues"
        raise MakerError(reason) from error
    return problem


def finish(out: Path, done: FetchProgress, complete: bool, with_manifest: bool) -> None:
    """Write the manifest and the summary. `complete`: the source has no more."""
    if with_manifest:
        rows = (to_json(line, line["id"]) for line in _lines(out) if "dropped" not in line)
        write_whole(out / MANIFEST_NAME, b"".join(rows))
    write_json(out / SUMMARY, {"kept": done[KEPT], "dropped": dropped(done), "source_complete": complete})


def _problem(candidate: sets.Candidate) -> str:
    image = _Encoded(candidate.files[candidate.image])
    edited = None if candidate.edited is None else _Encoded(candidate.files[candidate.edited])
    try:
        before, after = open_pair(ImagePair(candidate.id, image, edited))
    except BadImageError as error:
        sizes = "aspect ratios" in str(error)
        return "the aspect ratios of the two images differ" if sizes else str(error).removeprefix(": ").split(":")[0]
    same = after is not None and before.tobytes() == after.tobytes()
    return "the edited image equals the original" if same else KEPT


def _lines(out: Path) -> Iterator[dict[str, Any]]:
    """Lines of the journal. An unfinished last line, left by a killed run, is removed from the file."""
    path = out / JOURNAL
    if not path.is_file():
        return
    with open(path, "r+b") as journal:
        for number, line in enumerate(journal, start=1):
            if not line.endswith(b"\n"):
                os.truncate(path, journal.tell() - len(line))
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise PairSourceError(f"{path}, line {number}: not valid JSON; fetch into another folder") from error
