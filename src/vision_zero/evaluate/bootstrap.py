"""Means with 95% bootstrap intervals, and paired comparisons, over games or over questions.

Whole games are resampled: the votes and clues of one game are not independent. Two match-ups that played the same
deals are compared deal by deal, and a model with its base question by question: what is easy for both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95
AT_ONCE = 1 << 20
"""Random indices held at a time: 8 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval: percentiles of the means of 2,000 bootstrap samples."""

    value: float
    low: float
    high: float

    @classmethod
    def of_mean(cls, values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Self:
        """The mean of `values`, one per game or question. The same values and seed give the same interval.

        Raises ValueError without values, or for one that is not finite.
        """
        if not len(values):
            raise ValueError("a mean needs at least one value")
        if not all(map(math.isfinite, values)):
            raise ValueError("a value of a mean is not a finite number")
        array = np.asarray(values, dtype=np.float64)
        mean = float(array.mean())
        if (array == array[0]).all():
            return cls(float(array[0]), float(array[0]), float(array[0]))
        rng = np.random.default_rng(seed)
        rows = max(1, AT_ONCE // len(array))
        means = [
            array[rng.integers(len(array), size=(min(rows, resamples - start), len(array)))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
        low, high = np.quantile(np.concatenate(means), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return cls(mean, float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of `ours - theirs`, value by value. Raises ValueError for lists of different lengths."""
    return Interval.of_mean([a - b for a, b in zip(ours, theirs, strict=True)], seed=seed)


@dataclass(frozen=True)
class Comparison:
    """A model and its base on one benchmark: scores in 0..1 with 95% intervals over questions.

    `difference`: mean of (model - base) per question. `better`, `worse`: counts of questions.
    """

    questions: int
    base: Interval
    model: Interval
    difference: Interval
    better: int
    worse: int


def compare_questions(base: Mapping[str, float], model: Mapping[str, float]) -> Comparison:
    """The comparison of two models' scores, given by question. Raises ValueError if they answered other questions."""
    if base.keys() != model.keys():
        only_base, only_model = len(base.keys() - model.keys()), len(model.keys() - base.keys())
        raise ValueError(
            f"the two did not answer the same questions: {only_base} only the base, {only_model} only the model"
        )
    if not base:
        raise ValueError("no question was answered")
    names = sorted(base)
    ours, theirs = [model[name] for name in names], [base[name] for name in names]
    pairs = list(zip(ours, theirs, strict=True))
    return Comparison(
        questions=len(names),
        base=Interval.of_mean(theirs),
        model=Interval.of_mean(ours),
        difference=paired(ours, theirs),
        better=sum(a > b for a, b in pairs),
        worse=sum(a < b for a, b in pairs),
    )
