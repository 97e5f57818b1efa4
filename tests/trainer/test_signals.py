"""A run that a signal ends leaves its last iteration and one line, and resumed it is the run that was not stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fork_server import ENVIRONMENT
from tests.process_helpers import (
    DRAWN,
    ROOT,
    TINY_VLM,
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

SHORT: dict[str, Any] = {"iterations": 3, "games_per_iteration": 2, "per_device_train_batch_size": 2, "save_steps": 3}
TWO: dict[str, Any] = {"processes": 2}
ARENA: dict[str, Any] = {"arena_every": 1, "arena_games": 4, "arena_images": "drawn:2@heldout"}
STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}


def train_signalled(
    run: Path, moment: str, step: int, signals: str = "SIGTERM", ranks: str = "0", **options: Any
) -> Finished:
    program = [str(ROOT / "tests" / "signalled_train.py"), moment, str(step), signals, ranks]
    return train(run, program=program, **{**SHORT, **options})


def uninterrupted(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train_signalled(run, "none", 0, **options).status == 0
    return run


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory, **TWO, **ARENA)


def last_line(finished: Finished) -> str:
    assert "Traceback" not in finished.output
    assert "done: load" not in finished.output
    assert len(re.findall(r"stopped by SIG", finished.output)) == 1
    return finished.output.strip().splitlines()[-1]


def names(run: Path) -> list[str]:
    return [path.name for path in complete_checkpoints(run)]


def assert_left(finished: Finished, run: Path, step: int, signals: str, processes: int = 1) -> None:
    """One line and the status; the newest checkpoint is that of `step`."""
    assert finished.status == STATUS[signals]
    program = "python" if processes == 1 else f"torchrun --nproc_per_node {processes}"
    assert last_line(finished) == (
        f"stopped by {signals}: the run is saved at {run}/checkpoint-{step}; continue with: {program} "
        f"-m vision_zero.train --output_dir {run} --resume true"
    )
    assert names(run)[-1] == f"checkpoint-{step}"


def assert_resumes(run: Path, whole: Path, last: int = 3, **options: Any) -> None:
    assert train_signalled(run, "none", 0, **options, resume=True).status == 0
    assert_same_run(run, whole, last)
    arenas = [read_json_lines(one / "arena.jsonl") for one in (run, whole)]
    assert [{**line, "seconds": 0} for line in arenas[0]] == [{**line, "seconds": 0} for line in arenas[1]]


def generators(checkpoint: Path) -> list[Any]:
    return [torch.load(file, weights_only=False) for file in sorted(checkpoint.glob("rng_state*.pth"))]


def moment_options(moment: str, grace: float) -> tuple[int, dict[str, Any]]:
    """The step of the checkpoint that a signal leaves which comes after step 1."""
    ends = {"rollout": 1, "update": 1, "arena": 1, "save": 1} if not grace else {"rollout": 2, "update": 2}
    return ends.get(moment, 1), {"grace": grace, **({"save_steps": 1} if moment == "save" else {})}


def test_in_a_rollout_without_grace(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_left(train_signalled(run, "rollout", 1, grace=0), run, 1, "SIGTERM")
    # The state of the end of the iteration, not of the middle of the next one, whatever has moved since.
    alone = tmp_path / "alone"
    train_signalled(alone, "none", 0, save_steps=1)
    kept, same = (folder / "checkpoint-1" for folder in (run, alone))
    assert (kept / "iterative_spo.json").read_bytes() == (same / "iterative_spo.json").read_bytes()
    (ours,), (theirs,) = generators(kept), generators(same)
    assert ours["python"] == theirs["python"]
    assert torch.equal(ours["cpu"], theirs["cpu"])
    assert_resumes(run, one)


def test_one_process_of_two_in_an_arena_and_in_an_update(two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {**TWO, **ARENA, "grace": 0}
    assert_left(train_signalled(run, "arena", 1, "SIGINT", "1", **options), run, 1, "SIGINT", 2)
    assert [line["step"] for line in read_json_lines(run / "arena.jsonl")] == [0]
    assert_left(train_signalled(run, "update", 2, "SIGUSR1", "1", resume=True, **options), run, 2, "SIGUSR1", 2)
    assert_resumes(run, two, **TWO, **ARENA)


def test_before_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(*flags(output_dir=run), log=tmp_path / "log") as process:
        wait_for((run / "config.yaml").exists, process)
        os.kill(process.pid, signal.SIGTERM)
        status = process.wait(30)
    assert last_line(Finished(status, (tmp_path / "log").read_text())).startswith("stopped by SIGTERM before training")
    assert status == 143
