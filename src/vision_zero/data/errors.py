"""Errors of sources and images, in one line that a terminal can show: the names and values in it are others'."""

import re
from collections.abc import Sequence
from pathlib import Path

MAX_WORD = 300
LFS_POINTER = b"version https://git-lfs"
LFS_ADVICE = "is a Git LFS pointer in place of the file (`git lfs pull` in its clone fetches it)"


class _PrintableError(ValueError):
    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class PairSourceError(_PrintableError):
    """A source of image pairs is not laid out as it should be. The message names the file and what to do."""


class BadImageError(_PrintableError):
    """An image, or the two images of a pair, cannot be used. The message begins with the name."""


def printable(text: str) -> str:
    """`text` with control characters, which a terminal would obey, as escapes, and words of base64 cut."""
    visible = "".join(one if one.isprintable() else one.encode("unicode_escape", "replace").decode() for one in text)
    return re.sub(rf"\S{{{MAX_WORD},}}", lambda word: f"{word[0][:80]}... ({len(word[0])} characters)", visible)


def shorten(names: Sequence[str], limit: int = 3) -> str:
    """The first few names for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def is_lfs_pointer(path: Path) -> bool:
    """True for a file that Git LFS left in place of a large one. Raises OSError for one that cannot be read."""
    with open(path, "rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER
