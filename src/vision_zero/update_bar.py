"""The progress bar of an update, as a callback of the trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vision_zero.progress import make_bar


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
            self._bar = make_bar("updating", args.games_per_iteration, self._done * games_per_part, shown)
        else:
            self._bar.update(games_per_part)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._done = None, 0
