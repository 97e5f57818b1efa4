"""The arena during training: every few iterations the policy plays its frozen start, on pairs it never trains on.

It draws nothing from any random generator of the run and leaves weights and optimizer alone, so a run with it and one
without are the same run. Lines go to arena.jsonl, the figures of LOGGED to the log with the step's other metrics. One
that a signal ended is played when the run is resumed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vision_zero import run_folder
from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.data.contamination import shared_ids
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.win_rate.arena import Arena, GameOutcome, make_arena
from vision_zero.evaluate.win_rate.main import result_line
from vision_zero.evaluate.win_rate.match import Match
from vision_zero.evaluate.win_rate.metrics import CROSS_PLAY
from vision_zero.rollout.progress import game_bar
from vision_zero.rollout.stopping import STOP, StoppedError
from vision_zero.spo.alarms import OF_THE_ARENA
from vision_zero.types import ImagePair

if TYPE_CHECKING:  # its import brings vLLM
    from trl import GRPOTrainer

LOGGED = (
    *("win_rate", "as_table", "as_spy", "table_gain", "spy_gain"),
    *("civilians_gain", "voters_gain", "together", "against_itself"),
    *("votes/right", "votes/na", "image_gain"),
)
"""Figures that go to the log as `arena/NAME`; all of them, with intervals, are in arena.jsonl."""
LOW, HIGH, SECONDS = "arena/win_rate_low", "arena/win_rate_high", "seconds/arena"


def training_arena(game: GameConfig, args: IterativeSPOConfig, trained_on: Sequence[ImagePair] = ()) -> Arena | None:
    """The arena of a run, None if it is off. Raises ValueError without pairs to play on."""
    if not args.arena_every:
        return None
    if not args.arena_images and not game.holdout:
        raise ValueError(
            "arena_every plays on pairs that are not trained on, and there are none: give --holdout a share of the "
            "pairs, or --arena_images a source of its own, as drawn:200@heldout"
        )
    pairs = load_pairs(args.arena_images, pair_by=game.pair_by) if args.arena_images else game.pairs("heldout")
    if args.arena_images and (shared := shared_ids(pairs, trained_on)):
        raise ValueError(
            f"--arena_images {' '.join(args.arena_images)}: {len(shared)} of its {len(pairs)} pairs are trained on, as "
            f"{shared[0]}; give others, as drawn:200@heldout, or leave it out and give --holdout a share"
        )
    if len(pairs) < 2:
        least = math.ceil(200 / (len(pairs) + len(trained_on))) / 100
        raise ValueError(
            f"--holdout {game.holdout} keeps {len(pairs)} of {len(pairs) + len(trained_on)} pairs for the arena, which "
            f"needs 2: give --holdout {least} or more, or --holdout 0 --arena_every 0"
        )
    return make_arena(
        pairs,
        game.rules(args.num_generations),
        args.token_limits(),
        n_deals=args.arena_games // 2,
        template=game.template,
        skip_bad=game.on_bad_image == "skip",
        games_at_once=args.rollout_batch_size,
    )


class ArenaCallback(TrainerCallback):
    """Plays before the first step, every `arena_every` iterations, and after the last.

    It is made before training starts: the frozen start model is then loaded, where the trainer does not have it.
    """

    def __init__(self, trainer: GRPOTrainer, arena: Arena) -> None:
        self.trainer, self.start = trainer, trainer.start
        part = trainer.accelerator.process_index, trainer.accelerator.num_processes
        frozen = self.start.player(self.start.model, frozen=True)
        self._match = Match(arena, frozen, part=part, gather=self._gather)
        self._file = Path(trainer.args.output_dir) / run_folder.ARENA
        self._told: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        played = [any(line["step"] == state.global_step for line in run_folder.read_json_lines(self._file))]
        broadcast_object_list(played)
        if not played[0]:
            self.on_step_end(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        iteration, rest = divmod(state.global_step, args.optimizer_steps_per_iteration)
        if not rest and (iteration % args.arena_every == 0 or state.global_step >= state.max_steps):
            try:
                self._play(args, state)
            except StoppedError:
                if not STOP.agreed:  # the others read it where they gather next
                    STOP.agree(None)
                    gather_object([STOP.number])

    def _gather(self, outcomes: list[GameOutcome]) -> list[GameOutcome]:
        everyones = gather_object(outcomes)
        for stopped in (one for one in everyones if not isinstance(one, GameOutcome)):
            STOP.agree(stopped)
            raise StoppedError
        return everyones

    def _play(self, args: TrainingArguments, state: TrainerState) -> None:
        started = time.perf_counter()
        match = self._match
        # Before the first step the policy is its start: then it is not played twice.
        new = self.start.player(self.trainer.model) if state.global_step else match.start
        shown = state.is_local_process_zero and not args.disable_tqdm
        bar = game_bar("arena", *match.size(CROSS_PLAY), shown=shown)
        with bar as match.on_call, self.start.gathered(new, match.start):
            result = match.against(new, CROSS_PLAY)
        seconds = time.perf_counter() - started
        figures = result.figures
        line = result_line(result)
        if state.is_world_process_zero:
            run_folder.append_json_line(self._file, {"step": state.global_step, **line, "seconds": round(seconds, 2)})
            tqdm.write(
                f"arena after step {state.global_step}: win rate {figures['win_rate']}, "
                f"image gain {figures['image_gain']}"
            )
            both = line["figures"], line["start"]
            ringing = {alarm.name: alarm.words(both[0]) for alarm in OF_THE_ARENA if alarm.rings(*both)}
            words = ringing | {what: what for what in result.unreadable()}
            for name in (name for name in words if name not in self._told):
                iteration = state.global_step // args.optimizer_steps_per_iteration
                tqdm.write(f"warning: arena after iteration {iteration}: {words[name]}", file=sys.stderr)
            self._told = set(words)
        logged: dict[str, Any] = {f"arena/{name}": figures[name].value for name in LOGGED}
        if figures["win_rate"].low is not None:  # one image pair has no interval
            logged |= {LOW: figures["win_rate"].low, HIGH: figures["win_rate"].high}
        logged[SECONDS] = seconds
        if state.log_history and state.log_history[-1]["step"] == state.global_step:  # after a resume
            state.log_history[-1].update(logged)
            if state.is_world_process_zero:
                metrics = self._file.with_name(run_folder.METRICS)
                *before, last = run_folder.read_json_lines(metrics)
                run_folder.write_json_lines(metrics, [*before, last | logged])
        elif state.global_step:  # TRL averages what is between two logs; a figure of step 0 belongs to none
            for name, value in logged.items():
                self.trainer._metrics["train"][name].append(value)
