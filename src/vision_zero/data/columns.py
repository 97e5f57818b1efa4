"""Which columns of a table hold the images, and which of a data set's splits is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_zero.data.errors import PairSourceError

ALL = "all"

KNOWN_COLUMNS: tuple[tuple[str, str], ...] = (
    ("original_image", "edited_image"),  # instructpix2pix-clip-filtered
    ("input_image", "edited_image"),  # instructpix2pix-1000-samples
    ("source_img", "target_img"),  # MagicBrush
    ("src_img", "edited_img"),  # OmniEdit
    ("source_image", "edited_image"),  # UltraEdit
    ("input_images", "output_images"),  # ImgEdit: lists of one path
)
"""Column names (before, after) that published sets use."""

_SHARD = re.compile(r"(\w[\w.-]*?)-\d{5}-of-\d{5}.*")
_SPLIT_WORD = re.compile(r"(?:^|[^a-z0-9])(train(?:ing)?|test|eval|valid(?:ation)?|val|dev)(?:$|[^a-z])")


@dataclass(frozen=True)
class Columns:
    """Columns to read. Without `id`, the row's number is the id."""

    image: str
    edited: str | None = None
    id: str | None = None

    def fields(self) -> dict[str, str]:
        """Column names by what they hold."""
        return {field: column for field, column in vars(self).items() if column is not None}


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


def choose_columns(present: Sequence[str], images: Sequence[str], columns: Columns | None, name: str) -> Columns:
    """The columns given, if the table has them; else those of a published set; else the only one of `images`.

    Raises PairSourceError with the table's column names when a column is missing or the choice is not clear.
    """
    said = f"{name}: the columns are {', '.join(present)}"
    if columns is not None:
        missing = [column for column in columns.fields().values() if column not in present]
        if missing:
            raise PairSourceError(f"{said}; there is no {', '.join(missing)}")
        return columns
    known = [pair for pair in KNOWN_COLUMNS if set(pair) <= set(present)]
    if len(known) == 1:
        return Columns(*known[0])
    if known:
        found = " or ".join(f"{image} -> {edited}" for image, edited in known)
        raise PairSourceError(f"{said}; it could be {found}: name them with columns")
    if len(images) == 1:
        return Columns(images[0])
    reason = f"which of {', '.join(images)} to read is not clear" if images else "none of them holds images"
    raise PairSourceError(f"{said}; {reason}: name them with columns")


def split_of(path: str) -> str:
    """Split that the path of a file in a data set names, as `data/train-00000-of-00003.parquet`; empty for none."""
    stem = path.removesuffix(".parquet")
    if match := _SHARD.fullmatch(stem.rsplit("/", 1)[-1]):
        return match[1]
    named = {"train" if word == "training" else word for word in _SPLIT_WORD.findall(stem.lower())}
    return named.pop() if len(named) == 1 else ""


def choose_splits(found: Mapping[str, str], name: str, wanted: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The splits that are read, and a note about the others. `found`: what each split holds, for messages.

    It is the one `wanted` (`all`: every one), the only one, or the one called train. Raises PairSourceError where none
    of these is there, and where only some of the files name a split.
    """
    said = ", ".join(f"{split or '(no split)'} ({what})" for split, what in found.items())
    if wanted == ALL or (wanted is None and len(found) == 1):
        return list(found), ()
    if wanted is None and "" in found:
        raise PairSourceError(
            f"{name}: the names of only some files have a split in them: {said}; say which to read with --split NAME, "
            "or --split all"
        )
    chosen = wanted or "train"
    if chosen not in found:
        raise PairSourceError(
            f'{name}: has the splits {", ".join(filter(None, found)) or "(no names)"} and none called "{chosen}"; give '
            "--split NAME, or --split all"
        )
    left = ", ".join(f"{split or '(no split)'} ({what})" for split, what in found.items() if split != chosen)
    return [chosen], (
        f"{name}: the split {chosen} is read ({found[chosen]}), not {left}; --split says which",
    ) if left else ()
