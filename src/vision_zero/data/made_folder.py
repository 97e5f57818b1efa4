"""The folder that made pairs go to: begun with options it keeps, continued with the same, finished with a manifest.

    OUT/options.json     what the pairs are made with; with other options they would be others
    OUT/images  OUT/records  OUT/FOLDER     pair by pair, see `made_files`
    OUT/manifest.jsonl   all pairs in order, read by `load_pairs`
    OUT/summary.json     counts, rejects by reason, how much the edits change

Nothing in it depends on the time or the number of workers, so two runs of the same options end with the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision_zero.data.layouts import MANIFEST_NAME, PairSourceError, read_json
from vision_zero.data.made_files import (
    IMAGES,
    RECORDS,
    TEMPORARY,
    VISIBLE_CHANGE,
    pair_name,
    record_path,
    to_json,
    write_whole,
)
from vision_zero.data.making import MakingError

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
