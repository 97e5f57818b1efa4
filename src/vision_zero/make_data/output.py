"""The folder that made pairs go to: begun with options it keeps, continued with the same, finished with a manifest.

    OUT/options.json     what the pairs are made with; with other options they would be others
    OUT/images  OUT/records  OUT/FOLDER     pair by pair, see `made_files`
    OUT/manifest.jsonl   all pairs in order, read by `load_pairs`
    OUT/summary.json     counts, rejects by reason, how much the edits change

Nothing in it depends on the time or the number of workers, so two runs of the same options end with the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision_zero.data.folders import MANIFEST_NAME, PairSourceError, read_json
from vision_zero.make_data.maker import MadePair, Make, Maker, MakingError, Rejected, attempt_rng

MATERIAL = "material"
"""The option that is a fingerprint of the user's files."""
OPTIONS, SUMMARY, SHEET, LOCK = "options.json", "summary.json", "sheet.jpg", ".lock"
FILES = frozenset({OPTIONS, SUMMARY, SHEET, LOCK, MANIFEST_NAME})
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class Begun:
    """A folder that is ready: which of its pairs are still to make, and how many of those were there damaged."""

    todo: Sequence[int]
    n_damaged: int


@contextmanager
def begin(out: Path, name: str, options: Mapping[str, Any], n: int) -> Iterator[Begun]:
    """A new or empty folder, or one that was begun with the same options; nobody else writes to it in the block.

    Raises MakingError for a folder of other things, of other options (both values are named), of more than `n` pairs,
    or that another run has open.
    """
    with ExitStack() as opened:
        try:
            _check_place(out)
            out.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context(open(out / LOCK, "w", encoding="utf-8"))
            _lock(lock.fileno(), out)
            _remove_parts(out)
            _check_contents(out, name)
            _keep_options(out, options, n)
            begun = _todo(out, name, n)
        except OSError as error:
            raise MakingError(f"{error.filename or out}: cannot be used: {error.strerror or error}") from error
        yield begun


def write_manifest(out: Path, name: str, n: int) -> list[dict[str, Any]]:
    """Write manifest.jsonl of pairs 0 to n - 1 that were not given up; returns the records of all."""
    records = [_read(record_path(out, name, number)) for number in range(n)]
    lines = [
        {
            "id": record["id"],
            "image": f"{IMAGES}/{record['id']}_original.png",
            "edited": f"{IMAGES}/{record['id']}_modified.png",
            "domain": record["domain"],
            "meta": record["meta"],
        }
        for record in records
        if not record["given_up"]
    ]
    write_whole(out / MANIFEST_NAME, b"".join(to_json(line, line["id"]) for line in lines))
    return records


def summarize(records: Sequence[Mapping[str, Any]], material: Mapping[str, Any]) -> dict[str, Any]:
    """Counts over the records. `changed_pixels`: quantiles, percent -> share. `material`: what the maker says."""
    rejects: Counter[str] = Counter()
    for record in records:
        rejects.update(record["rejects"])
    changed = [record["changed"] for record in records if not record["given_up"]]
    return {
        "pairs": len(changed),
        "given_up": [record["id"] for record in records if record["given_up"]],
        "attempts": len(changed) + rejects.total(),
        "rejects": dict(sorted(rejects.items(), key=lambda item: (-item[1], item[0]))),
        "changed_pixels_by_more_than": VISIBLE_CHANGE,
        "changed_pixels": {
            f"{percent}%": round(float(np.percentile(changed, percent)), 4) for percent in QUANTILES if changed
        },
        "material": dict(material),
    }


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    text = json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False)
    write_whole(out / SUMMARY, (text + "\n").encode())


def _check_place(out: Path) -> None:
    """Refuse what is there and is not ours before anything of ours is put beside it."""
    if out.exists() and not out.is_dir():
        raise MakingError(f"{out}: is a file; --out is a folder")
    if out.is_dir() and not (out / OPTIONS).is_file():
        found = [name for name in sorted(os.listdir(out)) if name != LOCK and not name.endswith(TEMPORARY)]
        if found:
            raise MakingError(f"{out}: holds {found[0]} and was not begun by this program; give an empty folder")


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise MakingError(f"{out}: another run is making pairs in it; wait for it or give another --out") from error


