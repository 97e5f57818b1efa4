"""Statistics over seeds: t-intervals of means and of paired differences, and the smallest effect a study can show.

A run is one draw: its games say how good *its* model is, not how good the method is. So every interval of a study is
over seeds (Student's t), each seed's value the mean of its games; with 3 or 5 seeds it is wide, as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as students_t

COVERAGE = 0.95
POWER = 0.8
GAME_DEVIATION = 0.5
"""Standard deviation of a game that is won half of the time."""


@dataclass(frozen=True)
class OverSeeds:
    """A mean over `n` seeds with its 95% t-interval; no interval (None) from a single seed."""

    value: float
    low: float | None
    high: float | None
    n: int

    def text(self, sign: bool = False) -> str:
        """`0.650 (0.610 to 0.690)`."""
        style = "+.3f" if sign else ".3f"
        if self.low is None or self.high is None:
            return f"{self.value:{style}} (one seed)"
        return f"{self.value:{style}} ({self.low:{style}} to {self.high:{style}})"


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("a mean over seeds needs at least one seed")
    mean, n = fmean(values), len(values)
    if n == 1:
        return OverSeeds(mean, None, None, 1)
    half = t_quantile((1 + COVERAGE) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return OverSeeds(mean, mean - half, mean + half, n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> OverSeeds | None:
    """`ours - theirs` by seed, over the seeds that both have; None if there is none.

    Runs of one seed share their deals, in training and in the arena, and their start.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    return over_seeds([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def smallest_effect(n_games: int, n_seeds: int, seed_deviation: float = 0.0) -> float | None:
    """The difference of two arms' win rates that a study finds with a probability of 0.8 (two-sided, 95%).

    `(t_.975 + t_.8) sqrt(2 (s^2 + 1/4 / n_games) / n_seeds)` with n_seeds - 1 degrees of freedom: s is the standard
    deviation between seeds beyond what the finite number of games makes. With the default 0 it is the smallest effect
    that the games alone allow; what seeds add is known only afterwards. None for a single seed, which shows nothing.
    """
    if n_seeds < 2:
        return None
    t = t_quantile((1 + COVERAGE) / 2, n_seeds - 1) + t_quantile(POWER, n_seeds - 1)
    variance = seed_deviation**2 + GAME_DEVIATION**2 / n_games
    return t * math.sqrt(2 * variance / n_seeds)


def t_quantile(probability: float, degrees: int) -> float:
    return float(students_t.ppf(probability, degrees))
