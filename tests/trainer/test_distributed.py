"""The same run on one process and on several, with and without DeepSpeed, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.process_helpers import DRAWN, ROOT, TINY_VLM, games, metrics, train_well, weights
from vision_zero.models import load_model

LOGPROB, LOSS = 1e-5, 1e-4
UNEQUAL_BY_NATURE = (
    "rollout/images/preprocessed",  # games on two processes may share a blank image
    "update/padding",  # other rows share a micro-batch
    "update/shared",
)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    train_well(run)
    return run


def assert_same_games(run: Path, other: Path, logprob: float = LOGPROB) -> None:
    """Equal in everything but log-probabilities, which are equal within `logprob` in the first iteration."""
    ours, theirs = games(run), games(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 4
    for name in ours:
        # An update rounds differently on two processes, and Adam makes much of small numbers.
        tolerance = logprob if name == "step-000000.jsonl" else 1e-3
        for game, same in zip(ours[name], theirs[name], strict=True):
            for turns in ("clues", "votes"):
                for turn, again in zip(game[turns], same[turns], strict=True):
                    assert turn.pop("logprobs") == pytest.approx(again.pop("logprobs"), abs=tolerance)
            assert game == same


def assert_same_metrics(run: Path, other: Path) -> None:
    ours, theirs = metrics(run), metrics(other)
    assert len(ours) == 4
    for line, same in zip(ours, theirs, strict=True):
        assert line.keys() == same.keys()
        for name, value in line.items():
            if name not in UNEQUAL_BY_NATURE:
                assert value == pytest.approx(same[name], rel=LOSS, abs=LOSS), f"{name} at step {line['step']}"
    assert all(line["grad_norm"] > 0.01 for line in ours), "a run in which nothing was learnt would show nothing"


def assert_loads(export: Path) -> None:
    """Plain transformers loads the export and answers from it."""
    model = AutoModelForImageTextToText.from_pretrained(export)
    processor = AutoProcessor.from_pretrained(export)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}],
        add_generation_prompt=True,
    )
    with Image.open(DRAWN / "drawn_000_original.png") as image:
        inputs = processor(text=[text], images=[image.convert("RGB").resize((56, 56))], return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_two_processes_play_the_games_of_one(one_process: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    train_well(two, processes=2, per_device_train_batch_size=2, fresh=True)
    assert_same_games(one_process, two)
    assert_same_metrics(one_process, two)
    state = [json.loads((run / "checkpoint-4" / "iterative_spo.json").read_text()) for run in (one_process, two)]
    assert state[0] == state[1]
    assert (one_process / "switches.jsonl").read_bytes() == (two / "switches.jsonl").read_bytes()
    ours, theirs = (weights(run / "checkpoint-2") for run in (one_process, two))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_zero_trains_like_one_process(stage: int, one_process: Path, tmp_path: Path) -> None:
    run = tmp_path / f"zero{stage}"
    deepspeed = ROOT / "configs" / "deepspeed" / f"zero{stage}.json"
    train_well(run, processes=2, deepspeed=deepspeed, fresh=stage == 2)  # DeepSpeed with all that it compiles
    assert_same_games(one_process, run)
    assert_same_metrics(one_process, run)
    assert_loads(run / "checkpoint-4" / "export")


@pytest.mark.parametrize("stage", [None, pytest.param(3, marks=pytest.mark.slow)], ids=["", "zero3"])
def test_a_frozen_vision_tower_trains_like_one_process(stage: int | None, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    deepspeed = ROOT / "configs" / "deepspeed" / f"zero{stage}.json" if stage else None
    train_well(one, freeze_vision=True)
    train_well(two, processes=2, per_device_train_batch_size=2, deepspeed=deepspeed, freeze_vision=True)
    assert_same_games(one, two)
    assert_same_metrics(one, two)
    start, end = (weights(two / f"checkpoint-{step}") for step in (2, 4))
    tower = {name for name in start if name.startswith("visual.")}
    assert tower
    assert {name for name in start if torch.equal(start[name], end[name])} == tower


@pytest.mark.slow
def test_zero3_gathers_the_merged_weights_of_lora(tmp_path: Path) -> None:
    """They are the export's, and the frozen ones are the published ones, to the last bit."""
    run = tmp_path / "run"
    lora = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "down_proj"]}
    zero3 = ROOT / "configs" / "deepspeed" / "zero3.json"
    train_well(run, processes=2, program=[str(ROOT / "tests" / "merged_train.py")], deepspeed=zero3, **lora)
    merged, base = load_file(run / "merged.safetensors"), load_file(run / "base.safetensors")
    exported = dict(load_model(run / "checkpoint-4" / "export", dtype="float32").named_parameters())
    published = dict(load_model(TINY_VLM, dtype="float32").named_parameters())
    assert merged.keys() == exported.keys() == base.keys() == published.keys()
    for name in merged:
        assert torch.equal(base[name], published[name]), name
        torch.testing.assert_close(merged[name], exported[name], rtol=0, atol=1e-6)
    assert any((merged[name] - base[name]).abs().max() > 1e-3 for name in merged)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_lora_like_one_process(stage: int, tmp_path: Path) -> None:
    # Without dropout, whose masks depend on the process.
    lora: dict[str, Any] = {
        "use_peft": True,
        "lora_r": 4,
        "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj", "v_proj"],
    }
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, **lora)
    train_well(two, processes=2, deepspeed=ROOT / "configs" / "deepspeed" / f"zero{stage}.json", **lora)
    assert_same_games(one, two)
    assert_same_metrics(one, two)
    assert_loads(two / "checkpoint-4" / "export")
