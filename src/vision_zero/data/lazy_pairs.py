"""Sequences that hold paths and build an `ImagePair` at each access. A slice is again lazy."""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from vision_zero.data.folders import Listing
from vision_zero.data.image_files import ImageFile
from vision_zero.types import Domain, ImagePair


class LazyPairs(Sequence[ImagePair]):
    """Base of the lazy sequences. `layout` names what was read, `notes` are lines about it for the user."""

    def __init__(self, layout: str, length: int, notes: Sequence[str] = ()) -> None:
        self.layout = layout
        self.notes = tuple(notes)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def pair_at(self, row: int) -> ImagePair:
        """The pair at `row`, 0 <= row < len(self)."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> ImagePair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImagePair]: ...
    def __getitem__(self, index: int | slice) -> ImagePair | Sequence[ImagePair]:
        if isinstance(index, slice):
            return PairSubset(self, range(*index.indices(len(self))))
        return self.pair_at(range(len(self))[index])


class PairSubset(LazyPairs):
    def __init__(self, pairs: LazyPairs, rows: Sequence[int]) -> None:
        super().__init__(pairs.layout, len(rows), pairs.notes)
        self._pairs = pairs
        self._rows = rows

    def pair_at(self, row: int) -> ImagePair:
        return self._pairs.pair_at(self._rows[row])


class ListedPairs(LazyPairs):
    """Pairs of image files. `domain` is that of pairs that name none."""

    def __init__(self, listing: Listing, domain: Domain) -> None:
        super().__init__(listing.layout, len(listing.pairs), listing.notes)
        self._listing = listing
        self._domain = domain

    def pair_at(self, row: int) -> ImagePair:
        root, paths = self._listing.root, self._listing.pairs[row]
        return ImagePair(
            id=paths.id,
            image=ImageFile(root / paths.image),
            edited=None if paths.edited is None else ImageFile(root / paths.edited),
            domain=paths.domain or self._domain,
            meta={} if paths.meta is None else paths.meta,
        )


class MixedPairs(LazyPairs):
    """Several sources one after the other. An id is SOURCE/ID, with the source's name in front."""

    def __init__(self, names: Sequence[str], parts: Sequence[LazyPairs]) -> None:
        self._names = names
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))
        notes = [note for part in parts for note in part.notes]
        super().__init__(" + ".join(part.layout for part in parts), self._ends[-1], notes)

    def pair_at(self, row: int) -> ImagePair:
        number = bisect_right(self._ends, row)
        part = self._parts[number]
        pair = part.pair_at(row - self._ends[number] + len(part))
        return dataclasses.replace(pair, id=f"{self._names[number]}/{pair.id}")
