"""Output folder of a maker: started with some options, continued with the same ones, finished with a manifest.

    OUT/options.json     options that the pairs depend on
    OUT/images/NAME_original.png  OUT/images/NAME_modified.png  OUT/FOLDER/NAME_SUFFIX.json
    OUT/records/NAME.json     written last: a pair with a record is done
    OUT/manifest.jsonl   all pairs in order, read by `load_pairs`
    OUT/summary.json     counts, rejects by reason, how much the edits change

Files are written under another name and renamed, so a killed run leaves no partial file. Nothing in the folder depends
on the time or the number of workers: two runs of the same options end with the same bytes.
"""

import errno
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

from vision_zero.data.errors import PairSourceError
from vision_zero.data.folder_lock import LOCK, FolderLockedError, locked
from vision_zero.data.folders import CONTACT_SHEET, MANIFEST_NAME, read_json
from vision_zero.make_data.maker import VISIBLE_CHANGE, EditedPair, Maker, MakerError, attempt_pair, changed_share

MATERIAL = "material"  # key in options.json of the fingerprint of the user's files
OPTIONS, SUMMARY, SHEET = "options.json", "summary.json", CONTACT_SHEET
FILES = frozenset({OPTIONS, SUMMARY, SHEET, LOCK, MANIFEST_NAME})
IMAGES, RECORDS = "images", "records"
TEMPORARY = ".part"
QUANTILES = (0, 5, 25, 50, 75, 95, 100)

_DOCUMENT = re.compile(r"([a-z0-9_]+)/([a-z0-9_]+)")


@contextmanager
def open_output(out: Path, name: str, options: Mapping[str, Any], n: int) -> Iterator[list[int]]:
    """Open a new or empty folder, or one that was started with the same options, and lock it for the block.

    Yields the numbers of the pairs that are not made yet, and prints how many are, and how many have damaged files.
    Raises MakerError for a folder with foreign files, other options (both values are named) or more than `n` pairs, and
    for one that another run has open.
    """
    with ExitStack() as opened:
        try:
            _check_place(out)
            opened.enter_context(locked(out, keep_file=True))
            for part in (*out.glob(f".*{TEMPORARY}"), *out.glob(f"*/.*{TEMPORARY}")):
                part.unlink(missing_ok=True)
            _check_contents(out, name)
            _keep_options(out, options, n)
            remaining = _todo(out, name, n)
        except FolderLockedError as error:
            raise MakerError(
                f"{error}: another run is making pairs in it; wait for it or give another --out"
            ) from error
        except OSError as error:
            raise MakerError(f"{error.filename or out}: cannot be used: {error.strerror or error}") from error
        yield remaining


def write_manifest(out: Path, name: str, n: int) -> list[dict[str, Any]]:
    """Write manifest.jsonl of the pairs 0 to n - 1 that were not given up. Returns the records of all."""
    records = [_read(record_path(out, name, number)) for number in range(n)]
    lines = []
    for record in (one for one in records if not one["given_up"]):
        own, said = record["id"], {key: record[key] for key in ("domain", "meta")}
        images = {"image": f"{IMAGES}/{own}_original.png", "edited": f"{IMAGES}/{own}_modified.png"}
        lines.append(to_json({"id": own, **images, **said}, own))
    write_whole(out / MANIFEST_NAME, b"".join(lines))
    return records


def make_summary(records: Sequence[Mapping[str, Any]], material: Mapping[str, Any]) -> dict[str, Any]:
    """Counts over the records. `changed_pixels`: quantiles, percent -> share. `material`: the maker's own summary."""
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


def _check_place(out: Path) -> None:
    """Refuse a folder that another program made, before any file is written to it."""
    if out.exists() and not out.is_dir():
        raise MakerError(f"{out}: is a file; --out is a folder")
    if out.is_dir() and not (out / OPTIONS).is_file():
        found = [name for name in sorted(os.listdir(out)) if name != LOCK and not name.endswith(TEMPORARY)]
        if found:
            raise MakerError(f"{out}: holds {found[0]} and was not begun by this program; give an empty folder")


def _check_contents(out: Path, name: str) -> None:
    """Raises MakerError unless every file is one of FILES or, one folder down, a file of a pair."""
    of_a_pair = re.compile(re.escape(name) + r"_\d{6,}(_[a-z0-9_]+)?\.(png|json)")
    foreign = [entry for entry in os.listdir(out) if entry not in FILES and not (out / entry).is_dir()]
    for folder in (entry for entry in os.listdir(out) if (out / entry).is_dir()):
        foreign += [f"{folder}/{file}" for file in os.listdir(out / folder) if not of_a_pair.fullmatch(file)]
    if foreign:
        raise MakerError(
            f"{out}: holds {min(foreign)}, which is no file of pairs {pair_name(name, 0)} and so on; move it away"
        )


