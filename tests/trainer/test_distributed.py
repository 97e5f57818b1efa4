"""The same run on one process and on several, by every kind of parallelism, through the real command line.

`KINDS` are the rows of the table of losses in docs/performance.md: a function that trains into a folder, and the words
that stand for it there. Whatever starts the processes, they play the games of one and have its losses and its arena.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.process_helpers import DRAWN, ROOT, TINY_VLM, games, metrics, train_well, weights
from tests.trainer.test_families import FAMILIES as ALL_FAMILIES
from tests.trainer.test_families import saved_family
from vision_zero.models import load_model
from vision_zero.run_folder import read_json_lines

LOGPROB, LOSS = 1e-5, 1e-4
UNEQUAL_BY_NATURE = (
    "rollout/images/preprocessed",  # games on two processes may share a blank image
    "update/padding",  # other rows share a micro-batch
    "update/shared",
)
ARENA: dict[str, Any] = {"arena_every": 4, "arena_games": 4, "arena_images": "drawn:2@heldout"}


def configs(name: str) -> Path:
    return ROOT / "configs" / name


@dataclass(frozen=True)
class Kind:
    """`train` makes the run in a folder; `command` is what a user gives for it (docs/performance.md)."""

    train: Callable[[Path], Any]
    command: str


def kind(command: str, **options: Any) -> Kind:
    return Kind(functools.partial(train_well, **ARENA, **options), command)


def deepspeed(name: str, *, fresh: bool) -> Kind:
    file = configs(f"deepspeed/{name}.json")
    return kind(f"--deepspeed configs/deepspeed/{name}.json", processes=2, deepspeed=file, fresh=fresh)


# On a CPU accelerate leaves FSDP out: tests/fsdp_train.py puts it back, and all that it calls is real.
FSDP: dict[str, Any] = {
    "processes": 2,
    "program": [str(ROOT / "tests" / "fsdp_train.py")],
    "fsdp_config": configs("fsdp2.yaml"),
}
KINDS = {
    "1 process": kind("python -m vision_zero.train"),
    "DDP": kind("torchrun --nproc_per_node 2", processes=2, per_device_train_batch_size=2, fresh=True),
    "ZeRO-2": deepspeed("zero2", fresh=True),  # DeepSpeed with all that it compiles
    "ZeRO-3": deepspeed("zero3", fresh=False),
    "ZeRO-3, offload": deepspeed("zero3_offload", fresh=False),  # with its own Adam for CPUs, compiled at the first use
    "FSDP2": kind("--fsdp_config configs/fsdp2.yaml", **FSDP),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def trained(name: str) -> Path:
        run = tmp_path_factory.mktemp("kind") / "run"
        KINDS[name].train(run)
        return run

    return trained


@pytest.fixture(scope="module")
def one_process(run_of: Callable[[str], Path]) -> Path:
    return run_of("1 process")


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


def assert_same_metrics(run: Path, other: Path, gradient: float = 0.01) -> None:
    """Every gradient is larger than `gradient`."""
    ours, theirs = metrics(run), metrics(other)
    assert len(ours) == 4
    for line, same in zip(ours, theirs, strict=True):
        assert line.keys() == same.keys()
        for name, value in line.items():
            if name not in UNEQUAL_BY_NATURE:
                assert value == pytest.approx(same[name], rel=LOSS, abs=LOSS), f"{name} at step {line['step']}"
    assert all(line["grad_norm"] > gradient for line in ours), "a run in which nothing was learnt would show nothing"


def arena(run: Path) -> list[dict[str, Any]]:
    return [{**line, "seconds": 0} for line in read_json_lines(run / "arena.jsonl")]


def assert_same_arena(run: Path, other: Path) -> None:
    """Its figures are shares of games, so they are equal if the games are."""
    assert arena(run) == arena(other)
    assert [line["step"] for line in arena(run)] == [0, 4]


def assert_same_exports(run: Path, other: Path) -> None:
    """Files of the same names, weights of the same names, types and values within what rounding makes of Adam."""
    ours, theirs = (folder / "checkpoint-4" / "export" for folder in (run, other))
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    one, two = weights(ours), weights(theirs)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-3)


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


def test_two_processes_have_the_state_of_one(one_process: Path, run_of: Callable[[str], Path]) -> None:
    two = run_of("DDP")
    state = [json.loads((run / "checkpoint-4" / "iterative_spo.json").read_text()) for run in (one_process, two)]
    assert state[0] == state[1]
    assert (one_process / "switches.jsonl").read_bytes() == (two / "switches.jsonl").read_bytes()
    ours, theirs = (weights(run / "checkpoint-2") for run in (one_process, two))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


SLOW = ("ZeRO-2", "ZeRO-3, offload")  # ZeRO-3 and FSDP2 are as sharp, and need no compiler


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in KINDS if one != "1 process"]
)
def test_every_kind_trains_like_one_process(name: str, one_process: Path, run_of: Callable[[str], Path]) -> None:
    """The same games, losses within 1e-4, the same arena, and an export that plain transformers loads."""
    run = run_of(name)
    assert_same_games(one_process, run)
    assert_same_metrics(one_process, run)
    assert_same_arena(one_process, run)
    assert_same_exports(one_process, run)
    assert_loads(run / "checkpoint-4" / "export")


@pytest.mark.slow
def test_the_table_of_losses(run_of: Callable[[str], Path]) -> None:
    """Prints the table of docs/performance.md, whose rows are these; -s shows it."""
    losses = {name: [line["loss"] for line in metrics(run_of(name))] for name in KINDS}
    print()
    for name, row in losses.items():
        apart = max(abs(loss - one) for loss, one in zip(row, losses["1 process"], strict=True))
        cells = [name, f"`{KINDS[name].command}`", *(f"{loss:.7f}" for loss in row), f"{apart:.0e}"]
        print(f"| {' | '.join(cells)} |")
        assert apart < LOSS
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert [name for name, kind in KINDS.items() if f"| {name} | `{kind.command}` |" not in text] == []


SPLIT: dict[str, dict[str, Any]] = {
    "ZeRO-3": {"processes": 2, "deepspeed": configs("deepspeed/zero3.json")},
    "FSDP2": FSDP,
}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one != "smolvlm2")) for one in ALL_FAMILIES]
)  # whose lm_head is not tied
def test_a_family_trains_like_one_process(name: str, tmp_path: Path) -> None:
    """With its weights split, by either way, its layers are gathered for towers, players and updates alike."""
    options = {"model_name_or_path": saved_family(name, tmp_path / "model").folder, "max_pixels": None}
    # For words without meaning; Adam would make much of gradients that are next to nothing.
    options |= {"reward_control": "random", "optim": "sgd", "learning_rate": 0.1}
    train_well(tmp_path / "one", **options)
    for by, how in SPLIT.items():
        train_well(tmp_path / by, **options, **how, per_device_train_batch_size=2)
        assert_same_games(tmp_path / "one", tmp_path / by)
        assert_same_metrics(tmp_path / "one", tmp_path / by, gradient=1e-3)


@pytest.mark.parametrize("by", ["DDP", pytest.param("ZeRO-3", marks=pytest.mark.slow), "FSDP2"])
def test_a_frozen_vision_tower_trains_like_one_process(by: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    how = {"DDP": {}, **SPLIT}[by]
    train_well(one, freeze_vision=True)
    train_well(two, **{"processes": 2, "per_device_train_batch_size": 2, **how}, freeze_vision=True)
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


WIDE: dict[str, Any] = {"gradient_checkpointing": True, "past_players": 0.5, "past_role": "voter", **ARENA}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["DDP", "DDP, 4 bits", "zero2", "zero3", "FSDP2"])
def test_lora_trains_like_one_process(by: str, tmp_path: Path) -> None:
    """With past players, whose model and reference are the policy without its adapter."""
    # Without dropout, whose masks depend on the process.
    lora: dict[str, Any] = {
        "use_peft": True,
        "lora_r": 4,
        "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj", "v_proj"],
    }
    one, two = tmp_path / "one", tmp_path / "two"
    lora["load_in_4bit"] = by == "DDP, 4 bits"
    how: dict[str, Any] = {"processes": 2}
    if by.startswith("DDP"):
        how["per_device_train_batch_size"] = 2
    else:
        how = FSDP if by == "FSDP2" else {**how, "deepspeed": configs(f"deepspeed/{by}.json")}
    train_well(one, **lora, **WIDE)
    train_well(two, **how, **lora, **WIDE)
    assert_same_games(one, two)
    assert_same_metrics(one, two)
    assert_same_arena(one, two)
    assert_loads(two / "checkpoint-4" / "export")
