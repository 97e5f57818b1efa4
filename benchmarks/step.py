"""A whole training step by part, for both stages: CPU seconds per game through the real trainer.

    python benchmarks/step.py
    python benchmarks/step.py --model 71m
    python benchmarks/step.py --games 32 --modes now before trl
    python benchmarks/step.py --games 64 --gradient_checkpointing
    python benchmarks/step.py --freeze_vision
    python benchmarks/step.py --whole_rows
    python benchmarks/step.py --shortest 8

The first step of each stage warms up and is not counted. Then steps as they are now take turns with steps as they were
before (`before.py`), or with samples batched and scored as TRL does it: whole, in the order of games and padded to the
longest of all (`--modes now before trl`). Completions have one
length unless `--shortest` cuts them, so only prompts differ.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from before import as_before
from common import arguments, matmul_peak, model_folder, pairs, report, rules, scaled_public
from needed import forward_flops, said_in, shape_of
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

    The first `warm_up` steps are not counted; then `modes` take turns: now, before (`before.as_before`), trl (samples
    batched and scored whole, in the order of games, padded to the longest of all).
    """

    def __init__(self, *args: Any, modes: Sequence[str], warm_up: int, size: tuple[int, int], **kwargs: Any) -> None:
        self.modes, self.warm_up, self.size = modes, warm_up, size
        self.cpu: dict[str, float] = defaultdict(float)
        self.encoded = 0
        self.steps: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
        self.flops: dict[str, float] = {}
        super().__init__(*args, **kwargs)
        self.shape = shape_of(self.model.config._name_or_path)
        self.patched = ExitStack()
        self.peak = 0.0
        for model in (self.model, self.ref_model):
            if model is not None:
                model.get_encoder("image").register_forward_pre_hook(self._count_images, with_kwargs=True)

    def _count_images(self, tower: Any, args: Any, kwargs: Any) -> None:
        """Images that a tower is asked for; a frozen one computes each of them once and counts itself."""
        self.encoded += len(kwargs["grid_thw"]) if "grid_thw" in kwargs else len(kwargs["pixel_values"])

    def _timed(self, part: str, method: Any, *args: Any) -> Any:
        start = time.process_time()
        result = method(*args)
        self.cpu[part] += time.process_time() - start
        return result

    @property
    def mode(self) -> str | None:
        """The mode of this iteration, None for those that warm up."""
        counted = self._step // self.args.steps_per_generation - self.warm_up
        return self.modes[counted % len(self.modes)] if counted >= 0 else None

    def _begin(self) -> None:
        self.cpu.clear()
        self.encoded = 0
        self.flops = {}
        self.peak = matmul_peak()
        if self.mode == "before":
            models = (one for one in (self.model, self.ref_model) if one is not None)
            self.patched.enter_context(as_before(*models, packed=self.packed))
        if self.mode == "trl":
            scored = partial(GRPOTrainer._get_per_token_logps_and_entropies, self)
            self.patched.enter_context(patch.object(self.packed, "shares_prefixes", False))
            self.patched.enter_context(patch.object(self.packed, "split_micro_batches", self._cut_as_trl))
            self.patched.enter_context(
                patch.object(self.packed, "logps_and_entropies", lambda _, *args, **kwargs: scored(*args, **kwargs))
            )

    def _end(self) -> None:
        self.patched.close()
        peak = (self.peak + matmul_peak()) / 2
        figures: dict[str, float] = {
            **self.cpu,
            "update": self.cpu["step"] - self.cpu["play and score"],
            "images preprocessed": self.images.preprocessed - self.preprocessed,
            "images encoded": self.encoded if self.frozen is None else self.frozen.encoded,
        }
        figures = {name: value / self.args.games_per_iteration for name, value in figures.items()}
        for part, flops in self.flops.items():
            figures[f"utilisation of {part}"] = flops / self.args.games_per_iteration / peak / figures[part]
        figures |= {name: self._metrics["train"][f"update/{name}"][-1] for name in ("shared", "padding")}
        figures["matmul peak"] = peak
        if self.mode is not None:
            self.steps[self.mode].append(figures)

    def _cut_as_trl(self, batch: Any) -> Any:
        parts = split_tensor_dict(split_pixel_values_by_grid(batch), self.args.steps_per_generation)
        return [unsplit_pixel_values_by_grid(part) for part in parts]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.preprocessed = self.images.preprocessed
        return self._timed("play and score", super()._generate_and_score_completions, inputs)

    def _play(self, *args: Any) -> Any:
        rollout, counters = self._timed("rollout", super()._play, *args)
        if self.shape is not None:
            self.flops["rollout"] = forward_flops(self.shape, said_in(rollout), self.size, sampled=True)
        return rollout, counters

    def _replay(self, samples: Any, stage: Any) -> Any:
        if self.shape is not None:
            rows = [(sample.image.key, sample.prompt_ids, sample.token_ids) for sample in samples]
            forward = forward_flops(self.shape, rows, self.size, sampled=False)
            self.flops["update"] = 3 * forward
            if self.beta:
                self.flops["rows"] = forward
        return self._timed("rows", super()._replay, samples, stage)

    def training_step(self, *args: Any) -> Any:
        if self._step % self.args.steps_per_generation == 0:
            self._begin()
        result = self._timed("step", super().training_step, *args)
        if self._step % self.args.steps_per_generation == 0:
            self._step -= 1  # still of the iteration that ends
            self._end()
            self._step += 1
        return result


