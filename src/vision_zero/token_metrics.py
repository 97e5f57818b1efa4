"""Make TRL's means over micro-batches means over tokens, and its extremes those of all rows.

A micro-batch holds fewer tokens than another, or none, and would count as much. So the numbers would depend on which
rows are in a micro-batch together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping

MEANS = ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
EXTREMES: dict[str, Callable[[list[float]], float]] = {"clip_ratio/low_min": min, "clip_ratio/high_max": max}


class TokenMeans:
    """Takes TRL's numbers of each micro-batch out of its log and puts those of the optimizer step back."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = {}
        self._extremes: dict[str, list[float]] = {}

    def take(self, log: MutableMapping[str, list[float]], n_tokens: float) -> None:
        """After a micro-batch with `n_tokens` tokens over all processes."""
        for name in MEANS:
            if log.get(name):
                self._values.setdefault(name, []).append((log[name].pop(), n_tokens))
        for name in EXTREMES:
            if log.get(name):
                value = log[name].pop()
                if not math.isnan(value):  # as a micro-batch of padding alone has it
                    self._extremes.setdefault(name, []).append(value)

    def put_back(self, log: MutableMapping[str, list[float]]) -> None:
        """After the last micro-batch of an optimizer step."""
        for name, values in self._values.items():
            if total := sum(n for _, n in values):
                log[name].append(sum(value * n for value, n in values) / total)
        for name, extremes in self._extremes.items():
            log[name].append(EXTREMES[name](extremes))
        self._values.clear()
        self._extremes.clear()