def _remove_parts(out: Path) -> None:
    for part in (*out.glob(f".*{TEMPORARY}"), *out.glob(f"*/.*{TEMPORARY}")):
        part.unlink(missing_ok=True)


def _check_contents(out: Path, name: str) -> None:
    """Everything in the folder is one of FILES or, one folder down, a file of a pair. Raises MakingError."""
    of_a_pair = re.compile(re.escape(name) + r"_\d{6,}(_[a-z0-9_]+)?\.(png|json)")
    foreign = [entry for entry in sorted(os.listdir(out)) if entry not in FILES and not (out / entry).is_dir()]
    for folder in sorted(entry for entry in os.listdir(out) if (out / entry).is_dir()):
        foreign += [f"{folder}/{file}" for file in os.listdir(out / folder) if not of_a_pair.fullmatch(file)]
    if foreign:
        raise MakingError(
            f"{out}: holds {min(foreign)}, which is no file of pairs {pair_name(name, 0)} and so on; move it away"
        )


def _keep_options(out: Path, options: Mapping[str, Any], n: int) -> None:
    path = out / OPTIONS
    now = json.loads(to_json({**options, "n": n}, "options"))
    if path.is_file():
        kept = written = _read(path)
        if type(kept.get("n")) is not int:
            raise MakingError(f"{path}: has no whole number n; remove the folder and make it again")
        if not any((out / RECORDS).glob("*.json")):
            kept = now  # it ended before its first pair, say for a misspelt option
        different = [key for key in sorted(kept.keys() | now.keys()) if key != "n" and kept.get(key) != now.get(key)]
        if different == [MATERIAL]:
            raise MakingError(
                f"{out}: was begun with other files (photographs, tables or instructions), which its pairs show; "
                "put the files back, or give another --out"
            )
        if different:
            named = "; ".join(f"--{key} was {kept.get(key)!r}, is {now.get(key)!r}" for key in different)
            raise MakingError(f"{out}: was begun with other options ({named}); give the same ones or another --out")
        if kept["n"] > n:
            raise MakingError(f"{out}: was begun with --n {kept['n']}, now it is {n}; give as many or more, not fewer")
        if written == now:
            return
    write_whole(path, (json.dumps(now, ensure_ascii=False, indent=1) + "\n").encode())


def _todo(out: Path, name: str, n: int) -> Begun:
    (out / RECORDS).mkdir(exist_ok=True)
    recorded = set(os.listdir(out / RECORDS))
    todo: list[int] = []
    n_damaged = 0
    for number in range(n):
        if f"{pair_name(name, number)}.json" not in recorded:
            todo.append(number)
        elif not _is_whole(out, record_path(out, name, number)):
            todo.append(number)
            n_damaged += 1
    return Begun(todo, n_damaged)


