"""Output folder of a download: fetched pairs are kept, dropped candidates are counted by reason.

OUT/source.json      the source; a stopped download continues with the same
OUT/fetched.jsonl    one line per candidate, in order: the manifest's row, or why it was dropped
OUT/images ...       the files, as they were published
OUT/manifest.jsonl   at the end, the rows that were kept; not for ChartQA, whose folders are a layout themselves
OUT/summary.json     counts
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vision_zero.data.errors import BadImageError, PairSourceError
from vision_zero.data.folders import MANIFEST_NAME, read_json
from vision_zero.data.image_files import decode_bytes
from vision_zero.data.validation import open_pair
from vision_zero.make_data.download.sets import Candidate
from vision_zero.make_data.maker import MakerError
from vision_zero.make_data.output import to_json, write_json, write_whole
from vision_zero.types import Domain, ImagePair

SOURCE, JOURNAL, SUMMARY = "source.json", "fetched.jsonl", "summary.json"


@dataclass
class FetchProgress:
    """Progress of a download: candidates seen, pairs kept, candidates dropped by reason."""

    n_seen: int = 0
    n_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def count(self, line: Mapping[str, Any]) -> None:
        """Count a line of the journal."""
        self.n_seen += 1
        self.n_kept += "dropped" not in line
        self.dropped.update([line["dropped"]] if "dropped" in line else [])


@dataclass(frozen=True)
class _Encoded:
    """An encoded image in memory, without a name: its errors are counted as reasons."""

    data: bytes
    name: str = ""

    def open(self) -> Image.Image:
        return decode_bytes(self.data, self.name)


def open_output(out: Path, source: Mapping[str, Any], limit: int | None) -> FetchProgress:
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
    done = FetchProgress()
    for line in _lines(out):
        done.count(line)
    if limit is not None and done.n_kept > limit:
        raise PairSourceError(f"{out}: holds {done.n_kept} pairs already, more than --limit {limit}")
    return done


def add(out: Path, candidate: Candidate, domain: Domain, done: FetchProgress) -> None:
    """Keep the candidate if its images can be used, else count the reason; append a line to the journal."""
    problem = candidate.problem or _problem(candidate)
    line: dict[str, Any] = {"id": candidate.id, "dropped": problem}
    if problem is None:
        for path, data in candidate.files.items():
            write_whole(out / path, data)
        edited = {} if candidate.edited is None else {"edited": candidate.edited}
        line = {"id": candidate.id, "image": candidate.image, **edited, "domain": domain, "meta": dict(candidate.meta)}
    done.count(line)
    try:
        with open(out / JOURNAL, "ab") as journal:
            journal.write(to_json(line, f"row {candidate.id}"))
    except OSError as error:
        reason = f"{out / JOURNAL}: cannot be written: {error.strerror}; the same command continues"
        raise MakerError(reason) from error


def finish(out: Path, done: FetchProgress, complete: bool, with_manifest: bool) -> None:
    """Write the manifest and the summary. `complete`: the source has no more."""
    if with_manifest:
        rows = (to_json(line, line["id"]) for line in _lines(out) if "dropped" not in line)
        write_whole(out / MANIFEST_NAME, b"".join(rows))
    summary = {"kept": done.n_kept, "dropped": dict(done.dropped.most_common()), "source_complete": complete}
    write_json(out / SUMMARY, summary)


def _problem(candidate: Candidate) -> str | None:
    """Reason why the images cannot be used; None if they can."""
    image = _Encoded(candidate.files[candidate.image])
    edited = None if candidate.edited is None else _Encoded(candidate.files[candidate.edited])
    try:
        before, after = open_pair(ImagePair(candidate.id, image, edited))
    except BadImageError as error:
        sizes = "aspect ratios" in str(error)
        return "the aspect ratios of the two images differ" if sizes else str(error).removeprefix(": ").split(":")[0]
    same = after is not None and before.tobytes() == after.tobytes()
    return "the edited image equals the original" if same else None


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
