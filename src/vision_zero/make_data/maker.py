"""Interface of the makers of image pairs: options of one domain that turn a seeded generator into a pair.

The module of a domain has a `Maker` and two functions: `add_arguments(parser)` adds the domain's options, and
`from_arguments(args) -> Maker` builds the maker from the parsed ones. `vision_zero.make_data` does the rest.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_zero.types import Domain

VISIBLE_CHANGE = 25  # a pixel has changed if one of its channels differs by more than this, of 255
ImageLike = Image.Image | npt.NDArray[np.uint8]


class Rejected(Exception):
    """An attempt at a pair that breaks a rule. The message is one of a few short ones: rejects are counted by it."""


class MakerError(RuntimeError):
    """A failure that stops a run. The message names the file or the pair and says what to do."""


@dataclass(frozen=True)
class EditedPair:
    """A pair from a maker. `documents` are JSON objects by "FOLDER/SUFFIX", written to FOLDER/NAME_SUFFIX.json."""

    original: Image.Image
    edited: Image.Image
    meta: Mapping[str, Any]
    documents: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[random.Random, int], EditedPair]
"""Pair `number` from a generator seeded by (seed, number, attempt) alone. Raises Rejected for a failed attempt."""


class Maker(Protocol):
    """Options of one domain, pickled into worker processes. `open` starts what a worker needs, such as a renderer."""

    domain: Domain
    name: str  # prefix of the pairs' ids: `clevr_000017`
    max_attempts: int  # at one pair before it is given up

    @property
    def default_n(self) -> int:
        """Pairs that are made if --n is not given."""

    def open(self) -> AbstractContextManager[Make]: ...

    def material(self) -> str | None:
        """Fingerprint of the user's files that the pairs depend on. Raises ValueError for any that cannot be used."""
        return None

    def summary(self) -> dict[str, Any]:
        """What the maker's sources are (counts of tables, styles) in JSON, equal in every run."""
        return {}


def attempt_rng(name: str, seed: int, number: int, attempt: int) -> random.Random:
    """Generator of one attempt, a function of the arguments alone: not of n, of workers or of other pairs."""
    return random.Random(f"vision-zero/{name}/{seed}/{number}/{attempt}")


def attempt_pair(maker: Maker, make: Make, seed: int, number: int) -> tuple[EditedPair | None, dict[str, int]]:
    """The first attempt that is not rejected, or None after `max_attempts`; and the rejects by reason."""
    rejects: Counter[str] = Counter()
    for attempt in range(maker.max_attempts):
        try:
            return make(attempt_rng(maker.name, seed, number, attempt), number), dict(rejects)
        except Rejected as rejected:
            rejects[str(rejected)] += 1
    return None, dict(rejects)


def changed_pixels(before: ImageLike, after: ImageLike) -> npt.NDArray[np.bool_]:
    """[height, width] of two RGB images: True where some channel differs by more than VISIBLE_CHANGE."""
    difference = np.asarray(before, dtype=np.int16) - np.asarray(after, dtype=np.int16)
    return np.asarray(np.abs(difference).max(axis=2) > VISIBLE_CHANGE)


def changed_share(before: ImageLike, after: ImageLike) -> float:
    return float(changed_pixels(before, after).mean())


def check_share(share: float, bounds: tuple[float, float], too_small: str, too_large: str) -> None:
    """Raises Rejected, with one of the reasons, for a share of the pixels outside its bounds (least, largest)."""
    if not bounds[0] <= share <= bounds[1]:
        raise Rejected(too_small if share < bounds[0] else too_large)


def option_values(args: argparse.Namespace, *names: str, prefix: str = "") -> dict[str, Any]:
    """Parsed options by name, as arguments of a maker: without those that were not given, lists as tuples."""
    found = {name: getattr(args, prefix + name, None) for name in names}
    return {name: tuple(one) if isinstance(one, list) else one for name, one in found.items() if one is not None}