def _keep_options(out: Path, options: Mapping[str, Any], n: int) -> None:
    path = out / OPTIONS
    now = json.loads(to_json({**options, "n": n}, "options"))
    if path.is_file():
        kept = written = _read(path)
        if type(kept.get("n")) is not int or "domain" not in kept:
            raise MakerError(f"{path}: has no whole number n and domain, it is not of this program; give another --out")
        if not any((out / RECORDS).glob("*.json")):
            kept = now  # it ended before its first pair, say for a misspelt option
        different = [key for key in sorted(kept.keys() | now.keys()) if key != "n" and kept.get(key) != now.get(key)]
        if different == [MATERIAL]:
            raise MakerError(
                f"{out}: was begun with other files (photographs, tables or instructions), which its pairs show; "
                "put the files back, or give another --out"
            )
        if different:
            named = "; ".join(f"--{key} was {kept.get(key)!r}, is {now.get(key)!r}" for key in different)
            raise MakerError(f"{out}: was begun with other options ({named}); give the same ones or another --out")
        if kept["n"] > n:
            raise MakerError(f"{out}: was begun with --n {kept['n']}, now it is {n}; give as many or more, not fewer")
        if written == now:
            return
    write_json(path, now)


def _todo(out: Path, name: str, n: int) -> list[int]:
    (out / RECORDS).mkdir(exist_ok=True)
    recorded = set(os.listdir(out / RECORDS))
    paths = {number: record_path(out, name, number) for number in range(n)}
    missing = [number for number, path in paths.items() if path.name not in recorded]
    damaged = [number for number, path in paths.items() if path.name in recorded and not _is_whole(out, path)]
    remaining = sorted([*missing, *damaged])
    n_there = n - len(remaining) - len(damaged)
    if n_there or damaged:
        print(f"{n_there} of {n} pairs are there already")
    if damaged:
        print(f"{len(damaged)} pairs had missing or cut files and are made again")
    return remaining


def _is_whole(out: Path, record: Path) -> bool:
    """True if the record can be read and the pair's files have the recorded sizes; after a power cut they may not."""
    try:
        sizes = json.loads(record.read_bytes())["bytes"]
        return all((out / file).stat().st_size == size for file, size in sizes.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except PairSourceError as error:
        raise MakerError(f"{error}; remove the folder and make it again") from error
    if not isinstance(value, dict):
        raise MakerError(f"{path}: expected a JSON object; remove the folder and make it again")
    return value


def pair_name(name: str, number: int) -> str:
    return f"{name}_{number:06d}"


def record_path(out: Path, name: str, number: int) -> Path:
    return out / RECORDS / f"{pair_name(name, number)}.json"


@dataclass(frozen=True)
class PairJob:
    """Job of a worker: make the pair of a number and write it, its record last. Its result: the rejects by reason."""

    maker: Maker
    seed: int
    out: Path

    @contextmanager
    def open(self) -> Iterator[Callable[[int], dict[str, int]]]:
        with self.maker.open() as make:
            yield lambda number: self._write(number, *attempt_pair(self.maker, make, self.seed, number))

    def describe(self, number: int) -> str:
        return f"pair {pair_name(self.maker.name, number)} of seed {self.seed}"

    def _write(self, number: int, pair: EditedPair | None, rejects: dict[str, int]) -> dict[str, int]:
        """Returns the rejects. Raises MakerError for a pair that cannot be written."""
        name = pair_name(self.maker.name, number)
        record: dict[str, Any] = {"id": name, "given_up": pair is None, "rejects": rejects}
        files: dict[str, bytes] = {}
        if pair is not None:
            files = _encode(pair, name)
            changed = round(changed_share(pair.original, pair.edited), 6)
            record |= {"domain": self.maker.domain, "meta": dict(pair.meta), "changed": changed}
        record["bytes"] = {file: len(data) for file, data in files.items()}
        files[f"{RECORDS}/{name}.json"] = to_json(record, f"the meta of pair {name}")
        for file, data in files.items():
            write_whole(self.out / file, data)
        return rejects


def to_json(value: Any, what: str) -> bytes:
    """One line of JSON. Raises MakerError, which names `what`, for a value that JSON does not have, such as NaN."""
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise MakerError(f"{what} cannot be written as JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: under another name, then renamed. Raises MakerError with the path and what to do."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room and run the same command again, it continues" if full else "is the folder writable?"
        raise MakerError(f"{path}: cannot be written: {error.strerror}; {advice}") from error


def _encode(pair: EditedPair, name: str) -> dict[str, bytes]:
    """The pair's files by their paths in OUT. Raises MakerError for images or documents that break the interface."""
    for image in (pair.original, pair.edited):
        if image.mode != "RGB" or image.size != pair.original.size:
            raise MakerError(
                f"pair {name}: its maker gave {pair.original.mode} {pair.original.size} and {pair.edited.mode} "
                f"{pair.edited.size}; both images must be RGB and of one size"
            )
    files = {f"{IMAGES}/{name}_original.png": _png(pair.original), f"{IMAGES}/{name}_modified.png": _png(pair.edited)}
    for key, document in pair.documents.items():
        match = _DOCUMENT.fullmatch(key)
        if match is None or match[1] in (IMAGES, RECORDS):
            raise MakerError(f"pair {name}: its maker named a document {key!r}; it must be FOLDER/SUFFIX, not images")
        file = f"{match[1]}/{name}_{match[2]}.json"
        files[file] = to_json(document, file)
    return files


def _png(image: Image.Image) -> bytes:
    # Pixels alone: Pillow would also write the colour profile that the image's file had.
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    stream = io.BytesIO()
    bare.save(stream, "PNG")
    return stream.getvalue()
