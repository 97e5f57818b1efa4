"""Sequences that hold paths and build an `ImagePair` at each access. A slice is again lazy."""

import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import overload

from vision_zero.data.folders import Listing
from vision_zero.data.image_files import ImageFile
from vision_zero.types import Domain, ImagePair


class LazyPairs(Sequence[ImagePair]):
    """Pairs that `pair_at` builds from `rows` one at a time; to be pickled, it is a function of a module.

    `layout` names what was read, `notes` are lines about it for the user.
    """

    def __init__(
        self, layout: str, pair_at: Callable[[int], ImagePair], rows: Sequence[int], notes: Sequence[str] = ()
    ) -> None:
        self.layout, self.notes = layout, tuple(notes)
        self.pair_at, self.rows = pair_at, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImagePair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImagePair]: ...
    def __getitem__(self, index: int | slice) -> ImagePair | Sequence[ImagePair]:
        if isinstance(index, slice):
            return LazyPairs(self.layout, self.pair_at, self.rows[index], self.notes)
        return self.pair_at(self.rows[index])


def listed(listing: Listing, domain: Domain) -> LazyPairs:
    """Pairs of image files. `domain` is that of pairs that name none."""
    pair_at = partial(_listed_pair, listing, domain)
    return LazyPairs(listing.layout, pair_at, range(len(listing.pairs)), listing.notes)


def _listed_pair(listing: Listing, domain: Domain, row: int) -> ImagePair:
    root, paths = listing.root, listing.pairs[row]
    return ImagePair(
        id=paths.id,
        image=ImageFile(root / paths.image),
        edited=None if paths.edited is None else ImageFile(root / paths.edited),
        domain=paths.domain or domain,
        meta={} if paths.meta is None else paths.meta,
    )


def mixed(names: Sequence[str], parts: Sequence[LazyPairs]) -> LazyPairs:
    """Several sources one after the other. An id is SOURCE/ID, with the source's name in front."""
    ends = list(accumulate(map(len, parts)))
    notes = [note for part in parts for note in part.notes]
    layout = " + ".join(part.layout for part in parts)
    return LazyPairs(layout, partial(_mixed_pair, names, parts, ends), range(ends[-1]), notes)


def _mixed_pair(names: Sequence[str], parts: Sequence[LazyPairs], ends: Sequence[int], row: int) -> ImagePair:
    number = bisect_right(ends, row)
    pair = parts[number][row - ends[number] + len(parts[number])]
    return dataclasses.replace(pair, id=f"{names[number]}/{pair.id}")