def time_stage(stage: Stage, options: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        args = IterativeSPOConfig(
            output_dir=folder,
            schedule=stage,
            iterations=options.warm_up + options.steps * len(options.modes),
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
            model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        )
        trainer = TimedTrainer(
            options.folder,
            args,
            pairs(options),
            rules(options),
            load_processor(options.folder),
            template=options.template,
            players=lambda policy, _: Seating.of(Shortened(policy, options.shortest or options.tokens)),
            modes=options.modes,
            warm_up=options.warm_up,
            size=(options.width, options.height),
        )
        trainer.train()
    rows: dict[str, Any] = {}
    for mode, steps in trainer.steps.items():
        mean = {name: fmean(step[name] for step in steps) for name in steps[0]}
        names = {
            "step": "step, CPU s per game",
            "rows": "rows (processor, reference)",
            "shared": "tokens that others had",
        }
        rows |= {f"{stage} {mode}: {names.get(name, name)}": value for name, value in mean.items()}
        public = scaled_public(options.model, f"{stage} step", mean["matmul peak"])
        if public is not None:
            rows[f"{stage} {mode}: public code scaled to this peak, CPU s per game"] = public
            rows[f"{stage} {mode}: ratio to the public code, scaled"] = public / mean["step"]
        if mode != "now":
            now = {name: fmean(step[name] for step in trainer.steps["now"]) for name in steps[0]}
            for name in ("step", "rollout", "rows", "update"):
                rows[f"{stage}: {name}, ratio of {mode} to now"] = mean[name] / now[name]
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(games=8)
    parser.add_argument("--modes", nargs="+", default=["now", "before"], choices=["now", "before", "trl"])
    parser.add_argument("--steps", type=int, default=1, help="counted steps per stage and mode, the modes in turn")
    parser.add_argument("--warm_up", type=int, default=1, help="steps of each stage that are not counted, before them")
    parser.add_argument("--micro_batch", type=int, default=8, help="samples per forward and backward")
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
    if options.modes[0] != "now":
        parser.error("--modes begins with now, which the others are compared with")
    torch.set_num_threads(options.threads)
    options.folder = model_folder(options.model)
    for stage in options.stages:
        report(f"{stage} step", time_stage(stage, options), options)


if __name__ == "__main__":
    main()
