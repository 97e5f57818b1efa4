"""`datasets` tables as image pairs: which columns hold the images, and how one cell becomes an image.

`datasets` is imported only when a data set is read: the folder and manifest readers do without it.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

from vision_zero.data.errors import LFS_ADVICE, LFS_POINTER, BadImageError, PairSourceError, is_lfs_pointer
from vision_zero.data.folders import as_on_disk, unused, walk
from vision_zero.data.image_files import ImageFile, decode_bytes
from vision_zero.data.lazy_pairs import LazyPairs
from vision_zero.data.manifest import Folder
from vision_zero.types import Domain, ImagePair

if TYPE_CHECKING:
    import datasets

ALL = "all"

Columns = Mapping[str, str]
"""Columns to read by field: `image`, and perhaps `edited` and `id`. Without `id`, the row's number is the id."""

_KNOWN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
KNOWN_COLUMNS: tuple[tuple[str, str], ...] = tuple((image, edited) for image, edited in _KNOWN)
"""Column names (before, after) that published sets use."""
_SHARD = re.compile(r"(\w[\w.-]*?)-\d{5}-of-(\d{5}).*")
_SPLIT_WORD = re.compile(r"(?:^|[^a-z0-9])(train(?:ing)?|test|eval|valid(?:ation)?|val|dev)(?:$|[^a-z])")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SAVED = ("dataset_dict.json", "state.json")  # files that `save_to_disk` writes


@dataclass(frozen=True)
class DatasetImage:
    """An image in a cell of a data set: encoded bytes, a path, or a list of one of these."""

    table: TablePairs = field(repr=False)
    column: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.table.name}, row {self.row}, column {self.column}"

    def content(self) -> bytes | ImageFile:
        """The encoded image, or the file that holds it. Raises BadImageError."""
        value = self.table.read(self.column, self.row)
        if isinstance(value, list):
            if len(value) != 1:
                raise BadImageError(f"{self.name}: the list must hold one image, it holds {len(value)}")
            value = value[0]
        # `datasets` wrote the path of an image cell of other than a parquet file; all else is the data's own word.
        is_cell = isinstance(value, Mapping)
        data, path = (value.get("bytes"), value.get("path")) if is_cell else (value, value)
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str) or not path:
            raise BadImageError(f"{self.name}: the cell holds no image")
        folder = self.table.folder
        if folder is None or (is_cell and not self.table.is_parquet):
            return ImageFile(as_on_disk(Path(path)))
        try:
            return ImageFile(folder.root / folder.check(path))
        except PairSourceError as error:
            raise BadImageError(f"{self.name}: {error}") from error

    def open(self) -> Image.Image:
        """The whole image, RGB. Raises BadImageError."""
        content = self.content()
        if isinstance(content, bytes):
            return decode_bytes(content, self.name)
        try:
            return content.open()
        except BadImageError as error:
            raise BadImageError(f"{self.name}: {error}") from error