def _is_whole(out: Path, record: Path) -> bool:
    """Whether the record can be read and its files have the length that it says: after a power cut they may not."""
    try:
        sizes = json.loads(record.read_bytes())["bytes"]
        return all((out / file).stat().st_size == size for file, size in sizes.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except PairSourceError as error:
        raise MakingError(f"{error}; remove the folder and make it again") from error
    if not isinstance(value, dict):
        raise MakingError(f"{path}: expected a JSON object; remove the folder and make it again")
    return value


# ------------------------------------------------------------------------------------------------------ files of a pair

# The files of one made pair, and how they get to disk: whole or not at all, the pair's record last.
#
#     OUT/images/NAME_original.png  OUT/images/NAME_modified.png  OUT/FOLDER/NAME_SUFFIX.json  OUT/records/NAME.json
#
# A pair whose record is there is done. A killed run leaves no half of a file: each is written under another name and
# renamed.


IMAGES, RECORDS = "images", "records"
TEMPORARY = ".part"
VISIBLE_CHANGE = 25
"""A pixel has changed if one of its channels differs by more than this, of 255."""

_DOCUMENT = re.compile(r"([a-z0-9_]+)/([a-z0-9_]+)")


@dataclass(frozen=True)
class Outcome:
    """What became of pair `number`: made or given up, and how often attempts at it were rejected, by reason."""

    number: int
    given_up: bool
    rejects: Mapping[str, int]


@dataclass(frozen=True)
class PairJob:
    """What a worker does with a number: `make_and_write` with a maker that is open."""

    maker: Maker
    seed: int
    out: Path

    @contextmanager
    def open(self) -> Iterator[Callable[[int], Outcome]]:
        with self.maker.open() as make:
            yield lambda number: make_and_write(self.maker, make, self.seed, number, self.out)

    def describe(self, number: int) -> str:
        return f"pair {pair_name(self.maker.name, number)} of seed {self.seed}"


def pair_name(name: str, number: int) -> str:
    return f"{name}_{number:06d}"


def record_path(out: Path, name: str, number: int) -> Path:
    return out / RECORDS / f"{pair_name(name, number)}.json"


def make_and_write(maker: Maker, make: Make, seed: int, number: int, out: Path) -> Outcome:
    """Pair `number` from its attempts to its record. Raises MakingError for what cannot be written."""
    made, rejects = attempt_pair(maker, make, seed, number)
    name = pair_name(maker.name, number)
    files = {} if made is None else _encode(made, name)
    record = {"id": name, "given_up": made is None, "rejects": rejects}
    if made is not None:
        record |= {
            "domain": maker.domain,
            "meta": dict(made.meta),
            "changed": round(changed_share(made.original, made.edited), 6),
        }
    record["bytes"] = {file: len(data) for file, data in files.items()}
    files[f"{RECORDS}/{name}.json"] = to_json(record, f"the meta of pair {name}")
    for file, data in files.items():
        write_whole(out / file, data)
    return Outcome(number, made is None, rejects)


def attempt_pair(maker: Maker, make: Make, seed: int, number: int) -> tuple[MadePair | None, dict[str, int]]:
    """The first attempt that is not rejected, or None after `max_attempts`; and the rejects by reason."""
    rejects: Counter[str] = Counter()
    for attempt in range(maker.max_attempts):
        try:
            return make(attempt_rng(maker.name, seed, number, attempt), number), dict(rejects)
        except Rejected as rejected:
            rejects[str(rejected)] += 1
    return None, dict(rejects)


def changed_share(original: Image.Image, edited: Image.Image) -> float:
    """Share of the pixels, 0 to 1, of which a channel differs by more than VISIBLE_CHANGE."""
    before, after = (np.asarray(image, dtype=np.int16) for image in (original, edited))
    return float((np.abs(before - after).max(axis=2) > VISIBLE_CHANGE).mean())


def to_json(value: Any, what: str) -> bytes:
    """Raises MakingError, which names `what`, for a value that is no JSON (NaN is none)."""
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise MakingError(f"{what} cannot be written as JSON: {error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is seen whole or not at all. Raises MakingError with the path and what to do."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room and run the same command again, it continues" if full else "is the folder writable?"
        raise MakingError(f"{path}: cannot be written: {error.strerror}; {advice}") from error


def _encode(made: MadePair, name: str) -> dict[str, bytes]:
    """The pair's files by their paths in OUT. Raises MakingError for a pair that no maker should return."""
    for image in (made.original, made.edited):
        if image.mode != "RGB" or image.size != made.original.size:
            raise MakingError(
                f"pair {name}: its maker gave {made.original.mode} {made.original.size} and {made.edited.mode} "
                f"{made.edited.size}; both images must be RGB and of one size"
            )
    files = {
        f"{IMAGES}/{name}_original.png": _png(made.original),
        f"{IMAGES}/{name}_modified.png": _png(made.edited),
    }
    for key, document in made.documents.items():
        match = _DOCUMENT.fullmatch(key)
        if match is None or match[1] in (IMAGES, RECORDS):
            raise MakingError(f"pair {name}: its maker named a document {key!r}; it must be FOLDER/SUFFIX, not images")
        file = f"{match[1]}/{name}_{match[2]}.json"
        files[file] = to_json(document, file)
    return files


def _png(image: Image.Image) -> bytes:
    # Pixels alone: Pillow would also write the colour profile that the image's file had.
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    stream = io.BytesIO()
    bare.save(stream, "PNG")
    return stream.getvalue()
