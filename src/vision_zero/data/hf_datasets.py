"""`datasets` tables as image pairs: which columns hold the images, and how one cell becomes an image.

`datasets` is imported only when a data set is read: the folder and manifest readers do without it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vision_zero.data.folders import PairSourceError
from vision_zero.data.image_files import BadImageError, ImageFile, decode_bytes
from vision_zero.data.lazy_pairs import LazyPairs
from vision_zero.data.manifest import Folder
from vision_zero.types import Domain, ImagePair

if TYPE_CHECKING:
    import datasets

KNOWN_COLUMNS: tuple[tuple[str, str], ...] = (
    ("original_image", "edited_image"),  # instructpix2pix-clip-filtered
    ("input_image", "edited_image"),  # instructpix2pix-1000-samples
    ("source_img", "target_img"),  # MagicBrush
    ("src_img", "edited_img"),  # OmniEdit
    ("source_image", "edited_image"),  # UltraEdit
    ("input_images", "output_images"),  # ImgEdit: lists of one path
)
"""Column names (before, after) that published sets use."""

_METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class Columns:
    """Columns to read. Without `id`, the row's number is the id."""

    image: str
    edited: str | None = None
    id: str | None = None

    def fields(self) -> dict[str, str]:
        """Column names by what they hold."""
        return {field: column for field, column in vars(self).items() if column is not None}


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

    def open(self) -> Image.Image:
        """The whole image, RGB. Raises BadImageError."""
        value = self.cells.read(self.column, self.row)
        if isinstance(value, list):
            if len(value) != 1:
                raise BadImageError(f"{self.name}: the list must hold one image, it holds {len(value)}")
            value = value[0]
        # `datasets` itself wrote the path of an image cell; a path in a text column is the data's own word.
        trusted = isinstance(value, Mapping)
        data, path = (value.get("bytes"), value.get("path")) if trusted else (value, value)
        if isinstance(data, bytes):
            return decode_bytes(data, self.name)
        if not isinstance(path, str) or not path:
            raise BadImageError(f"{self.name}: the cell holds no image")
        file, folder = Path(path), self.cells.folder
        try:
            if folder is not None and not trusted:
                folder.check(path)
                file = folder.root / path
            return ImageFile(file).open()
        except (PairSourceError, BadImageError) as error:
            raise BadImageError(f"{self.name}: {error}") from error


class TablePairs(LazyPairs):
    """The rows of a data set as pairs."""

    def __init__(
        self, dataset: datasets.Dataset, columns: Columns, domain: Domain, name: str, folder: Folder | None
    ) -> None:
        super().__init__("data set", len(dataset))
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
    """True for a local path of a `datasets` data set: save_to_disk, parquet, or imagefolder with metadata."""
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json", *_METADATA_FILES)):
        return True
    return any(any(path.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet"))


def load_local(path: Path) -> datasets.Dataset:
    """A data set from a local path, never from the network. Of several splits, the one called "train" is read.

    Raises PairSourceError when `datasets` cannot read the path, or finds splits but no "train".
    """
    import datasets

    try:
        if path.is_file():
            # Not load_dataset("parquet"), which first reports its use to the hub.
            loaded = datasets.Dataset.from_parquet(str(path))
        elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path))
    except Exception as error:  # whatever datasets, pyarrow or the files' owner raise: the user needs the path first
        raise PairSourceError(f"{path}: `datasets` cannot read it: {' '.join(str(error).split())}") from error
    return choose_split(loaded, str(path))


def choose_split(loaded: Any, name: str) -> datasets.Dataset:
    """The data set itself, its only split, or the one called "train". Raises PairSourceError otherwise."""
    if not isinstance(loaded, Mapping):
        return loaded
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    if "train" in loaded:
        return loaded["train"]
    raise PairSourceError(f'{name}: has the splits {", ".join(loaded)} and none called "train"; give one split alone')


def read_columns(columns: Sequence[str] | Mapping[str, str]) -> Columns:
    """Columns as a user names them: (image,), (image, edited), or {"image": ..., "edited": ..., "id": ...}."""
    if isinstance(columns, Mapping):
        unknown = sorted(columns.keys() - {"image", "edited", "id"})
        if unknown or "image" not in columns:
            raise PairSourceError(f"columns must name image, and may name edited and id; got {dict(columns)}")
        return Columns(**columns)
    if isinstance(columns, str) or not 1 <= len(columns) <= 2:
        raise PairSourceError(f"columns must be (image, edited) or (image,); got {columns!r}")
    return Columns(*columns)


def choose_columns(dataset: datasets.Dataset, columns: Columns | None, name: str) -> Columns:
    """The columns given, if the table has them; else those of a published set; else the only image column.

    Raises PairSourceError with the table's column names when a column is missing or the choice is not clear.
    """
    present = f"{name}: the columns are {', '.join(dataset.column_names)}"
    if columns is not None:
        missing = [column for column in columns.fields().values() if column not in dataset.column_names]
        if missing:
            raise PairSourceError(f"{present}; there is no {', '.join(missing)}")
        return columns
    known = [pair for pair in KNOWN_COLUMNS if set(pair) <= set(dataset.column_names)]
    if len(known) == 1:
        return Columns(*known[0])
    if known:
        found = " or ".join(f"{image} -> {edited}" for image, edited in known)
        raise PairSourceError(f"{present}; it could be {found}: name them with columns")
    import datasets  # imported already: `dataset` is one of its objects

    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(images) == 1:
        return Columns(images[0])
    reason = f"which of {', '.join(images)} to read is not clear" if images else "none of them holds images"
    raise PairSourceError(f"{present}; {reason}: name them with columns")


def _ids(dataset: datasets.Dataset, column: str, name: str) -> list[str]:
    ids = [str(value) for value in dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()]
    rows: dict[str, int] = {}
    for row, value in enumerate(ids):
        first = rows.setdefault(value, row)
        if first != row:
            raise PairSourceError(f"{name}, row {row}: the {column} {value!r} is already in row {first}")
    return ids
