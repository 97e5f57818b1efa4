"""Whole runs whose games are played by vLLM, through the real command line: on two processes, with ZeRO-3 and FSDP2,
with LoRA, and killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.process_helpers import ROOT, assert_same_run, games, kill, metrics, running, train_well, wait_for
from tests.process_helpers import flags as flags_of
from tests.trainer.test_distributed import FSDP, assert_loads, assert_same_games
from vision_zero.run_folder import complete_checkpoints

VLLM: dict[str, Any] = {"use_vllm": True, "vllm_max_model_length": 1024, "vllm_block_size": 32}
LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    train_well(run, **VLLM)
    return run


def assert_engine_was_in_step(run: Path) -> None:
    for line in metrics(run):
        assert line["sampling/sampling_logp_difference/mean"] < 1e-4


def test_two_processes_play_the_games_of_one(one_process: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    train_well(two, processes=2, per_device_train_batch_size=2, **VLLM)
    assert_engine_was_in_step(two)
    assert_same_games(one_process, two)


def test_two_processes_share_an_engine(one_process: Path, tmp_path: Path) -> None:
    """Tensor parallelism, in lock-step. Sums over halves of a layer round differently."""
    two = tmp_path / "shared"
    train_well(two, processes=2, per_device_train_batch_size=2, vllm_tensor_parallel_size=2, **VLLM)
    assert_engine_was_in_step(two)
    assert_same_games(one_process, two, logprob=1e-4)
    for line, same in zip(metrics(one_process), metrics(two), strict=True):
        assert line["rollout/tokens/new"] == same["rollout/tokens/new"]


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_gives_its_weights_to_the_engine(stage: int, one_process: Path, tmp_path: Path) -> None:
    run = tmp_path / "zero"
    train_well(run, processes=2, deepspeed=ROOT / "configs" / "deepspeed" / f"zero{stage}.json", **VLLM)
    assert_engine_was_in_step(run)
    assert_same_games(one_process, run)
    assert_loads(run / "checkpoint-4" / "export")


def test_zero3_gathers_a_layer_with_its_adapter(tmp_path: Path) -> None:
    """The games of a run whose weights are not split."""
    zero3, whole = tmp_path / "zero3", tmp_path / "whole"
    train_well(zero3, processes=2, deepspeed=ROOT / "configs" / "deepspeed" / "zero3.json", **VLLM, **LORA)
    assert_engine_was_in_step(zero3)
    train_well(whole, **VLLM, **LORA)
    assert_same_games(whole, zero3)
    assert_loads(zero3 / "checkpoint-4" / "export")


def test_fsdp_gathers_its_weights_for_the_engine(one_process: Path, tmp_path: Path) -> None:
    run = tmp_path / "fsdp"
    train_well(run, **FSDP, **VLLM)
    assert_engine_was_in_step(run)
    assert_same_games(one_process, run)
    assert_loads(run / "checkpoint-4" / "export")


def test_fsdp_merges_a_layer_with_its_adapter_for_a_shared_engine(tmp_path: Path) -> None:
    run = tmp_path / "fsdp"
    train_well(run, **FSDP, **VLLM, **LORA, vllm_tensor_parallel_size=2)
    assert_engine_was_in_step(run)
    assert_loads(run / "checkpoint-4" / "export")


@pytest.mark.parametrize("four_bits", [False, True], ids=["LoRA", "QLoRA"])
def test_lora_is_merged_for_the_engine(four_bits: bool, tmp_path: Path) -> None:
    run = tmp_path / "lora"
    train_well(run, **VLLM, **LORA, load_in_4bit=four_bits)
    assert_engine_was_in_step(run)
    assert len(games(run)) == 4


def test_a_killed_run_goes_on_as_if_it_had_not_been(one_process: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    with running(*flags_of(output_dir=run, **VLLM), fresh=True) as process:
        wait_for(lambda: complete_checkpoints(run), process)
        kill(process)
    train_well(run, resume=True, **VLLM)
    assert_same_run(one_process, run, last=4)
