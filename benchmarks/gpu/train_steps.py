"""A step of both stages through the real trainer, on a model with random weights: figures beside their floors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForImageTextToText, TrainerCallback
from trl.trainer import grpo_trainer

from benchmarks.common import TEMPLATE, NoiseImage
from benchmarks.gpu.random_models import processor_of, random_model
from benchmarks.gpu.random_texts import random_texts
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.timed_trainer import TimedTrainer
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.plan import cost as floors
from vision_zero.plan.fit import memory, setup
from vision_zero.plan.shape import ModelShape, read_shape
from vision_zero.rollout.lora import language_layers
from vision_zero.rollout.vllm.requests import EngineOptions
from vision_zero.types import GameRules, ImagePair

ALLOWED_LOGP_GAP = 0.2  # what the trainer allows between an engine and itself
Line = dict[str, Any]


class CheckConfig(IterativeSPOConfig):
    """The options of a run; a vLLM engine looks for no weight files, it gets the trainer's before the first turn."""

    def engine_options(self) -> EngineOptions:
        from benchmarks.gpu.engine_weights import LOAD_FORMAT  # vLLM is not installed everywhere

        options = super().engine_options()
        return replace(options, more={**options.more, "load_format": LOAD_FORMAT})


def make_trainer(folder: Path, mode: floors.Mode, policy: str, settings: Settings) -> TimedTrainer:
    on_gpu = torch.cuda.is_available()
    args = CheckConfig(
        output_dir=str(folder / "run"),
        schedule="cycle",
        cycle_decision=2,
        cycle_clue=1,
        iterations=3,
        games_per_iteration=settings.games,
        num_generations=settings.votes,
        per_device_train_batch_size=settings.micro_batch,
        max_clue_tokens=settings.clue_tokens,
        max_vote_tokens=settings.vote_tokens,
        learning_rate=1e-4 if mode == "lora" else 1e-5,
        lr_scheduler_type="constant",
        warmup_steps=0,
        use_vllm=policy == "vllm",
        vllm_gpu_memory_utilization=0.4,
        vllm_max_model_length=2048,
        record_games_every=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        model_init_kwargs={
            "dtype": "bfloat16" if on_gpu else "float32",
            "attn_implementation": "sdpa",
        },
    )
    grpo_trainer.create_model_from_path = random_model  # TRL makes both the model and its reference with it
    size = settings.size
    pairs = [ImagePair(str(k), NoiseImage(2 * k, *size), NoiseImage(2 * k + 1, *size), "scenes") for k in range(16)]
    rules = GameRules(n_civilians=settings.players - 1, n_rounds=settings.rounds, n_votes=settings.votes)
    return TimedTrainer(
        str(folder),
        args,
        pairs,
        rules,
        processor_of(folder),
        template=str(TEMPLATE),
        players=random_texts,
        peft_config=lora(folder, settings.rank) if mode == "lora" else None,
        settings=settings,
    )


def lora(folder: Path, rank: int) -> LoraConfig:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    layers = language_layers(model)
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=layers, task_type="CAUSAL_LM")


def sum_of_frozen(trainer: TimedTrainer) -> int:
    """A checksum of the bits of all weights that do not train."""
    frozen = (weight for weight in trainer.model.parameters() if not weight.requires_grad)
    bits = (weight.view(torch.int16 if weight.itemsize == 2 else torch.int32) for weight in frozen)
    return sum(int(one.sum(dtype=torch.int64)) for one in bits)


def planned(folder: Path, mode: floors.Mode, policy: str, settings: Settings) -> dict[str, float] | None:
    """GiB by phase that `python -m vision_zero.plan` has for these settings; all weights it plans with ZeRO alone."""
    if mode == "full":
        return None
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "80"
    asked = setup(
        model=str(folder),
        gpu=name if floors.card_of(name) else "80",
        train=mode,
        rank=settings.rank,
        gpus=1,
        zero=0,
        micro_batch=settings.micro_batch,
        rollout_batch=256,
        games=settings.games,
        civilians=settings.players - 1,
        rounds=settings.rounds,
        votes=settings.votes,
        most_tokens=max(settings.clue_tokens, settings.vote_tokens),
        max_pixels=settings.width * settings.height,
        player=policy,
        vllm_share=0.4,
        arena=False,
    )
    found = memory(read_shape(str(folder)), asked)  # what is assumed is not PyTorch's, whose peak stands beside it
    return {
        name: sum(gib for part, gib in parts.items() if "(assumed)" not in part and "vLLM" not in part)
        for name, parts in found.items()
    }


