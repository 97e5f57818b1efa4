"""Contamination: images that two sources share, by the names of files or by their pixels.

Results on images that a model was trained on say nothing about what it learnt. `shared_ids` compares names and opens
nothing. `shared_images` compares pixels and also finds copies of another size, encoding or slightly other crop: by a
perceptual hash, of which these change a few of 64 bits, and by 8 x 8 mean colours, as scenes on one background have
similar hashes although their objects differ.

The hash (pHash): 32 x 32 grey pixels, their discrete cosine transform (DCT-II), of which the lowest 8 x 8 frequencies
are each above or below their median.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import abspath

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_zero.data.errors import BadImageError
from vision_zero.data.pairs import BadPair, Bar
from vision_zero.types import ImagePair, ImageSource

DEFAULT_DISTANCE = 10
"""Largest distance in bits of 64. Of 46 photographs, JPEG at quality 30 and half the size move the hash by at most 4
bits, and a crop of 3% on every side by 6 (median) to 14; the nearest two different ones are 20 apart."""

MAX_COLOUR_DIFFERENCE = 50
"""Largest difference, of 255, in the block that differs most. That crop moves it by 28 (median) to 53; two different
photographs differ by 85 at least. Of two million pairs of drawn scenes, 3557 have hashes within 10 bits, and 2 of these
have such similar colours."""

Hashes = npt.NDArray[np.uint64]
Colours = npt.NDArray[np.uint8]

N_BITS = 64
_SIDE, _KEPT = 32, 8
_BLOCK = 4_000_000  # pairs of hashes that are compared at once: 32 MB of XORs
_DCT = np.cos(np.pi / _SIDE * (np.arange(_SIDE)[None, :] + 0.5) * np.arange(_KEPT)[:, None])
"""The first _KEPT rows of the DCT-II of _SIDE values, unscaled: cos(pi / N * (n + 1/2) * k)."""


def shared_ids(some: Iterable[ImagePair], others: Iterable[ImagePair]) -> list[str]:
    """Ids of the pairs of `some` whose image file, not id, is in `others` too. No image is opened."""
    ids = {abspath(pair.image.name): pair.id for pair in some}
    return sorted({ids[name] for name in (abspath(pair.image.name) for pair in others) if name in ids})


@dataclass(frozen=True)
class HashedImages:
    """All images of a source. `ids` names them: a pair's id, with ` (edited)` for its other image."""

    ids: Sequence[str]
    hashes: Hashes
    colours: Sequence[Colours]
    bad: tuple[BadPair, ...]


@dataclass(frozen=True)
class SharedImage:
    """An image of one source and a copy of it in the other, `distance` bits apart."""

    id: str
    other_id: str
    distance: int


def hash_images(pairs: Sequence[ImagePair], bar: Bar = iter) -> HashedImages:
    """Open every image once. Images that cannot be opened are listed, not raised."""
    named = [one for pair in pairs for one in ((pair.id, pair.image), (f"{pair.id} (edited)", pair.edited))]
    ids = [name for name, image in named if image is not None]
    sources = [image for _, image in named if image is not None]
    # Threads: decoding, which is nearly all of it, runs outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        found = list(zip(bar(ids), threads.map(_hash, sources), strict=True))
    bad = tuple(BadPair(name, str(one)) for name, one in found if isinstance(one, BadImageError))
    hashed = [(name, *one) for name, one in found if not isinstance(one, BadImageError)]
    hashes = np.array([bits for _, bits, _ in hashed], dtype=np.uint64)
    return HashedImages([name for name, *_ in hashed], hashes, [colours for *_, colours in hashed], bad)


def shared_images(some: HashedImages, others: HashedImages, max_distance: int, bar: Bar = iter) -> list[SharedImage]:
    """All pairs at most `max_distance` bits apart whose colours are near too, the nearest first."""
    found = [
        SharedImage(some.ids[row], others.ids[other], distance)
        for row, other, distance in near_pairs(some.hashes, others.hashes, max_distance, bar)
        if colour_difference(some.colours[row], others.colours[other]) <= MAX_COLOUR_DIFFERENCE
    ]
    return sorted(found, key=lambda shared: (shared.distance, shared.id, shared.other_id))


def _hash(image: ImageSource) -> tuple[int, Colours] | BadImageError:
    try:
        opened = image.open()
        return perceptual_hash(opened), block_colours(opened)
    except BadImageError as error:
        return error


def perceptual_hash(image: Image.Image) -> int:
    """64 bits, the lowest frequencies first. The mean of the image (frequency 0, 0) is left out of the median."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    frequencies = (_DCT @ np.asarray(grey, dtype=np.float64) @ _DCT.T).ravel()
    bits = frequencies > np.median(frequencies[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def block_colours(image: Image.Image) -> Colours:
    """[192]: the image reduced to 8 x 8 RGB pixels."""
    return np.asarray(image.convert("RGB").resize((_KEPT, _KEPT), Image.Resampling.LANCZOS), dtype=np.uint8).ravel()


def colour_difference(one: Colours, other: Colours) -> int:
    """The largest difference of a channel of a block, 0 to 255."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())


def near_pairs(some: Hashes, others: Hashes, max_distance: int, bar: Bar = iter) -> Iterator[tuple[int, int, int]]:
    """(row of some, row of others, bits apart) of all pairs at most `max_distance` apart, found block by block."""
    step = max(1, _BLOCK // max(1, len(others)))
    for start in bar(range(0, len(some), step)):
        distances = np.bitwise_count(some[start : start + step, None] ^ others[None, :])
        for row, column in zip(*np.nonzero(distances <= max_distance), strict=True):
            yield start + int(row), int(column), int(distances[row, column])
