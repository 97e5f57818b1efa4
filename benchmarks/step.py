"""A whole training step by part, for both stages: CPU seconds per game through the real trainer.

    python benchmarks/step.py
    python benchmarks/step.py --games 64 --micro_batch 8 --gradient_checkpointing

The first step of each stage warms up and is not counted.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from typing import Any

import torch
from common import PUBLIC, arguments, pairs, report, rules

from vision_zero.config import IterativeSPOConfig
from vision_zero.models import load_processor
from vision_zero.trainer import IterativeSPOTrainer
from vision_zero.types import Stage


class TimedTrainer(IterativeSPOTrainer):
    """The trainer with a stopwatch (process CPU time) around its parts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.preprocessings: list[int] = []
        super().__init__(*args, **kwargs)

    def _timed(self, part: str, method: Any, *args: Any) -> Any:
        start = time.process_time()
        result = method(*args)
        self.cpu[part] += time.process_time() - start
        return result

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        return self._timed("play and score", super()._generate_and_score_completions, inputs)

    def _play(self, *args: Any) -> Any:
        return self._timed("rollout", super()._play, *args)

    def _replay(self, *args: Any) -> Any:
        return self._timed("rows: processor and reference", super()._replay, *args)

    def training_step(self, *args: Any) -> Any:
        if self.state.global_step == 1 and self._step == self.args.steps_per_generation:
            self.cpu.clear()
            self.preprocessings.append(self.memo.preprocessed)
        return self._timed("step", super().training_step, *args)


def time_stage(stage: Stage, options: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        args = IterativeSPOConfig(
            output_dir=folder,
            schedule=stage,
            iterations=1 + options.steps,
            games_per_iteration=options.games,
            num_generations=options.votes,
            per_device_train_batch_size=options.micro_batch,
            max_clue_tokens=options.tokens,
            min_clue_tokens=options.tokens,
            max_vote_tokens=options.tokens,
            min_vote_tokens=options.tokens,
            rollout_batch_size=options.batch,
            gradient_checkpointing=options.gradient_checkpointing,
            beta=options.kl,
            record_games_every=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            model_init_kwargs={"dtype": "float32"},
        )
        trainer = TimedTrainer(
            options.model,
            args,
            pairs(options),
            rules(options),
            load_processor(options.model),
            template=options.template,
        )
        trainer.train()
        games = options.games * options.steps
        step = trainer.cpu["step"] / games
        rollout = trainer.cpu["rollout"] / games
        rows = trainer.cpu["rows: processor and reference"] / games
        return {
            f"{stage}: step, CPU s per game": step,
            f"{stage}:   rollout": rollout,
            f"{stage}:   rows (processor, reference)": rows,
            f"{stage}:   deal, score, log": trainer.cpu["play and score"] / games - rollout - rows,
            f"{stage}:   update (forward, backward)": step - trainer.cpu["play and score"] / games,
            f"{stage}: image preprocessings per game": (trainer.memo.preprocessed - trainer.preprocessings[0]) / games,
            f"{stage}: public code, CPU s per game": PUBLIC[f"{stage} step"],
            f"{stage}: ratio to public code": PUBLIC[f"{stage} step"] / step,
        }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=1, help="counted steps per stage")
    parser.add_argument("--micro_batch", type=int, default=16, help="rows per forward and backward")
    parser.add_argument("--kl", type=float, default=0.04, help="KL weight; 0 needs no reference model")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--stages", nargs="+", default=["decision", "clue"], choices=["decision", "clue"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, float] = {}
    for stage in options.stages:
        rows |= time_stage(stage, options)
    report("step", rows, options)


if __name__ == "__main__":
    main()
