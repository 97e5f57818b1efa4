"""The real trainer with a stopwatch around its parts and a look at what went through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stopwatch import Stopwatch
from vision_zero.plan.cost import Tokens
from vision_zero.rollout.play import Rollout
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.trainer.samples import TrainingSample, pad_samples
from vision_zero.types import Completion, Stage

WARM_UP_TOKENS = 8


class TimedTrainer(IterativeSPOTrainer):
    """Three iterations: a short decision step to warm up, then one of each stage that counts.

    After every step it holds the step's data: `rollout`, `counters`, `micro_batches` of samples, `stage`, and of the
    first step `logp_gap`, the mean distance between the log-probabilities of the sampled tokens as the rollout
    had them and as the reference has them, which is still the same model then.
    """

    settings: Settings
    rollout: Rollout
    counters: dict[str, float]
    stage: Stage
    micro_batches: list[list[TrainingSample]]

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        self.settings = settings
        self.watch = Stopwatch()
        self.logp_gap: float | None = None
        self.moved = 0.0
        super().__init__(*args, **kwargs)
        self.add_callback(_StepEnds(self))

    def begin_step(self) -> None:
        self.watch.clear()
        self._step_began = self.watch.start()
        self._before = self._some_weights()

    def end_step(self) -> None:
        self.watch.stop("update", self._update_began)
        self.watch.seconds["step"] = self.watch.now() - self._step_began
        after = self._some_weights()
        self.moved = max(float((a - b).abs().max()) for a, b in zip(after, self._before, strict=True))

    def _some_weights(self) -> list[torch.Tensor]:
        """Small weights that start at 0, where no update is rounded away: biases of the values, or LoRA's B."""
        named = self.model.named_parameters()
        small = [p for name, p in named if p.requires_grad and (name.endswith("v_proj.bias") or ".lora_B." in name)]
        return [parameter.detach().to("cpu", torch.float32, copy=True) for parameter in small[-8:]]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        warm = self.schedule.iteration == 0
        clue, vote = self.settings.clue_tokens, self.settings.vote_tokens
        clue, vote = (min(WARM_UP_TOKENS, n) if warm else n for n in (clue, vote))
        self.args.min_clue_tokens = self.args.max_clue_tokens = clue
        self.args.min_vote_tokens = self.args.max_vote_tokens = vote
        started = self.watch.start()
        batch = super()._generate_and_score_completions(inputs)
        self.watch.stop("play and score", started)
        self._update_began = self.watch.start()
        return batch

    def _play(self, *args: Any) -> tuple[Rollout, dict[str, float]]:
        with self.watch.part("rollout"):
            self.rollout, self.counters = super()._play(*args)
        return self.rollout, self.counters

    def _replay(self, rows: list[TrainingSample], stage: Stage) -> dict[str, Any]:
        self.stage = stage
        padded = pad_samples(rows, self.args.steps_per_generation)
        size = len(padded) // self.args.steps_per_generation
        self.micro_batches = [padded[start : start + size] for start in range(0, len(padded), size)]
        with self.watch.part("rows"):
            batch = super()._replay(rows, stage)
        if self.logp_gap is None:
            self.logp_gap = _gap(padded, batch["ref_per_token_logps"])
        return batch

    @property
    def calls(self) -> list[list[Tokens]]:
        """Completions by the call that would sample them in lock-step: one per turn, one for all votes."""
        games = self.rollout.games
        clues = [[clue.completion for clue in turn] for turn in zip(*(game.clues for game in games), strict=True)]
        votes = [vote.completion for game in games for vote in game.votes]
        batch = self.args.rollout_batch_size
        return [tokens(call) for call in clues] + [tokens(votes[k : k + batch]) for k in range(0, len(votes), batch)]

    @property
    def trained(self) -> list[Tokens]:
        rows = [row for batch in self.micro_batches for row in batch if not row.is_dummy]
        return [Tokens(len(row.prompt_ids), len(row.token_ids)) for row in rows]

    @property
    def encoded_images(self) -> int:
        """Images that the update encodes: every distinct one of a micro-batch once."""
        return sum(len({row.image.key for row in batch}) for batch in self.micro_batches)


def tokens(completions: Sequence[Completion]) -> list[Tokens]:
    return [Tokens(len(completion.prompt_ids), len(completion.token_ids)) for completion in completions]


def _gap(rows: Sequence[TrainingSample], logps_BT: torch.Tensor) -> float:
    gaps = []
    for row, logps_T in zip(rows, logps_BT.float().cpu(), strict=True):
        gaps.append((torch.tensor(row.logprobs) - logps_T[: len(row.logprobs)]).abs())
    return float(torch.cat(gaps).mean())


class _StepEnds(TrainerCallback):
    def __init__(self, trainer: TimedTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.end_step()
