"""Drawn scenes as a source of image pairs: `drawn:COUNT`, `drawn:COUNT@FIRST`, `drawn:COUNT@heldout`. No files."""

from __future__ import annotations

import re

from vision_zero.data.drawings import drawn_pair
from vision_zero.data.layouts import PairSourceError
from vision_zero.data.sequences import LazyPairs
from vision_zero.types import ImagePair

PREFIX = "drawn:"
FIRST_HELDOUT = 1 << 40
"""`heldout` drawings begin here. Training on drawings counts from 0, or from a first number below this one."""


class DrawnPairs(LazyPairs):
    """Drawings `first` to `first + count - 1`, each drawn when it is opened."""

    def __init__(self, count: int, first: int) -> None:
        self.layout = "drawings"
        self._numbers = range(first, first + count)

    def __len__(self) -> int:
        return len(self._numbers)

    def pair_at(self, row: int) -> ImagePair:
        return drawn_pair(self._numbers[row])


def is_drawn(source: object) -> bool:
    return isinstance(source, str) and source.startswith(PREFIX)


def is_heldout(source: str) -> bool:
    return is_drawn(source) and source.endswith("@heldout")


def read_drawn(source: str) -> DrawnPairs:
    """The pairs of `drawn:COUNT` (numbers 0, 1, ...), `drawn:COUNT@FIRST` or `drawn:COUNT@heldout`.

    Raises PairSourceError for anything else, and for drawings that reach into the held-out ones by number.
    """
    match = re.fullmatch(r"drawn:([1-9]\d{0,8})(?:@(\d{1,12}|heldout))?", source)
    if match is None:
        raise PairSourceError(
            f"{source}: drawings are drawn:COUNT, drawn:COUNT@FIRST or drawn:COUNT@heldout, as drawn:2000@10000"
        )
    count = int(match[1])
    if match[2] == "heldout":
        return DrawnPairs(count, FIRST_HELDOUT)
    first = int(match[2] or 0)
    if first + count > FIRST_HELDOUT:
        raise PairSourceError(f"{source}: drawings from number {FIRST_HELDOUT} on are for drawn:COUNT@heldout")
    return DrawnPairs(count, first)
