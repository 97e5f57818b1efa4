"""Runs with a LoRA adapter that vLLM plays, in this process: what became of the base, the export and a resumed run."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests.tiny_games import BENCH_MODEL, noise_pairs
from tests.trainer_helpers import make_trainer
from vision_zero.models import load_model
from vision_zero.rollout.lora import merged_parameters
from vision_zero.run_folder import checkpoint_path
from vision_zero.trainer.logp_gap import LOGPROB_GAP

GAP = LOGPROB_GAP + "mean"


def model_in(dtype: str, folder: Path) -> Path:
    """The tiny random model, published in `dtype`."""
    copy = folder / f"model-{dtype}"
    if not copy.exists():
        shutil.copytree(BENCH_MODEL, copy)
        named = load_file(BENCH_MODEL / "model.safetensors")
        rounded = {name: weight.to(getattr(torch, dtype)) for name, weight in named.items()}
        save_file(rounded, copy / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((copy / "config.json").read_text("utf-8"))
        (copy / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}), "utf-8")
    return copy


def hash_of(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_of(model: Any) -> dict[str, torch.Tensor]:
    """The frozen weights under their own names."""
    named = model.get_base_model().named_parameters()
    return {name.replace(".base_layer", ""): weight for name, weight in named if "lora_" not in name}


def lora_run(folder: Path, dtype: str, iterations: int, resume_at: int = 0, **options: Any) -> dict[str, Any]:
    """A run into `folder`/run, saved after every second iteration and at the end; or resumed after `resume_at`."""
    base = model_in(dtype, folder)
    run = folder / "run"
    trainer = make_trainer(
        run,
        model=base,
        pairs=noise_pairs(4),
        iterations=iterations,
        learning_rate=3e-3,
        model_init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
        peft_config=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"]),
        save_strategy="steps",
        save_steps=2,
        use_vllm=True,
        **options,
    )
    before = hash_of(base_of(trainer.model))
    trainer.train(resume_from_checkpoint=str(checkpoint_path(run, resume_at)) if resume_at else None)
    published = dict(load_model(base, dtype=dtype).named_parameters())
    assert hash_of(published) == before
    merged = dict(merged_parameters(trainer.model, lambda parameters: nullcontext()))
    exported = dict(load_model(checkpoint_path(run, iterations) / "export", dtype=dtype).named_parameters())
    assert merged.keys() == exported.keys() == published.keys()
    return {
        "before": before,
        "after": hash_of(base_of(trainer.model)),
        "adapter": hash_of(get_peft_model_state_dict(trainer.model)),
        "moved": max((merged[name] - published[name]).abs().max().item() for name in merged),
        "export_gap": max((merged[name] - exported[name]).abs().max().item() for name in merged),
        "gaps": [line[GAP] for line in trainer.state.log_history if GAP in line],
    }


def assert_lora_run(found: dict[str, Any], dtype: str, iterations: int) -> None:
    assert found["after"] == found["before"], "the frozen weights are the published ones, to the last bit"
    assert found["moved"] > 1e-3
    assert found["export_gap"] < (1e-6 if dtype == "float32" else 1e-30)
    assert len(found["gaps"]) == iterations
    assert max(found["gaps"]) < (1e-4 if dtype == "float32" else 0.05)
