"""Means with 95% bootstrap intervals, and paired comparisons, over games or over questions.

Image pairs are resampled, each with all its games: games on one pair are not independent, nor are the votes and clues
of one game. Two match-ups that played the same deals are compared deal by deal, and a model with its base question by
question: what is easy for both cancels out.

    interval   percentiles of bootstrapped means, wider for few pairs: cut at Phi(-sqrt(n / (n - 1)) t), t Student's
               97.5% quantile with n - 1 degrees of freedom (Hesterberg, The American Statistician 69, 2015)
    unanimous  where all n pairs have the mean v, at most e = 1 - 0.025^(1/n) of all pairs have another (Clopper and
               Pearson, Biometrika 26, 1934): from v - e (v - least) to v + e (most - v)
    one pair   says nothing about others: no interval, low and high are None
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np

RESAMPLED = "resampled"
"""What the intervals of a line of a file resampled: pairs. Lines of older versions do not say: deals."""
RESAMPLES = 2000
COVERAGE = 0.95
ROUNDING = 1e-12
"""Means of pairs that differ by less are equal."""
AT_ONCE = 1 << 20
"""Random indices held at a time: 8 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, None where there is none to claim; see the module."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of_mean(
        cls,
        values: Sequence[float],
        *,
        pairs: Sequence[Hashable] | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Self:
        """The mean of `values`, one per game or question. The same values and seed give the same interval.

        `pairs`: the image pair of each value; None: each has its own. `bounds`: what a value may be at least and at
        most; None: not known, and then a unanimous result has no interval. Raises ValueError without values, and for
        one that is not finite.
        """
        if not len(values):
            raise ValueError("a mean needs at least one value")
        if not all(map(math.isfinite, values)):
            raise ValueError("a value of a mean is not a finite number")
        by_pair: dict[Hashable, list[float]] = {}
        for pair, value in zip(range(len(values)) if pairs is None else pairs, values, strict=True):
            by_pair.setdefault(pair, []).append(value)
        sums = np.array([math.fsum(some) for some in by_pair.values()])
        counts = np.array([len(some) for some in by_pair.values()])
        mean, n = math.fsum(values) / len(values), len(by_pair)
        unanimous, (least, most) = np.ptp(sums / counts) <= ROUNDING, bounds or (math.inf, -math.inf)
        if n == 1 or (unanimous and not least <= mean <= most):
            return cls(mean, None, None)
        if unanimous:
            others = 1 - ((1 - COVERAGE) / 2) ** (1 / n)
            return cls(mean, mean - others * (mean - least), mean + others * (most - mean))
        rng = np.random.default_rng(seed)
        rows = max(1, AT_ONCE // n)
        drawn = (rng.integers(n, size=(min(rows, resamples - start), n)) for start in range(0, resamples, rows))
        means = np.concatenate([sums[some].sum(axis=1) / counts[some].sum(axis=1) for some in drawn])
        tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * students_t(n - 1))
        low, high = np.quantile(means, [tail, 1 - tail])
        return cls(mean, float(low), float(high))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def students_t(v: int) -> float:
    """Student's 97.5% quantile with `v` degrees of freedom, as in Abramowitz and Stegun, 26.7.5."""
    z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return t + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)


def paired(ours: Sequence[float], theirs: Sequence[float], **options: Any) -> Interval:
    """The mean of `ours - theirs`, value by value; options of `of_mean`. Raises ValueError for other lengths."""
    return Interval.of_mean([a - b for a, b in zip(ours, theirs, strict=True)], **{"bounds": (-1.0, 1.0), **options})


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
