"""`datasets` tables as image pairs: which columns hold the images, and how one cell becomes an image.

`datasets` is imported only when a data set is read: the folder and manifest readers do without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vision_zero.data.columns import Columns, choose_columns, choose_splits, split_of
from vision_zero.data.errors import LFS_ADVICE, BadImageError, PairSourceError, is_lfs_pointer
from vision_zero.data.folders import unused, walk
from vision_zero.data.image_files import ImageFile, decode_bytes
from vision_zero.data.lazy_pairs import LazyPairs
from vision_zero.data.manifest import Folder
from vision_zero.types import Domain, ImagePair

if TYPE_CHECKING:
    import datasets

_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes."""


class Cells:
    """Cells of a data set, read one at a time and not decoded. Equal only to itself."""

    def __init__(self, dataset: datasets.Dataset, columns: Columns, name: str, folder: Folder | None) -> None:
        # The arrow format gives an image cell as its bytes or path; the default would decode it without checks.
        self._rows = dataset.select_columns(list(columns.fields().values())).with_format("arrow")
        self.name = name
        self.folder = folder

    def read(self, column: str, row: int) -> Any:
        return self._rows[row : row + 1].column(column)[0].as_py()


@dataclass(frozen=True)
class DatasetImage:
    """An image in a cell of a data set: encoded bytes, a path, or a list of one of these."""

    cells: Cells = field(repr=False)
    column: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.cells.name}, row {self.row}, column {self.column}"

    def content(self) -> bytes | ImageFile:
        """The encoded image, or the file that holds it. Raises BadImageError."""
        value = self.cells.read(self.column, self.row)
        if isinstance(value, list):
            if len(value) != 1:
                raise BadImageError(f"{self.name}: the list must hold one image, it holds {len(value)}")
            value = value[0]
        # `datasets` itself wrote the path of an image cell; a path in a text column is the data's own word.
        trusted = isinstance(value, Mapping)
        data, path = (value.get("bytes"), value.get("path")) if trusted else (value, value)
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str) or not path:
            raise BadImageError(f"{self.name}: the cell holds no image")
        folder = self.cells.folder
        if folder is None or trusted:
            return ImageFile(Path(path))
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
    """The rows of a data set as pairs."""

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

        super().__init__("data set", len(dataset), notes)
        images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        columns = choose_columns(dataset.column_names, images, columns, name)
        self._cells = Cells(dataset, columns, name, folder)
        self.columns = columns
        self._domain = domain
        self._ids = None if columns.id is None else _ids(dataset, columns.id, name)

    def pair_at(self, row: int) -> ImagePair:
        return ImagePair(
            id=f"{row:07d}" if self._ids is None else self._ids[row],
            image=DatasetImage(self._cells, self.columns.image, row),
            edited=None if self.columns.edited is None else DatasetImage(self._cells, self.columns.edited, row),
            domain=self._domain,
        )


def is_dataset(source: object) -> bool:
    """True for a datasets.Dataset, without importing `datasets`: if it is one, that has been done."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(source, module.Dataset)


def is_dataset_path(path: Path) -> bool:
    """True for a local path of a `datasets` data set: save_to_disk or parquet."""
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    return any((path / name).is_file() for name in _SAVED) or bool(_parquet_files(path))


def _parquet_files(path: Path) -> list[str]:
    """Parquet files of a folder, at most two folders deep (data/, default/train/)."""
    found = {file for depth in ("", "*/", "*/*/") for file in path.glob(depth + "*.parquet") if file.is_file()}
    names = sorted(file.relative_to(path).as_posix() for file in found)
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def load_local(path: Path, wanted: str | None) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """A data set from a local path, never from the network, and notes: which splits and files are not read.

    Raises PairSourceError when `datasets` cannot read the path, or it is not clear which split is meant.
    """
    import datasets

    try:
        if path.is_file():
            return _read_parquet([path]), ()
        if any((path / name).is_file() for name in _SAVED):
            return choose_split(datasets.load_from_disk(str(path)), str(path), wanted)
        splits: dict[str, list[str]] = {}
        for name in _parquet_files(path):
            splits.setdefault(split_of(name), []).append(name)
        found = {split: f"{len(files)} files, as {files[0]}" for split, files in splits.items()}
        chosen, notes = choose_splits(found, str(path), wanted)
        files = sorted(name for split in chosen for name in splits[split])
        used = {name for some in splits.values() for name in some}  # those of other splits are told with them
        return _read_parquet([path / name for name in files]), notes + unused(path, walk(path), used, ())
    except PairSourceError:
        raise
    except Exception as error:  # whatever datasets, pyarrow or the files' owner raise: the user needs the path first
        pointers = [file for file in sorted({path, *path.rglob("*")}) if file.is_file() and is_lfs_pointer(file)]
        if pointers:
            raise PairSourceError(f"{pointers[0]} {LFS_ADVICE}") from error
        raise PairSourceError(f"{path}: `datasets` cannot read it: {' '.join(str(error).split())}") from error


def _read_parquet(files: Sequence[Path]) -> datasets.Dataset:
    """The rows of some files. Their names are taken literally: `datasets` itself sees patterns in [ and *."""
    import datasets
    from datasets.data_files import DataFilesDict, DataFilesList

    names = [os.path.abspath(file) for file in files]
    # `datasets` keeps a copy in its cache, which it knows by this.
    changed = [(name, str(os.stat(name).st_mtime_ns), str(os.stat(name).st_size)) for name in names]
    return datasets.Dataset.from_parquet(DataFilesDict(train=DataFilesList(names, changed)), split="train")


def choose_split(loaded: Any, name: str, wanted: str | None) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """The data set itself or its split that is read (`columns.choose_splits`), and notes."""
    import datasets

    splits = loaded if isinstance(loaded, Mapping) else {"": loaded}
    chosen, notes = choose_splits({split: f"{len(rows)} rows" for split, rows in splits.items()}, name, wanted)
    return (
        datasets.concatenate_datasets([splits[split] for split in chosen]) if len(chosen) > 1 else splits[chosen[0]]
    ), notes


def _ids(dataset: datasets.Dataset, column: str, name: str) -> list[str]:
    ids = [str(value) for value in dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()]
    rows: dict[str, int] = {}
    for row, value in enumerate(ids):
        first = rows.setdefault(value, row)
        if first != row:
            raise PairSourceError(f"{name}, row {row}: the {column} {value!r} is already in row {first}")
    return ids
