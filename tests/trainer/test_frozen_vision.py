"""A frozen vision tower: what trains gets the gradient it had, and every image is encoded once per step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from tests.by_hand import largest_difference
from tests.trainer.test_families import Family, family_fixture, family_trainer, saved_family
from tests.trainer_helpers import RandomImage, one_step
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.self_check import SelfCheckError
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.types import Stage

LANGUAGE_ALONE = r".*(language_model|text_model).*(q_proj|v_proj)"


FAMILIES = ["qwen2.5-vl", "internvl3 in tiles", "qwen3-vl"]
MORE_FAMILIES = ["qwen2-vl", "qwen3-vl-moe", "gemma3", "smolvlm2", "llava-onevision", "glm-4.1v"]
family = family_fixture(FAMILIES, MORE_FAMILIES)


def trainer_of(family: Family, tmp_path: Path, **config: Any) -> IterativeSPOTrainer:
    return family_trainer(family, tmp_path, **{"freeze_vision": True, **config})


def tower_of(trainer: IterativeSPOTrainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model).get_encoder("image")


def count_calls(trainer: IterativeSPOTrainer) -> list[int]:
    """One entry per call of a vision tower, the policy's or the reference's, that computes something."""
    calls: list[int] = []
    towers = [model.get_encoder("image") for model in (trainer.model, trainer.ref_model) if model is not None]
    for tower in towers:
        embedding = next(module for module in tower.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)))
        embedding.register_forward_hook(lambda module, args, output: calls.append(1))
    return calls


def two_images(family: Family) -> list[GameImage]:
    return [GameImage(str(seed), RandomImage(seed, family.image_size).open()) for seed in range(2)]


def test_a_tower_that_joins_images_in_a_row_is_refused(tmp_path: Path) -> None:
    family = saved_family("mistral3", tmp_path / "model")
    trainer = trainer_of(family, tmp_path)
    with pytest.raises(SelfCheckError, match=r"freeze_vision is not possible: the tower of Mistral3.* mixes images"):
        trainer.frozen.check(two_images(family), trainer.processing_class)


def test_a_tower_that_looks_from_one_image_at_another_is_refused(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(family, tmp_path)
    trainer.frozen.check(two_images(family), trainer.processing_class)
    trainer.images.clear()
    features = trainer.frozen._features

    def mixed(numbers: Any) -> Any:
        output = features(numbers)
        if not trainer.frozen._caches:
            parts = output.pooler_output
            shift = sum(part.mean() for part in parts) + 1
            output.pooler_output = (
                type(parts)(part + shift for part in parts) if isinstance(parts, tuple) else parts + shift
            )
        return output

    monkeypatch.setattr(trainer.frozen, "_features", mixed)
    with pytest.raises(SelfCheckError, match=r"mixes images \(\d+% apart\)"):
        trainer.frozen.check(two_images(family), trainer.processing_class)


@pytest.mark.parametrize(("stage", "checkpointing"), [("decision", False), ("clue", True)])
def test_loss_and_gradient_are_those_of_encoding_every_time(
    family: Family, tmp_path: Path, stage: Stage, checkpointing: bool
) -> None:
    config: dict[str, Any] = {
        "schedule": stage,
        "games": 4,
        "updates_per_iteration": 2,
        "gradient_checkpointing": checkpointing,
    }
    plain = trainer_of(family, tmp_path / "plain", freeze_vision=False, **config)
    tower_of(plain).requires_grad_(False)
    calls_of_plain = count_calls(plain)
    expected = one_step(plain)
    frozen = trainer_of(family, tmp_path / "frozen", **config)
    calls = count_calls(frozen)
    step = one_step(frozen)

    assert len(calls) == frozen.frozen.encoded == 8  # an original and an edited image of each game
    assert len(calls_of_plain) > 2
    assert largest_difference(step.gradient, expected.gradient)[0] < 1e-5
    outside = {name for name in step.gradient if "projector" in name or "connector" in name}
    assert bool(outside) == (family.name in ("internvl3 in tiles", "gemma3", "smolvlm2", "llava-onevision"))
    logs = [
        {k: v for k, v in one.log.items() if not k.startswith(("seconds", "step_time"))} for one in (step, expected)
    ]
    assert logs[0].pop("update/padding") <= logs[1].pop("update/padding") + 1e-9
    assert logs[0] == pytest.approx(logs[1], rel=1e-5, abs=1e-7)


def test_every_step_encodes_its_own_images(family: Family, tmp_path: Path) -> None:
    trainer = trainer_of(family, tmp_path, iterations=3, beta=0.0)
    calls = count_calls(trainer)
    trainer.train()
    assert len(calls) == 3 * 4
    assert len(trainer.images.keys) == 4


def test_the_tower_is_saved_as_it_was(family: Family, tmp_path: Path) -> None:
    options: dict[str, Any] = {"iterations": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_of(family, tmp_path, **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    frozen = {id(p) for p in tower_of(trainer).parameters()}
    names = {name for name, p in trainer.model.named_parameters() if id(p) in frozen}
    trainer.train()
    assert names
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in names), name
    start = load_file(family.folder / "model.safetensors")
    for folder in ("checkpoint-2", "checkpoint-2/export"):
        saved = load_file(tmp_path / folder / "model.safetensors")
        assert saved.keys() == start.keys()
        same = {name for name in saved if torch.equal(saved[name], start[name])}
        assert len(same) == len(names)

    resumed = trainer_of(family, tmp_path, **{**options, "save_strategy": "no"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


# --------------------------------------------------------------------------------------------------------------- LoRA


def test_lora_of_the_language_model_trains_beside_a_frozen_tower(family: Family, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=LANGUAGE_ALONE, lora_dropout=0.0)
    plain = one_step(trainer_of(family, tmp_path / "plain", freeze_vision=False, peft_config=lora))
    trainer = trainer_of(family, tmp_path / "frozen", peft_config=lora)
    step = one_step(trainer)
    assert trainer.frozen.encoded == 4
    assert all("lora_" in name for name in step.gradient)
    assert max((step.gradient[name] - plain.gradient[name]).abs().max() for name in plain.gradient) < 1e-6


def test_lora_in_the_tower_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the adapter reaches into the vision tower"):
        trainer_of(family, tmp_path, peft_config=LoraConfig(r=2, target_modules="all-linear"))
