"""The JSONL manifest: one pair per line, `{"id", "image", "edited"?, "domain"?, "meta"?}`.

Paths are relative to the manifest's folder and may not leave it, neither by `..` nor through a link: a manifest is
often somebody else's file, and its images are copied into game records.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vision_zero.data.columns import Columns, choose_columns, choose_splits, split_of
from vision_zero.data.errors import LFS_ADVICE, MAX_WORD, PairSourceError, is_lfs_pointer
from vision_zero.data.folders import LazyJson, Listing, PairPaths, as_on_disk, unused, walk
from vision_zero.types import DOMAINS

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_FILE_NAME = re.compile(r"(?:(.+)_)?file_name(s?)")
FIELDS: dict[str, str] = {"id": "id", "image": "image", "edited": "edited", "domain": "domain", "meta": "meta"}


class Folder:
    """A folder whose files are listed once per subfolder: a million paths are checked without a million stats."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._listings: dict[str, dict[str, bool]] = {}

    def check(self, relative: str) -> str:
        """The file's path as it is on the disk. Raises PairSourceError unless it is in this folder, links followed."""
        if relative.startswith("data:") or (len(relative) > MAX_WORD and " " not in relative):
            raise PairSourceError(
                f"{relative}: not a path; images in a table are paths of files: write this one to a file"
            )
        if "\\" in relative and not os.path.lexists(self.root / relative):  # written on Windows
            relative = relative.replace("\\", "/")
        if os.path.isabs(relative) or "\0" in relative:
            raise PairSourceError(f"{relative!r}: paths must be relative to {self.root}")
        parent, name = os.path.split(relative)
        listing = self._listings.get(parent)
        if listing is None:
            listing = self._listings[parent] = self._list(parent, relative)
        if name in listing:
            if listing[name]:  # a link
                self._check_inside(os.path.join(self.root, relative), relative)
            return relative
        # Asked directly if not listed: some file systems fold the case or the Unicode form of names.
        file = as_on_disk(self.root / relative)
        self._check_inside(str(file), relative)
        if not file.is_file():
            raise PairSourceError(f"{os.path.join(self.root, relative)}: no such file")
        return os.path.relpath(file, self.root)

    def _list(self, parent: str, relative: str) -> dict[str, bool]:
        folder = os.path.join(self.root, parent)
        self._check_inside(folder, relative)
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PairSourceError(f"{folder}: cannot be listed: {error.strerror or error}") from error

    def _check_inside(self, path: str, relative: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise PairSourceError(f"{relative!r}: leaves the folder {self.root}")


def read_manifest(path: Path, fields: Mapping[str, str] | None = None) -> Listing:
    """The pairs of a manifest, in its order.

    `fields` gives the keys of another vocabulary, {"image": "input_images", "edited": "output_images"}: then other keys
    are allowed, and without an "id" the line's number is the id. A value may be a list of one path. Raises
    PairSourceError with the line's number.
    """
    rows = _read_rows(path, fields, Folder(path.parent), {})
    if not rows:
        raise PairSourceError(f"{path}: the manifest is empty")
    return Listing("manifest", path.parent, rows, "photos")


def _read_rows(
    path: Path, fields: Mapping[str, str] | None, folder: Folder, lines: dict[str, int], first: int | None = None
) -> list[PairPaths]:
    """Rows of one file. `lines` are those of the ids so far; rows without one count from `first`."""
    near = os.path.relpath(path.parent, folder.root) if path.parent != folder.root else ""
    rows: list[PairPaths] = []
    for number, record in _records(path):
        where = f"{path}, line {number}"
        row = _read_record(record, where, number if first is None else first + len(rows), fields)
        if lines.setdefault(row.id, number) != number:
            raise PairSourceError(f"{where}: the id {row.id!r} is already on line {lines[row.id]}")
        try:
            image, edited = (name and folder.check(os.path.join(near, name)) for name in (row.image, row.edited))
        except PairSourceError as error:
            raise PairSourceError(f"{where}: {error}") from error
        rows.append(replace(row, image=str(image), edited=edited))
    return rows


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of a JSONL, CSV or parquet file. Raises PairSourceError."""
    try:
        if is_lfs_pointer(path):
            raise PairSourceError(f"{path} {LFS_ADVICE}")
        if path.suffix == ".parquet":
            import pyarrow.parquet

            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
        elif path.suffix == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as stream:
                yield from enumerate(csv.DictReader(stream), start=2)
        else:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield number, _parse(line, f"{path}, line {number}", number)
    except PairSourceError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise PairSourceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_record(record: dict[str, Any], where: str, number: int, fields: Mapping[str, str] | None) -> PairPaths:
    names = FIELDS if fields is None else fields
    # A misspelt "edited" would otherwise quietly turn a pair into a single image.
    if fields is None and (unknown := sorted(record.keys() - FIELDS.keys())):
        raise PairSourceError(
            f"{where}: unknown keys {unknown}; a manifest has {', '.join(FIELDS)}; give `columns` for other names"
        )
    cells = {field: record.get(key) for field, key in names.items()}
    row_id = cells.get("id", f"{number:07d}")
    if isinstance(row_id, bool) or not isinstance(row_id, (str, int)) or row_id == "":
        raise PairSourceError(f'{where}: "{names["id"]}" must be a text or a whole number, got {row_id!r}')
    image = _path(cells["image"], names["image"], where)
    if image is None:
        raise PairSourceError(f'{where}: "{names["image"]}" is missing; the keys are {sorted(record)}')
    edited = _path(cells["edited"], names["edited"], where) if "edited" in names else None
    domain, meta = cells.get("domain"), cells.get("meta")
    if domain is not None and domain not in DOMAINS:
        raise PairSourceError(f'{where}: "domain" must be one of {", ".join(DOMAINS)}, got {domain!r}')
    if meta is not None and not isinstance(meta, dict):
        raise PairSourceError(f'{where}: "meta" must be a JSON object, got {type(meta).__name__}')
    return PairPaths(str(row_id), image, edited, None if meta is None else LazyJson(text=json.dumps(meta)), domain)


def _parse(line: bytes, where: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        if b"\\ud" in line.lower():  # half of a surrogate pair parses, but cannot be a file name nor be written again
            json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise PairSourceError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise PairSourceError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


def _path(value: Any, key: str, where: str) -> str | None:
    if isinstance(value, list):
        if len(value) != 1:
            raise PairSourceError(f'{where}: "{key}" must hold one path, got {len(value)}')
        value = value[0]
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise PairSourceError(f'{where}: "{key}" must be a path, got {value!r}')
    return value


# --------------------------------------------------------------------------------------- image folders with metadata


def metadata_files(root: Path) -> list[Path]:
    """Files that describe the images of a folder: in it, else in its folders, at most two deep (train/, data/train/).

    A file of this name without a column `file_name` or `*_file_name` is about something else.
    """
    for depth in ("", "*/", "*/*/"):
        found = sorted(path for name in METADATA for path in root.glob(depth + name) if _image_columns(_columns(path)))
        for one, other in pairwise(found):
            if one.parent == other.parent:
                raise PairSourceError(f"{one.parent}: has {one.name} and {other.name}; move one of them away")
        if found:
            return found
    return []


def _columns(path: Path) -> list[str]:
    return list(next(_records(path), (0, {}))[1])


def _image_columns(keys: Iterable[str]) -> dict[str, str]:
    """Name of an image column, as `datasets` names it, by the key of its paths: `image` of `file_name`."""
    matches = {key: _FILE_NAME.fullmatch(key) for key in keys}
    return {key: match[1] or f"image{match[2]}" for key, match in matches.items() if match}


def read_metadata(root: Path, files: Sequence[Path], columns: Columns | None, wanted: str | None) -> Listing:
    """The rows of an image folder's metadata as pairs; without an id column, the row's number is the id.

    `file_name` holds the paths of the column image, `X_file_name` those of X, from the file's own folder on. Of folders
    that are called as splits (train/, test/) one is read (`columns.choose_splits`). Raises PairSourceError.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.parent.relative_to(root).as_posix()), []).append(file)
    found = {split: f"{len(some)} folders, as {some[0].parent}" for split, some in splits.items()}
    chosen, notes = choose_splits(found, str(root), wanted)
    folder, rows, lines = Folder(root), list[PairPaths](), dict[str, int]()
    for file in sorted(path for split in chosen for path in splits[split]):
        images = _image_columns(_columns(file))
        keys = {images.get(key, key): key for key in _columns(file)}
        picked = choose_columns(list(keys), list(images.values()), columns, str(file))
        fields = {field: keys[column] for field, column in picked.fields().items()}
        rows += _read_rows(file, fields, folder, lines, first=len(rows))
    used = {file.relative_to(root).as_posix() for file in files}
    return Listing("data set", root, rows, "photos", notes + unused(root, walk(root), used, rows))
