"""The images that one source has in common with another: what a model was trained on says nothing about what it learnt.

`overlap` compares names and opens nothing; this compares what is seen, so it finds copies of another size, encoding or
a slightly other crop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vision_zero.data.check import BadPair
from vision_zero.data.images import BadImageError
from vision_zero.data.perceptual_hash import (
    Colours,
    Hashes,
    block_colours,
    colour_difference,
    near_pairs,
    perceptual_hash,
)
from vision_zero.types import ImagePair, ImageSource

OnProgress = Callable[[int, int], None]

DEFAULT_DISTANCE = 10
"""Bits of 64. Of 46 photographs, JPEG at quality 30 and half the size move the hash by at most 4 bits, and a crop of 3%
on every side by 6 (median) to 14; the nearest two different ones are 20 apart."""

MAX_COLOUR_DIFFERENCE = 50
"""Of 255, in the block that differs most. That crop moves it by 28 (median) to 53; two different photographs differ by
85 at least. Of two million pairs of drawn scenes, 3557 have hashes within 10 bits, and 2 of these such near colours."""


@dataclass(frozen=True)
class HashedImages:
    """All images of a source. `ids` names them: a pair's id, with ` (edited)` for its other image."""

    ids: Sequence[str]
    hashes: Hashes
    colours: Sequence[Colours]
    bad: tuple[BadPair, ...]


@dataclass(frozen=True)
class SharedImage:
    """An image of one source and the one of the other that looks like it, `distance` bits apart."""

    id: str
    other_id: str
    distance: int


def hash_images(pairs: Sequence[ImagePair], on_progress: OnProgress | None = None) -> HashedImages:
    """Open every image once. Images that cannot be opened are listed, not raised. `on_progress(opened, total)`."""
    ids: list[str] = []
    sources: list[ImageSource] = []
    for pair in pairs:
        for name, image in ((pair.id, pair.image), (f"{pair.id} (edited)", pair.edited)):
            if image is not None:
                ids.append(name)
                sources.append(image)
    kept: list[str] = []
    hashes: list[int] = []
    colours: list[Colours] = []
    bad: list[BadPair] = []
    # Threads: decoding, which is nearly all of it, runs outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for n_done, (name, found) in enumerate(zip(ids, threads.map(_hash, sources), strict=True), start=1):
            if isinstance(found, BadImageError):
                bad.append(BadPair(name, str(found)))
            else:
                kept.append(name)
                hashes.append(found[0])
                colours.append(found[1])
            if on_progress is not None:
                on_progress(n_done, len(ids))
    return HashedImages(kept, np.array(hashes, dtype=np.uint64), colours, tuple(bad))


def shared_images(
    some: HashedImages, others: HashedImages, max_distance: int, on_progress: OnProgress | None = None
) -> list[SharedImage]:
    """All pairs at most `max_distance` bits apart whose colours are near too, the nearest first."""
    found: list[SharedImage] = []
    for n_done, matches in near_pairs(some.hashes, others.hashes, max_distance):
        found += [
            SharedImage(some.ids[one.row], others.ids[one.other], one.distance)
            for one in matches
            if colour_difference(some.colours[one.row], others.colours[one.other]) <= MAX_COLOUR_DIFFERENCE
        ]
        if on_progress is not None:
            on_progress(n_done, len(some.hashes))
    return sorted(found, key=lambda shared: (shared.distance, shared.id, shared.other_id))


def _hash(image: ImageSource) -> tuple[int, Colours] | BadImageError:
    try:
        opened = image.open()
        return perceptual_hash(opened), block_colours(opened)
    except BadImageError as error:
        return error
