"""A run that was killed and resumed is the run that was not, to the last digit, wherever the kill fell."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.process_helpers import (
    ROOT,
    Finished,
    assert_same_run,
    flags,
    kill,
    running,
    train,
    train_well,
    wait_for,
)
from vision_zero.run_folder import complete_checkpoints, read_json_lines

LONG: dict[str, Any] = {"iterations": 6, "save_steps": 1, "save_total_limit": 2}
LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_well(run, **LONG, fresh=True)  # so a fork with the same seeds is shown to do the same
    return run


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoint-*"))


def train_and_kill_after(run: Path, step: int, processes: int = 1, **options: Any) -> None:
    """SIGKILL as soon as checkpoint-`step` is complete."""
    with running(*flags(output_dir=run, **options), processes=processes) as process:
        wait_for((run / f"checkpoint-{step}" / "COMPLETE").exists, process)
        kill(process)


def train_killed_at(where: str, step: int, run: Path, **options: Any) -> Finished:
    program = [str(ROOT / "tests" / "killed_train.py"), where, str(step)]
    finished = train(run, program=program, **options)
    assert finished.status != 0
    return finished


def test_killed_after_a_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_and_kill_after(run, 3, **LONG)
    assert "checkpoint-6" not in checkpoints(run), "killed too late to show anything"
    assert_resumes(run, uninterrupted)


def assert_resumes(run: Path, uninterrupted: Path) -> None:
    finished = train_well(run, **LONG, resume=True)
    assert f"resuming from {run}/checkpoint-" in finished.output
    assert_same_run(run, uninterrupted, last=6)
    assert checkpoints(run) == checkpoints(uninterrupted) == ["checkpoint-5", "checkpoint-6"]
    assert len(complete_checkpoints(run)) == 2


def test_killed_before_the_checkpoint_was_complete(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("mark", 4, run, **LONG)
    # The broken one is there, whole but for the mark, and rotation did not count it.
    assert checkpoints(run) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-2", "checkpoint-3"]
    assert (run / "checkpoint-4" / "model.safetensors").is_file()
    assert len(read_json_lines(run / "metrics.jsonl")) == 4
    assert_resumes(run, uninterrupted)


@pytest.mark.slow
def test_killed_with_half_a_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("model", 4, run, **LONG)
    assert not (run / "checkpoint-4" / "iterative_spo.json").exists()
    assert_resumes(run, uninterrupted)


@pytest.mark.slow
def test_killed_while_an_old_checkpoint_was_removed(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("rotation", 4, run, **LONG)
    assert checkpoints(run) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-3", "checkpoint-4"]
    assert_resumes(run, uninterrupted)


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(uninterrupted: Path, tmp_path: Path) -> None:
    run, rng = tmp_path / "run", random.Random(0)
    kills = 0
    while len(complete_checkpoints(run)) < 2 or checkpoints(run)[-1] != "checkpoint-6":
        begun = (run / "config.yaml").exists()
        with running(*flags(output_dir=run, **LONG, resume=begun)) as process:
            seen = (run / "metrics.jsonl").stat().st_mtime_ns if begun and (run / "metrics.jsonl").exists() else 0
            wait_for(
                lambda seen=seen: (
                    (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_mtime_ns != seen
                ),
                process,
            )
            try:
                process.wait(rng.uniform(0.0, 1.5 + 0.5 * kills))  # a slow machine gets on in the end
            except Exception:
                kills += 1
                kill(process)
        assert kills < 20
    assert kills >= 2
    if not (run / "checkpoint-6" / "COMPLETE").exists():
        train_well(run, **LONG, resume=True)
    assert_same_run(run, uninterrupted, last=6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"processes": 2, "per_device_train_batch_size": 2}, id="two processes"),
        pytest.param({"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero2.json"}, id="ZeRO-2"),
        pytest.param({"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero3.json"}, id="ZeRO-3"),
        pytest.param(LORA, id="LoRA"),
        pytest.param(
            {"updates_per_iteration": 2, "save_steps": 2, "schedule": "iterative", "k_min": 2}, id="2 updates"
        ),
        pytest.param({"lr_scheduler_type": "cosine", "warmup_steps": 0.3, "optim": "sgd"}, id="schedule"),
    ],
)
def test_resumed_run_is_the_same_with(options: dict[str, Any], tmp_path: Path) -> None:
    options = {**LONG, **options}
    steps = 12 if "updates_per_iteration" in options else 6
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_well(whole, **options)
    train_and_kill_after(run, 4, **options)
    assert f"checkpoint-{steps}" not in checkpoints(run)
    train_well(run, **options, resume=True)
    assert_same_run(run, whole, last=steps)


def test_finished_run_is_resumed_without_a_step(uninterrupted: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    finished = train_well(uninterrupted, **LONG, resume=True)
    assert "done: load" in finished.output
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before
