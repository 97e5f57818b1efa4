"""Progress bars that count games, say how many are done per second, and how long the rest takes at that rate.

The rate is that of all the work so far, not of the last moments: turns are answered in bursts, and an estimate that
jumps is none. Bars are drawn on a terminal and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.0f} games [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def _bar(doing: str, n_games: int, done: float, shown: bool) -> Any:
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
    with _bar(doing, n_games, 0, shown) as bar:
        yield lambda parts: bar.update(parts * n_games / n_parts)


class UpdateBar(TrainerCallback):
    """A bar over the micro-batches of an iteration's update.

    It begins with the end of the first micro-batch, whose time has the rollout in it.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._advance(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._advance(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def _advance(self, args: Any, state: TrainerState) -> None:
        n_parts = args.steps_per_generation * args.num_iterations
        games_per_part = args.games_per_iteration / n_parts
        self._done += 1
        if self._done == n_parts:
            self._close()
        elif self._bar is None:
            shown = state.is_local_process_zero and not args.disable_tqdm
            self._bar = _bar("updating", args.games_per_iteration, self._done * games_per_part, shown)
        else:
            self._bar.update(games_per_part)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._done = None, 0
