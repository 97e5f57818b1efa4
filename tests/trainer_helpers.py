"""A real trainer on a tiny model and small random images, for tests that look at one or a few steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

from vision_zero.config.options import IterativeSPOConfig
from vision_zero.models import load_processor
from vision_zero.rollout.play import Rollout, Seating
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer, Players
from vision_zero.types import Completion, GameRules, ImagePair, Stage

BENCH_MODEL = Path(__file__).parent / "models" / "bench_model"
NEVER_CLIPPED = 1e9


@dataclass(frozen=True)
class RandomImage:
    """Noise, the same for the same seed."""

    seed: int
    size: tuple[int, int] = (56, 56)

    @property
    def name(self) -> str:
        return f"random image {self.seed}"

    def open(self) -> Image.Image:
        width, height = self.size
        return Image.frombytes("RGB", self.size, random.Random(self.seed).randbytes(width * height * 3))


def random_pairs(n: int = 4, size: tuple[int, int] = (56, 56)) -> list[ImagePair]:
    return [
        ImagePair(f"pair{k}", RandomImage(2 * k, size), RandomImage(2 * k + 1, size), domain="scenes") for k in range(n)
    ]


def seeded_vote(request: TurnRequest) -> str:
    """A parsed vote for some seat or N/A, the same for the same turn."""
    n_players = request.game.rules.n_players
    return f"\\boxed{{{random.Random(request.seed).choice([*range(1, n_players + 1), 'N/A'])}}}"


def seeded_clue(request: TurnRequest) -> str:
    return f"thought \\boxed{{red cube {request.seed % 100}}}"


class Relabelled:
    """The completions of `policy` with their texts replaced; tokens and log-probs stay those that were sampled.

    Random weights never say anything parsed, so every reward would be the same and every advantage 0. What is
    trained on are tokens, what is rewarded is text: with this, a random model's tokens get rewards worth testing.
    """

    def __init__(
        self,
        policy: Policy,
        vote: Callable[[TurnRequest], str] = seeded_vote,
        clue: Callable[[TurnRequest], str] = seeded_clue,
        length: Callable[[TurnRequest], int | None] = lambda request: None,
    ) -> None:
        """`length` cuts the sampled tokens, since random weights never end a completion by themselves."""
        self.policy, self.vote, self.clue, self.length = policy, vote, clue, length

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return [
            replace(
                completion,
                text=self.clue(request) if request.turn.stage == "clue" else self.vote(request),
                token_ids=completion.token_ids[: self.length(request)],
                logprobs=completion.logprobs[: self.length(request)],
            )
            for request, completion in zip(requests, self.policy.answer(requests), strict=True)
        ]


def relabelled(policy: Policy, stage: Stage) -> Seating:
    """`players` of a trainer: the model in every role, its texts replaced by parsed ones."""
    return Seating.of(Relabelled(policy))


def seeded_length(request: TurnRequest) -> int:
    """1 to the longest completion allowed, the same for the same turn."""
    return random.Random(request.seed).randint(1, request.token_limits.maximum)


def of_many_lengths(policy: Policy, stage: Stage) -> Seating:
    """`relabelled` with completions of different lengths, so that averaging over tokens and over completions differ."""
    return Seating.of(Relabelled(policy, length=seeded_length))


def make_trainer(
    tmp_path: Path,
    *,
    model: PreTrainedModel | str | Path = BENCH_MODEL,
    processor: ProcessorMixin | None = None,
    pairs: Sequence[ImagePair] | None = None,
    games: int = 2,
    rules: GameRules | None = None,
    players: Players = relabelled,
    template: str = "compact",
    peft_config: Any = None,
    quantization_config: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    trainer_class: type[IterativeSPOTrainer] = IterativeSPOTrainer,
    **config: Any,
) -> IterativeSPOTrainer:
    """A trainer of one iteration of `games` games of 3 players and 1 round with 4 votes, float32, on the CPU.

    A micro-batch is the votes of one game. Any option of `IterativeSPOConfig` can be given by its name.
    """
    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=config.get("num_generations", 4)) if rules is None else rules
    options: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "games_per_iteration": games,
        "iterations": 1,
        "num_generations": rules.n_votes,
        "per_device_train_batch_size": rules.n_votes,
        "max_clue_tokens": 6,
        "max_vote_tokens": 4,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "max_grad_norm": NEVER_CLIPPED,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 3,
    }
    if not isinstance(model, PreTrainedModel):
        options["model_init_kwargs"] = {"dtype": "float32", "attn_implementation": "sdpa"}
    return trainer_class(
        model if isinstance(model, PreTrainedModel) else str(model),
        IterativeSPOConfig(**{**options, **config}),
        random_pairs() if pairs is None else pairs,
        rules,
        load_processor(str(BENCH_MODEL)) if processor is None else processor,
        template=template,
        players=players,
        peft_config=peft_config,
        quantization_config=quantization_config,
        callbacks=callbacks,
    )


def record_rollouts(trainer: IterativeSPOTrainer) -> list[Rollout]:
    """A list that every rollout of `trainer` is added to."""
    rollouts: list[Rollout] = []
    play = trainer._play

    def recording(*args: Any, **kwargs: Any) -> Any:
        rollout, counters = play(*args, **kwargs)
        rollouts.append(rollout)
        return rollout, counters

    trainer._play = recording  # type: ignore[method-assign]
    return rollouts


class GradientRecorder(TrainerCallback):
    """The gradient of every optimizer step, as the optimizer sees it, by parameter name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


@dataclass(frozen=True)
class Step:
    """What one training step played, did and logged."""

    rollout: Rollout
    gradient: dict[str, torch.Tensor]
    log: dict[str, Any]


def one_step(trainer: IterativeSPOTrainer) -> Step:
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    rollouts = record_rollouts(trainer)
    trainer.train()
    return Step(rollouts[0], recorder.steps[0], trainer.state.log_history[0])
