"""What a maker of image pairs is: a function of options and a seeded generator, which may refuse an attempt.

A module of a domain has a maker and two functions: `add_arguments(parser)` adds the domain's options, and
`from_arguments(args) -> Maker` builds the maker of the parsed ones. `vision_zero.make_data` does the rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from vision_zero.types import Domain


class Rejected(Exception):
    """An attempt at a pair that breaks a rule. Its text is short and of few kinds: rejects are counted by it."""


class MakingError(RuntimeError):
    """Making pairs cannot go on. The message names the file or the pair and says what to do."""


@dataclass(frozen=True)
class MadePair:
    """One pair. `documents` are JSON objects kept beside it as FOLDER/NAME_SUFFIX.json, by "FOLDER/SUFFIX"."""

    original: Image.Image
    edited: Image.Image
    meta: Mapping[str, Any]
    documents: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[random.Random, int], MadePair]
"""Pair `number` from a generator seeded by (seed, number, attempt) alone. Raises Rejected for a failed attempt."""


class Maker(Protocol):
    """Options of one domain. It is pickled into worker processes; what they need open (a renderer) `open` opens."""

    domain: Domain
    name: str
    """Begins the pairs' ids: `clevr_000017`."""

    max_attempts: int
    """Attempts at one pair before it is given up."""

    def open(self) -> AbstractContextManager[Make]: ...


@runtime_checkable
class KnowsHowMany(Protocol):
    """A maker whose material sets how many pairs it makes when nobody says."""

    @property
    def default_n(self) -> int: ...


@runtime_checkable
class HasMaterial(Protocol):
    """A maker that works on files of the user's."""

    def material(self) -> str:
        """A fingerprint of them: with other files, pair k would be another. Raises ValueError if they are no use."""


@runtime_checkable
class Summarizes(Protocol):
    """A maker that has something to say of its material (how many tables, styles): JSON, the same in every run."""

    def summary(self) -> Mapping[str, Any]: ...


def attempt_rng(name: str, seed: int, number: int, attempt: int) -> random.Random:
    """The generator of one attempt: a function of the arguments alone, not of n, of workers or of other pairs."""
    return random.Random(f"vision-zero/{name}/{seed}/{number}/{attempt}")
