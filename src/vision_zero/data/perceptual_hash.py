"""Whether two images look the same: a 64-bit perceptual hash, near where they do, and 8 x 8 colours to be sure.

The hash is the common pHash: 32 x 32 grey pixels, their discrete cosine transform (DCT-II), of which the lowest 8 x 8
frequencies are each above or below their median. Another encoding, another size and a small crop change a few bits.
Scenes on one background have near hashes although their objects differ in colour or place; their colours do not lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Hashes = npt.NDArray[np.uint64]
Colours = npt.NDArray[np.uint8]

N_BITS = 64
_SIDE, _KEPT = 32, 8
_BLOCK = 4_000_000
"""Pairs of hashes that are compared at once: 32 MB of XORs."""


def _dct_matrix() -> npt.NDArray[np.float64]:
    """The first _KEPT rows of the DCT-II of _SIDE values, unscaled: cos(pi / N * (n + 1/2) * k)."""
    frequencies, positions = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi / _SIDE * (positions + 0.5) * frequencies)


_DCT = _dct_matrix()


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


def distance(one: int, other: int) -> int:
    """Bits that differ, 0 to 64."""
    return (one ^ other).bit_count()


@dataclass(frozen=True)
class Match:
    """Row `row` of some hashes and row `other` of others, `distance` bits apart."""

    row: int
    other: int
    distance: int


def near_pairs(some: Hashes, others: Hashes, max_distance: int) -> Iterator[tuple[int, list[Match]]]:
    """All pairs at most `max_distance` bits apart, block by block: (rows of `some` done, matches in the block).

    Every pair is compared: 100,000 x 10,000 are a billion XORs, seconds where opening the images takes minutes.
    """
    step = max(1, _BLOCK // max(1, len(others)))
    for start in range(0, len(some), step):
        block = some[start : start + step]
        distances = np.bitwise_count(block[:, None] ^ others[None, :])
        rows, columns = np.nonzero(distances <= max_distance)
        yield (
            start + len(block),
            [
                Match(start + int(row), int(column), int(distances[row, column]))
                for row, column in zip(rows, columns, strict=True)
            ],
        )
