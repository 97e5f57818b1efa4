"""The JSONL manifest: one pair per line, `{"id", "image", "edited"?, "domain"?, "meta"?}`.

Paths are relative to the manifest's folder and may not leave it, neither by `..` nor through a link: a manifest is
often somebody else's file, and its images are copied into game records.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision_zero.data.errors import LFS_ADVICE, LFS_POINTER, MAX_WORD, PairSourceError
from vision_zero.data.folders import LazyJson, Listing, PairPaths, as_on_disk
from vision_zero.types import DOMAINS

FIELDS = {name: name for name in ("id", "image", "edited", "domain", "meta")}


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
        if parent not in self._listings:
            self._listings[parent] = self._list(parent, relative)
        if name in self._listings[parent]:
            if self._listings[parent][name]:  # a link
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
    folder = Folder(path.parent)
    rows: list[PairPaths] = []
    lines: dict[str, int] = {}
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                row = _read_line(line, where, number, fields)
                if (first := lines.setdefault(row.id, number)) != number:
                    raise PairSourceError(f"{where}: the id {row.id!r} is already on line {first}")
                try:
                    image, edited = folder.check(row.image), row.edited and folder.check(row.edited)
                except PairSourceError as error:
                    raise PairSourceError(f"{where}: {error}") from error
                rows.append(replace(row, image=image, edited=edited))
    except OSError as error:
        raise PairSourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not rows:
        raise PairSourceError(f"{path}: the manifest is empty")
    return Listing("manifest", path.parent, rows, "photos")


def _read_line(line: bytes, where: str, number: int, fields: Mapping[str, str] | None) -> PairPaths:
    record = _parse(line, where, number)
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
        reason = LFS_ADVICE if line.startswith(LFS_POINTER) else f"not valid JSON: {error}"
        raise PairSourceError(f"{where}: {reason}") from error
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
