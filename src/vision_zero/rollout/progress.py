"""Progress bars that count games, say how many are done per second, and how long the rest takes at that rate.

The rate is that of all the work so far, not of the last moments: turns are answered in bursts, and an estimate that
jumps is none. Bars are drawn on a terminal and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.0f} games [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def make_bar(doing: str, n_games: int, done: float, shown: bool) -> Any:
    """A bar that stands at `done` of `n_games` games; it is not drawn unless `shown`."""
    return tqdm(
        desc=doing,
        total=n_games,
        initial=done,
        unit=" games",
        bar_format=FORMAT,
        smoothing=0,
        leave=False,
        disable=None if shown else True,  # None: shown if this is a terminal
    )


@contextmanager
def game_bar(doing: str, n_games: int, n_parts: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields what is told how many more of `n_parts` equal parts (such as turns) of all the games are done."""
    with make_bar(doing, n_games, 0, shown) as bar:
        yield lambda parts: bar.update(parts * n_games / n_parts)
