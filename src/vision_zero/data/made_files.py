"""The files of one made pair, and how they get to disk: whole or not at all, the pair's record last.

    OUT/images/NAME_original.png  OUT/images/NAME_modified.png  OUT/FOLDER/NAME_SUFFIX.json  OUT/records/NAME.json

A pair whose record is there is done. A killed run leaves no half of a file: each is written under another name and
renamed.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision_zero.data.making import MadePair, Make, Maker, MakingError, Rejected, attempt_rng

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
