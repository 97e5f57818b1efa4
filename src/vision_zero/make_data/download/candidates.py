"""The pairs that a ready-made set offers, one after the other, in an order that is always the same.

Each reader takes how many candidates to leave out at the beginning (a fetch that was stopped has them) and gives the
rest. What is wrong with one candidate is its `problem`; what is wrong with the set is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from vision_zero.data.folders import PairSourceError, is_image_name, shorten
from vision_zero.data.hf_datasets import KNOWN_COLUMNS
from vision_zero.make_data.download.hub import Place, Reader, open_files

_SAFE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Candidate:
    """A pair on offer: `files` by their paths in the folder to be, of which `image` and `edited` are the images."""

    id: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    image: str = ""
    edited: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def image_name(pair_id: str, part: str, data: bytes) -> str:
    """images/ID_PART with the extension that the bytes ask for; published tables rarely say."""
    signs = (
        (b"\x89PNG", ".png"),
        (b"\xff\xd8", ".jpg"),
        (b"GIF8", ".gif"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
        (b"BM", ".bmp"),
    )
    extension = next((extension for sign, extension in signs if data.startswith(sign)), "")
    if not extension:
        extension = ".webp" if data[8:12] == b"WEBP" else ".avif" if data[4:8] == b"ftyp" else ".png"
    return f"images/{pair_id}_{part}{extension}"


def pair_candidate(pair_id: str, image: bytes, edited: bytes | None, meta: Mapping[str, Any]) -> Candidate:
    """A candidate of encoded images, kept as they are."""
    first = image_name(pair_id, "original", image)
    files = {first: image}
    second = None
    if edited is not None:
        second = image_name(pair_id, "modified", edited)
        files[second] = edited
    return Candidate(pair_id, files, first, second, meta)


# --------------------------------------------------------------------------------------------------------------- tables


def table_candidates(
    path_or_repo: str, split: str, columns: tuple[str, str] | None, revision: str | None, start: int
) -> Iterator[Candidate]:
    """The rows of a data set, streamed; the id is the row's number. Texts and numbers of a row become `meta`."""
    import datasets

    rows = datasets.load_dataset(path_or_repo, split=split, streaming=True, revision=revision).decode(False)
    names: tuple[str, str] | None = None
    for number, row in enumerate(rows.skip(start) if start else rows, start=start):
        if names is None:
            names = _choose(columns, list(row), path_or_repo)
        yield _row_candidate(f"{number:07d}", row, names)


def _choose(columns: tuple[str, str] | None, present: Sequence[str], name: str) -> tuple[str, str]:
    """The columns asked for, else the only known pair that the table has. Raises PairSourceError."""
    known = [pair for pair in KNOWN_COLUMNS if set(pair) <= set(present)] if columns is None else [columns]
    if len(known) != 1 or not set(known[0]) <= set(present):
        raise PairSourceError(
            f"{name}: the columns are {', '.join(present)}; name two of them with --columns IMAGE EDITED"
        )
    return known[0]


def _row_candidate(pair_id: str, row: Mapping[str, Any], names: tuple[str, str]) -> Candidate:
    cells = [_bytes(row[name]) for name in names]
    for name, cell in zip(names, cells, strict=True):
        if cell is None:
            return Candidate(pair_id, problem=f"no image in {name}")
    image, edited = cells
    assert image is not None
    meta = {name: value for name, value in row.items() if name not in names and _is_plain(value)}
    return pair_candidate(pair_id, image, edited, meta)


def _bytes(cell: Any) -> bytes | None:
    """The encoded image of a cell that is not decoded: bytes, or a file that `datasets` found itself."""
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, Mapping):
        return None
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if not cell.get("path"):
        return None
    import fsspec

    try:
        with fsspec.open(cell["path"], "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, (str, int, float, bool)) and value == value


# --------------------------------------------------------------------------------------------------------- file layouts


def official_candidates(place: Place, start: int) -> Iterator[Candidate]:
    """The pairs of NAME_original and NAME_modified images of a place, in the order of names.

    A NAME_comparison.json becomes the pair's scenes/NAME_comparison.json and its `meta`.
    """
    with open_files(place) as files:
        parts: dict[str, dict[str, str]] = {}
        for path in files:
            match = re.fullmatch(r"(.+)_(original|modified|comparison)", PurePosixPath(path).stem)
            wanted = match is not None and (match[2] == "comparison") == path.lower().endswith(".json")
            if match is None or not wanted or not (is_image_name(path) or match[2] == "comparison"):
                continue
            other = parts.setdefault(match[1], {}).setdefault(match[2], path)
            if other != path:
                raise PairSourceError(
                    f"{place.name}: two files for the {match[2]} part of {match[1]}: {other} and {path}"
                )
        pairs = [name for name in sorted(parts) if parts[name].keys() & {"original", "modified"}]
        if not pairs:
            raise PairSourceError(
                f"{place.name}: no images called NAME_original and NAME_modified among {len(files)} files "
                f"({shorten(list(files), 5)}); if the pairs are in columns of a table, give --layout table"
            )
        for name in islice(pairs, start, None):
            yield _official(name, parts[name], files)


def _official(name: str, parts: Mapping[str, str], files: Mapping[str, Reader]) -> Candidate:
    for part in ("original", "modified"):
        if part not in parts:
            return Candidate(name, problem=f"the {part} image is missing")
    if not _SAFE_NAME.fullmatch(name):
        return Candidate(name, problem="the name cannot be a file's")
    comparison = files[parts["comparison"]]() if "comparison" in parts else None
    meta: Any = {}
    if comparison is not None:
        try:
            meta = json.loads(comparison)
        except ValueError:
            return Candidate(name, problem="the scene description is no JSON")
        if not isinstance(meta, dict):
            return Candidate(name, problem="the scene description is no JSON object")
    found = pair_candidate(name, files[parts["original"]](), files[parts["modified"]](), meta)
    described = {} if comparison is None else {f"scenes/{name}_comparison.json": comparison}
    return Candidate(name, {**found.files, **described}, found.image, found.edited, meta)


def chartqa_candidates(place: Place, split: str, start: int) -> Iterator[Candidate]:
    """The charts of one split with their tables, as png/NAME.png and tables/NAME.csv, in the order of names."""
    pattern = re.compile(rf"(?:.*/)?{re.escape(split)}/(png|tables)/([^/]+)\.(?:png|csv)")
    with open_files(place) as files:
        parts: dict[str, dict[str, str]] = {}
        for path in files:
            match = pattern.fullmatch(path)
            if match is not None:
                parts.setdefault(match[2], {})[match[1]] = path
        if not parts:
            raise PairSourceError(
                f"{place.name}: no {split}/png and {split}/tables among {len(files)} files ({shorten(list(files), 5)})"
            )
        for name in islice(sorted(parts), start, None):
            missing = [part for part in ("png", "tables") if part not in parts[name]]
            if missing or not _SAFE_NAME.fullmatch(name):
                yield Candidate(name, problem=f"no file in {missing[0]}" if missing else "the name cannot be a file's")
                continue
            chart, table = (files[parts[name][part]]() for part in ("png", "tables"))
            yield Candidate(name, {f"png/{name}.png": chart, f"tables/{name}.csv": table}, f"png/{name}.png")