def check_steps(
    folder: Path, shape: ModelShape, mode: floors.Mode, policy: str, settings: Settings, write: Callable[[Line], None]
) -> None:
    """Trains three steps and hands a line to `write` after each of the two that count."""
    trainer = make_trainer(folder, mode, policy, settings)
    base, plan = sum_of_frozen(trainer), planned(folder, mode, policy, settings)

    def checked(line: Line) -> None:
        moved = ["the frozen weights moved"] if sum_of_frozen(trainer) != base else []
        write(line | {"plan_gib": plan, "problems": line["problems"] + moved})

    trainer.add_callback(_Lines(trainer, shape, mode, checked))
    trainer.train()


class _Lines(TrainerCallback):
    """A line is written when a step is logged: its loss and the norm of its gradient are known then."""

    def __init__(
        self, trainer: TimedTrainer, shape: ModelShape, mode: floors.Mode, write: Callable[[Line], None]
    ) -> None:
        self.trainer, self.shape, self.mode, self.write = trainer, shape, mode, write

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "grad_norm" in logs and state.global_step > 1:
            line = step_line(self.trainer, self.shape, self.mode, logs["update/shared"]) | {
                name: float(logs[name]) for name in ("loss", "grad_norm")
            }
            self.write(line | {"problems": problems(line, self.trainer)})


def problems(line: Line, trainer: TimedTrainer) -> list[str]:
    """Faults of a step that ended without an error."""
    wanted = {"clue": trainer.settings.clue_tokens, "decision": trainer.settings.vote_tokens}
    games = trainer.rollout.games
    lengths = {"clue": {len(clue.completion.token_ids) for game in games for clue in game.clues}}
    lengths["decision"] = {len(vote.completion.token_ids) for game in games for vote in game.votes}
    found = [f"{stage} completions of {lengths[stage]} tokens" for stage, n in wanted.items() if lengths[stage] != {n}]
    if not math.isfinite(line["loss"]):
        found.append(f"loss {line['loss']}")
    if not (math.isfinite(line["grad_norm"]) and line["grad_norm"] > 0):
        found.append(f"gradient norm {line['grad_norm']}")
    if not line["moved"] > 0:
        found.append("no weight moved")
    if not line["logp_gap"] <= ALLOWED_LOGP_GAP:
        found.append(f"rollout and training are {line['logp_gap']:.3g} apart in log-probability")
    return found


def step_line(trainer: TimedTrainer, shape: ModelShape, mode: floors.Mode, shared: float) -> Line:
    """`shared`: the share of the trained tokens that the update computes for another sample."""
    settings, watch, counters = trainer.settings, trainer.watch, trainer.counters
    seconds = watch.seconds
    calls, rows = trainer.calls, trainer.trained
    rank = settings.rank if mode == "lora" else 0
    n_prompts = sum(len(call) for call in calls)
    mean_prompt = sum(completion.prompt for call in calls for completion in call) / n_prompts
    prefill = floors.prefill_flops(
        shape, int(counters["tokens/prefilled"]), mean_prompt, int(counters["images/preprocessed"]), settings.size
    )
    # With an engine TRL also asks the policy for log-probabilities, to correct for the engine's rounding.
    forwards = 2 if trainer.use_vllm else 1
    scored = forwards * floors.forward_flops(shape, rows, trainer.encoded_images, settings.size, shared)
    update = floors.update_flops(shape, rows, trainer.encoded_images, settings.size, mode, rank, shared)
    line: Line = {
        "stage": trainer.stage,
        "seconds": {
            "rollout": seconds["rollout"],
            "rows": seconds["rows"],
            "update": seconds["step"] - seconds["play and score"],
            "other": seconds["play and score"] - seconds["rollout"] - seconds["rows"],
            "step": seconds["step"],
        },
        "new_tokens": counters["tokens/new"],
        "tokens_per_s": counters["tokens/new"] / seconds["rollout"],
        "prompt_tokens": {
            "mean": mean_prompt,
            "prefilled": counters["tokens/prefilled"],
            "reused": counters["tokens/reused"],
        },
        "trained_rows": len(rows),
        "trained_tokens": sum(row.prompt + row.completion for row in rows),
        "shared_tokens": shared,
        "update_flops": update,
        "peak_gib": {part: watch.peak_bytes[part] / floors.GIB for part in ("rollout", "rows", "update")},
        "moved": trainer.moved,
        "logp_gap": trainer.logp_gap,
    }
    card = floors.card_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if card is None:
        return line | {"floors": None, "mfu": None}
    adapters = 4 * shape.adapter_parameters(rank)
    decode = floors.decode_seconds(shape, calls, card, adapter_bytes=adapters)
    floor = {
        "rollout": decode + prefill / card.flops,
        "decode": decode,
        "rows": scored / card.flops,
        "update": update / card.flops,
    }
    return line | {"floors": floor, "mfu": floor["update"] / line["seconds"]["update"]}