class TablePairs(LazyPairs):
    """Rows of a data set. Cells are read one at a time and not decoded."""

    def __init__(
        self,
        dataset: datasets.Dataset,
        columns: Columns | None,
        domain: Domain,
        name: str,
        folder: Folder | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        import datasets

        super().__init__("data set", self._pair_at, range(len(dataset)), notes)
        images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        self.columns = choose_columns(dataset.column_names, images, columns, name)
        # The arrow format gives an image cell as its bytes or path; the default would decode it without checks.
        self._rows = dataset.select_columns(list(self.columns.values())).with_format("arrow")
        self.name, self.folder, self._domain = name, folder, domain
        self.is_parquet = dataset.builder_name == "parquet"
        self._ids = _ids(dataset, self.columns["id"], name) if "id" in self.columns else None

    def read(self, column: str, row: int) -> Any:
        return self._rows[row : row + 1].column(column)[0].as_py()

    def _pair_at(self, row: int) -> ImagePair:
        images: dict[str, Any] = {
            field: DatasetImage(self, name, row) for field, name in self.columns.items() if field != "id"
        }
        return ImagePair(f"{row:07d}" if self._ids is None else self._ids[row], domain=self._domain, **images)


def is_dataset(source: object) -> bool:
    """True for a datasets.Dataset, without importing `datasets`: if it is one, that has been done."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(source, module.Dataset)


def is_dataset_path(path: Path) -> bool:
    """True for a local path of a `datasets` data set: save_to_disk, parquet, or an image folder with metadata."""
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    return any((path / name).is_file() for name in _SAVED) or bool(_tables(path))


def _tables(path: Path) -> list[str]:
    """Files that hold a folder's rows, at most three folders deep: metadata that names images, else parquet files."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for file in path.glob(depth + "*"):
            is_metadata = file.name in _METADATA and _names_files(file)
            if is_metadata or file.suffix.lower() == ".parquet":
                found[is_metadata].add(file.relative_to(path).as_posix())
        if any(found.values()):
            break
    return sorted(name for name in found[True] or found[False] if not any(p.startswith(".") for p in name.split("/")))


def _names_files(metadata: Path) -> bool:
    """True for metadata of images; a file of this name may be about something else."""
    with open(metadata, "rb") as stream:
        start = stream.readline(1 << 20)
        if start.startswith(b"PAR1"):  # its columns are at the end, and how long that is
            stream.seek(end := max(0, os.path.getsize(metadata) - 8))
            stream.seek(max(0, end - int.from_bytes(stream.read(4), "little")))
            start = stream.read()
    return b"file_name" in start or start.startswith(LFS_POINTER)


def load_local(path: Path, wanted: str | None) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """A data set of a local path, never the network, and notes: what is not read. Raises PairSourceError."""
    import datasets

    try:
        if path.is_file():
            return _read_file(path), ()
        if any((path / name).is_file() for name in _SAVED):
            return choose_split(datasets.load_from_disk(str(path)), str(path), wanted)
        splits: dict[str, list[str]] = {}
        for name in _tables(path):
            splits.setdefault(split_of(name), []).append(name)
        found = {split: f"{len(files)} files, as {files[0]}" for split, files in splits.items()}
        chosen, notes = choose_splits(found, str(path), wanted)
        files = sorted(path / name for split in chosen for name in splits[split])
        parts = [(file.parent / match[1], match[2]) for file in files if (match := _SHARD.fullmatch(file.stem))]
        for (shard, total), count in Counter(parts).items():
            if count != int(total):
                named = f"{shard.name}-*-of-{total}"
                raise PairSourceError(f"{shard.parent}: {count} of the {int(total)} files {named} are there")
        read = datasets.concatenate_datasets([_read_file(file) for file in files])
        used = {name for some in splits.values() for name in some}
        if files[0].name in _METADATA:
            used |= _files_in(read, path)
        return read, notes + unused(path, walk(path), used, ())
    except PairSourceError:
        raise
    except Exception as error:  # whatever datasets, pyarrow or the files' owner raise: the user needs the path first
        pointers = [file for file in sorted({path, *path.rglob("*")}) if file.is_file() and is_lfs_pointer(file)]
        if pointers:
            raise PairSourceError(f"{pointers[0]} {LFS_ADVICE}") from error
        raise PairSourceError(f"{path}: `datasets` cannot read it: {' '.join(str(error).split())}") from error


def _read_file(file: Path) -> datasets.Dataset:
    """The rows of a parquet or metadata file. Its path is taken literally: load_dataset sees patterns in [ and *."""
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

    name, about = os.path.abspath(file), file.stat()
    # `datasets` keeps a copy in its cache, which it knows by this.
    files = DataFilesList([name], [(name, str(about.st_mtime_ns), str(about.st_size))])
    kind, builder = ("imagefolder", ImageFolder) if file.name in _METADATA else ("parquet", Parquet)
    built = builder(data_files=DataFilesDict(train=files), hash=_PACKAGED_DATASETS_MODULES[kind][1])
    built.download_and_prepare()
    return built.as_dataset(split="train")


def _files_in(dataset: datasets.Dataset, folder: Path) -> set[str]:
    """Files of `folder` that the cells of an image folder name."""
    import datasets

    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    columns = dataset.select_columns(images).with_format("arrow")[:].columns
    paths = (as_on_disk(Path(cell["path"])) for column in columns for cell in column.to_pylist() if cell)
    return {os.path.relpath(path, os.path.abspath(folder)) for path in paths}


def choose_split(loaded: Any, name: str, wanted: str | None) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """The data set itself or its split that is read (`choose_splits`), and notes."""
    import datasets

    splits = loaded if isinstance(loaded, Mapping) else {"": loaded}
    chosen, notes = choose_splits({split: f"{len(rows)} rows" for split, rows in splits.items()}, name, wanted)
    read = [splits[split] for split in chosen]
    return read[0] if len(read) == 1 else datasets.concatenate_datasets(read), notes


def read_columns(columns: Sequence[str] | Mapping[str, str]) -> Columns:
    """Columns as a user names them: (image,), (image, edited), or {"image": ..., "edited": ..., "id": ...}."""
    fields = ("image", "edited", "id")
    if isinstance(columns, Mapping):
        unknown = sorted(columns.keys() - set(fields))
        if unknown or "image" not in columns:
            raise PairSourceError(f"columns must name image, and may name edited and id; got {dict(columns)}")
        return {name: columns[name] for name in fields if columns.get(name) is not None}
    if isinstance(columns, str) or not 1 <= len(columns) <= 2:
        raise PairSourceError(f"columns must be (image, edited) or (image,); got {columns!r}")
    return dict(zip(fields, columns, strict=False))


def choose_columns(present: Sequence[str], images: Sequence[str], columns: Columns | None, name: str) -> Columns:
    """`columns` if the table has them, else a published set's, else the one of `images`. Raises PairSourceError."""
    said = f"{name}: the columns are {', '.join(present)}"
    if columns is not None:
        missing = [column for column in columns.values() if column not in present]
        if missing:
            raise PairSourceError(f"{said}; there is no {', '.join(missing)}")
        return columns
    known = [pair for pair in KNOWN_COLUMNS if set(pair) <= set(present)]
    if len(known) == 1:
        return read_columns(known[0])
    if known:
        found = " or ".join(f"{image} -> {edited}" for image, edited in known)
        raise PairSourceError(f"{said}; it could be {found}: name them with columns")
    if len(images) == 1:
        return read_columns(images)
    reason = f"which of {', '.join(images)} to read is not clear" if images else "none of them holds images"
    raise PairSourceError(f"{said}; {reason}: name them with columns")


def split_of(path: str) -> str:
    """Split that the path of a file in a data set names, as `data/train-00000-of-00003.parquet`; empty for none."""
    stem = os.path.splitext(path)[0]
    if match := _SHARD.fullmatch(stem.rsplit("/", 1)[-1]):
        return match[1]
    named = {"train" if word == "training" else word for word in _SPLIT_WORD.findall(stem.lower())}
    return named.pop() if len(named) == 1 else ""


def choose_splits(found: Mapping[str, str], name: str, wanted: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The splits that are read, and a note about the others. `found`: what each split holds, for messages.

    It is the one `wanted` (`all`: every one), the only one, or the one called train. Raises PairSourceError where none
    of these is there, and where only some of the files name a split.
    """
    if wanted == ALL or (wanted is None and len(found) == 1):
        return list(found), ()
    chosen = "" if wanted is None and "" in found else wanted or "train"
    if not chosen or chosen not in found:
        names = ", ".join(filter(None, found)) or "(no names)"
        wrong = (
            f'the splits {names} and none called "{chosen}"' if chosen else f"files of {names} and files of no split"
        )
        raise PairSourceError(f"{name}: has {wrong}; give --split NAME, or --split all")
    left = ", ".join(f"{split or '(no split)'} ({what})" for split, what in found.items() if split != chosen)
    told = f"{name}: the split {chosen} is read ({found[chosen]}), not {left}; --split says which"
    return [chosen], (told,) if left else ()


def _ids(dataset: datasets.Dataset, column: str, name: str) -> list[str]:
    ids = [str(value) for value in dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()]
    rows: dict[str, int] = {}
    for row, value in enumerate(ids):
        if (first := rows.setdefault(value, row)) != row:
            raise PairSourceError(f"{name}, row {row}: the {column} {value!r} is already in row {first}")
    return ids
