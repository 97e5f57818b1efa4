"""Progress bars in games, with games per second and the time left. Drawn on a terminal only.

The rate is the mean over all work so far, because turns are answered in bursts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.0f} games [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def make_bar(doing: str, n_games: int, done: float, shown: bool) -> Any:
    """Bar at `done` of `n_games` games; drawn only if `shown`."""
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
    """Bar over `n_games` games; yields a function that advances it by some of `n_parts` equal parts, such as turns."""
    with make_bar(doing, n_games, 0, shown) as bar:
        yield lambda parts: bar.update(parts * n_games / n_parts)
