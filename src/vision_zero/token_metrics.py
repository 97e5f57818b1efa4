"""Make TRL's means over micro-batches means over tokens.

A micro-batch with padding holds fewer tokens than another, or none, and would count as much.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

MEANS = ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
EXTREMES = ("clip_ratio/low_min", "clip_ratio/high_max")


class TokenMeans:
    """Takes TRL's numbers of each micro-batch out of its log and puts their means over tokens back."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = {}

    def take(self, log: MutableMapping[str, list[float]], n_tokens: float) -> None:
        """After a micro-batch with `n_tokens` tokens over all processes."""
        for name in MEANS:
            if log.get(name):
                self._values.setdefault(name, []).append((log[name].pop(), n_tokens))
        for name in EXTREMES:
            if log.get(name) and math.isnan(log[name][-1]):  # a micro-batch of padding alone
                log[name].pop()

    def put_back(self, log: MutableMapping[str, list[float]]) -> None:
        """After the last micro-batch of an optimizer step."""
        for name, values in self._values.items():
            if total := sum(n for _, n in values):
                log[name].append(sum(value * n for value, n in values) / total)
        self._values.clear()
