"""QLoRA: the language model's linear layers in 4 bits, float32 adapters on them (bitsandbytes' CPU kernels)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForImageTextToText

from tests.by_hand import hand_rows, hand_step, largest_difference
from tests.process_helpers import flags
from tests.trainer.test_families import MORE, TWO_STAGES, Family, family_fixture, family_trainer
from tests.trainer_helpers import one_step
from vision_zero.models import load_model
from vision_zero.rollout.lora import four_bits, language_layers, merged_parameters, plain_weight
from vision_zero.train import main
from vision_zero.types import Stage

FAMILIES = ["internvl3 in tiles", "qwen3-vl"]
MORE_FAMILIES = ["qwen2.5-vl", *(name for name in MORE if name not in FAMILIES)]
family = family_fixture(FAMILIES, MORE_FAMILIES)


def trainer_of(family: Family, folder: Path, **config: Any) -> Any:
    on_meta = load_model(family.folder, device_map="meta")
    return family_trainer(
        family,
        folder,
        peft_config=LoraConfig(r=2, target_modules=language_layers(on_meta), lora_dropout=0.0, init_lora_weights=False),
        quantization_config=four_bits(on_meta, torch.float32),
        **config,
    )


@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_gradient_is_the_one_by_hand(family: Family, tmp_path: Path, stage: Stage) -> None:
    """Of the model whose 4-bit weights are written out, with the same adapters."""
    trainer = trainer_of(family, tmp_path, schedule=stage, learning_rate=1e-12)
    base = trainer.model.get_base_model()
    quantized = {name for name, weight in base.named_parameters() if hasattr(weight, "quant_state")}
    on_meta = load_model(family.folder, device_map="meta")
    layers = on_meta.get_decoder().modules()
    assert len(quantized) == sum(isinstance(module, torch.nn.Linear) for module in layers)
    assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.float32}

    plain = family.load()
    plain.load_state_dict(dict(written_out(trainer.model)), strict=False)
    reference = AutoModelForImageTextToText.from_pretrained(family.folder, dtype=torch.float32)
    reference.load_state_dict(dict(without_adapter(trainer.model)), strict=False)
    step = one_step(trainer)
    hand = hand_step(
        plain,
        reference,
        family.processor(),
        hand_rows(step.rollout.games, stage),
        temperature=trainer.args.temperature,
        kl_weight=0.04,
        loss_type="grpo",
    )
    # dL/dA = B' dL/dW s and dL/dB = dL/dW A' s
    by_hand = {}
    scaling = next(module.scaling["default"] for module in base.modules() if isinstance(module, LoraLayer))
    weights = dict(trainer.model.named_parameters())
    for name in step.gradient:
        own = name.removeprefix("base_model.model.").split(".lora_")[0] + ".weight"
        if "lora_A" in name:
            by_hand[name] = weights[name.replace("lora_A", "lora_B")].T @ hand.gradient[own] * scaling
        else:
            by_hand[name] = hand.gradient[own] @ weights[name.replace("lora_B", "lora_A")].T * scaling
    # `weights` are those after the step, which next to no learning rate has left where they were.
    assert largest_difference(step.gradient, by_hand)[0] < 1e-3


def written_out(model: Any) -> Any:
    return merged_parameters(model, lambda weights: nullcontext())


def without_adapter(model: Any) -> Any:
    for name, weight in model.get_base_model().named_parameters():
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), plain_weight(weight)


def test_a_resumed_run_is_the_same_and_the_export_has_the_bases_precision(family: Family, tmp_path: Path) -> None:
    options: dict[str, Any] = {**TWO_STAGES, "learning_rate": 1e-3}
    trainer = trainer_of(family, tmp_path, save_strategy="steps", save_steps=1, **options)
    before = dict(without_adapter(trainer.model))
    trainer.train()
    after = dict(without_adapter(trainer.model))
    assert all(torch.equal(before[name], after[name]) for name in before), "4-bit weights do not move"
    resumed = trainer_of(family, tmp_path, save_strategy="no", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for (name, weight), (_, other) in zip(
        trainer.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name

    export = trainer.export(tmp_path / "checkpoint-2")
    merged, start = (load_model(folder, dtype="float32").state_dict() for folder in (export, family.folder))
    difference = {name: weight - before[name] for name, weight in written_out(trainer.model) if name in before}
    moved = [name for name, value in difference.items() if value.any()]
    assert moved
    for name in moved:
        torch.testing.assert_close(merged[name], start[name] + difference[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"use_peft": True, "deepspeed": "configs/deepspeed/zero2.json"}])
def test_it_is_of_adapters_without_zero(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"load_in_4bit=True \(QLoRA\) trains adapters, without ZeRO"):
        main(flags(output_dir=tmp_path, load_in_4bit=True, **more))


def test_a_run_by_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(flags(output_dir=tmp_path / "run", load_in_4bit=True, use_peft=True, iterations=2, schedule="cycle"))
    assert "gap of log-probs" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
