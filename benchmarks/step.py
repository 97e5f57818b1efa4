"""A whole training step by part, for both stages: CPU seconds per game through the real trainer.

    python benchmarks/step.py
    python benchmarks/step.py --games 64 --micro_batch 8 --gradient_checkpointing
    python benchmarks/step.py --freeze_vision
    python benchmarks/step.py --whole_rows
    python benchmarks/step.py --shortest 8

The first step of each stage warms up and is not counted. After the counted steps as many follow in which samples are
batched and scored as TRL does it: whole, in the order of games and padded to the longest of all. Completions have one
length unless `--shortest` cuts them, so only prompts differ.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from common import PUBLIC, arguments, pairs, report, rules
from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from vision_zero.config.options import IterativeSPOConfig
from vision_zero.models import load_processor
from vision_zero.rollout.play import Seating
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.types import Completion, Stage


class Shortened:
    """The completions of `policy` cut to `shortest` tokens or more, the same for the same turn."""

    def __init__(self, policy: Policy, shortest: int) -> None:
        self.policy, self.shortest = policy, shortest

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        lengths = [random.Random(one.seed).randint(self.shortest, one.token_limits.maximum) for one in requests]
        return [
            replace(completion, token_ids=completion.token_ids[:length], logprobs=completion.logprobs[:length])
            for completion, length in zip(self.policy.answer(requests), lengths, strict=True)
        ]


class TimedTrainer(IterativeSPOTrainer):
    """The trainer with a stopwatch (process CPU time) around its parts.

    After the first and `counted` more steps, samples are batched and scored as TRL does it.
    """

    def __init__(self, *args: Any, counted: int, **kwargs: Any) -> None:
        self.counted = counted
        self.as_trl = False
        self.cpu: dict[str, float] = defaultdict(float)
        self.encoded = 0
        self.after: dict[int, dict[str, float]] = {}
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if model is not None:
                model.get_encoder("image").register_forward_pre_hook(self._count_images, with_kwargs=True)

    def _count_images(self, tower: Any, args: Any, kwargs: Any) -> None:
        """Images that a tower is asked for; a frozen one computes each of them once and counts itself."""
        self.encoded += len(kwargs["grid_thw"]) if "grid_thw" in kwargs else len(kwargs["pixel_values"])

    def _totals(self) -> dict[str, float]:
        return {
            **self.cpu,
            "images preprocessed": self.memo.preprocessed,
            "images encoded": self.encoded if self.frozen is None else self.frozen.encoded,
        }

    def per_game(self, start: int, end: int) -> dict[str, float]:
        """Seconds of the steps after `start` up to `end`, per game."""
        games = self.args.games_per_iteration * (end - start)
        taken = {name: (total - self.after[start][name]) / games for name, total in self.after[end].items()}
        return {**taken, "update": taken["step"] - taken["play and score"]}

    def _cut(self, batch: Any) -> Any:
        if not self.as_trl:
            return super()._cut(batch)
        parts = split_tensor_dict(split_pixel_values_by_grid(batch), self.args.steps_per_generation)
        return [unsplit_pixel_values_by_grid(part) for part in parts]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if self.as_trl:
            return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

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
        return self._timed("rows", super()._replay, *args)

    def training_step(self, *args: Any) -> Any:
        result = self._timed("step", super().training_step, *args)
        if self._step % self.args.steps_per_generation == 0:
            done = self._step // self.args.steps_per_generation
            self.after[done] = self._totals()
            self.as_trl = done > self.counted
            self.shares_prefixes = self.shares_prefixes and not self.as_trl
        return result


def time_stage(stage: Stage, options: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        args = IterativeSPOConfig(
            output_dir=folder,
            schedule=stage,
            iterations=1 + 2 * options.steps,
            games_per_iteration=options.games,
            num_generations=options.votes,
            per_device_train_batch_size=options.micro_batch,
            max_clue_tokens=options.tokens,
            min_clue_tokens=options.tokens,
            max_vote_tokens=options.tokens,
            min_vote_tokens=options.tokens,
            rollout_batch_size=options.batch,
            logprob_tokens=options.logprob_tokens,
            share_prefixes=not options.whole_rows,
            freeze_vision=options.freeze_vision,
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
            players=lambda policy, _: Seating.of(Shortened(policy, options.shortest or options.tokens)),
            counted=options.steps,
        )
        trainer.train()
    ours, as_trl = (trainer.per_game(start, start + options.steps) for start in (1, 1 + options.steps))
    first, first_as_trl = (trainer.state.log_history[n] for n in (1, 1 + options.steps))
    return {
        f"{stage}: step, CPU s per game": ours["step"],
        f"{stage}:   rollout": ours["rollout"],
        f"{stage}:   rows (processor, reference)": ours["rows"],
        f"{stage}:   deal, score, log": ours["play and score"] - ours["rollout"] - ours["rows"],
        f"{stage}:   update (forward, backward)": ours["update"],
        f"{stage}: share of the rows' tokens that others had": first["update/shared"],
        f"{stage}: padding share of the update": first["update/padding"],
        f"{stage}: images preprocessed per game": ours["images preprocessed"],
        f"{stage}: images encoded per game": ours["images encoded"],
        f"{stage}: cut as TRL does it, rows": as_trl["rows"],
        f"{stage}: cut as TRL does it, update": as_trl["update"],
        f"{stage}: cut as TRL does it, padding share": first_as_trl["update/padding"],
        f"{stage}: ratio of rows and update": (as_trl["rows"] + as_trl["update"]) / (ours["rows"] + ours["update"]),
        f"{stage}: public code, CPU s per game": PUBLIC[f"{stage} step"],
        f"{stage}: ratio to public code": PUBLIC[f"{stage} step"] / ours["step"],
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=1, help="counted steps per stage")
    parser.add_argument("--micro_batch", type=int, default=16, help="samples per forward and backward")
    parser.add_argument("--kl", type=float, default=0.04, help="KL weight; 0 needs no reference model")
    parser.add_argument(
        "--shortest", type=int, help="completions are cut to this many tokens or more; none: to --tokens"
    )
    parser.add_argument("--logprob_tokens", type=int, default=16384, help="tokens in a forward of the reference")
    parser.add_argument("--whole_rows", action="store_true", help="compute common prefixes for every sample")
    parser.add_argument("--freeze_vision", action="store_true", help="the vision tower does not train")
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
