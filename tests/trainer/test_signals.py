"""A run that a signal ends leaves its last iteration and one line, and resumed it is the run that was not stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    running,
    train,
    wait_for,
)
from vision_zero.rollout.stopping import StoppedError, StopSignal
from vision_zero.run_folder import complete_checkpoints, read_json_lines

SHORT: dict[str, Any] = {"iterations": 2, "games_per_iteration": 2, "num_generations": 2, "save_steps": 2}
ONE: dict[str, Any] = {**SHORT, "per_device_train_batch_size": 2}
ARENA: dict[str, Any] = {"arena_every": 1, "arena_games": 4, "arena_images": "drawn:2@heldout"}
TWO: dict[str, Any] = {**SHORT, "per_device_train_batch_size": 1, "processes": 2, **ARENA}
STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}


def train_signalled(
    run: Path, moment: str, step: int, signals: str = "SIGTERM", ranks: str = "0", **options: Any
) -> Finished:
    program = [str(ROOT / "tests" / "signalled_train.py"), moment, str(step), signals, ranks]
    return train(run, program=program, **options)


def uninterrupted(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train_signalled(run, "none", 0, **options).status == 0
    return run


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory, **{**ONE, "save_steps": 1})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory, **{**TWO, "save_steps": 1})


def last_line(finished: Finished) -> str:
    assert "Traceback" not in finished.output
    assert "done: load" not in finished.output
    assert len(re.findall(r"stopped by SIG", finished.output)) == 1
    return finished.output.strip().splitlines()[-1]


def assert_left(finished: Finished, run: Path, step: int, signals: str, processes: int = 1) -> None:
    """One line and the status; the newest checkpoint is that of `step`."""
    assert finished.status == STATUS[signals]
    program = "python" if processes == 1 else f"torchrun --nproc_per_node {processes}"
    assert last_line(finished) == (
        f"stopped by {signals}: the run is saved at {run}/checkpoint-{step}; continue with: {program} "
        f"-m vision_zero.train --output_dir {run} --resume true"
    )
    assert complete_checkpoints(run)[-1].name == f"checkpoint-{step}"


def assert_same_checkpoint(checkpoint: Path, other: Path) -> None:
    """State, counters and random generators are equal."""
    assert (checkpoint / "iterative_spo.json").read_bytes() == (other / "iterative_spo.json").read_bytes()
    ours, theirs = (json.loads((one / "trainer_state.json").read_text()) for one in (checkpoint, other))
    for name in ("global_step", "num_input_tokens_seen", "total_flos", "epoch"):
        assert ours[name] == theirs[name], name
    files = sorted(path.name for path in checkpoint.glob("rng_state*.pth"))
    assert files
    for name in files:
        kept, same = (torch.load(one / name, weights_only=False) for one in (checkpoint, other))
        assert kept["python"] == same["python"]
        assert torch.equal(kept["cpu"], same["cpu"])


def assert_resumes(run: Path, whole: Path, **options: Any) -> None:
    assert train_signalled(run, "none", 0, **options, resume=True).status == 0
    assert_same_run(run, whole, 2)
    arenas = [read_json_lines(one / "arena.jsonl") for one in (run, whole)]
    assert [{**line, "seconds": 0} for line in arenas[0]] == [{**line, "seconds": 0} for line in arenas[1]]


@pytest.mark.fault("TERM, INT, USR1")
def test_in_a_rollout_without_grace(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_left(train_signalled(run, "rollout", 1, grace=0, **ONE), run, 1, "SIGTERM")
    # The end of the last iteration, not the middle of the next one, whatever has moved since.
    assert_same_checkpoint(run / "checkpoint-1", one / "checkpoint-1")
    assert_resumes(run, one, **ONE)


@pytest.mark.fault("TERM, INT, USR1")
def test_one_process_of_two_in_an_arena(two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_left(train_signalled(run, "arena", 1, "SIGINT", "1", grace=0, **TWO), run, 1, "SIGINT", 2)
    assert [line["step"] for line in read_json_lines(run / "arena.jsonl")] == [0]
    assert_same_checkpoint(run / "checkpoint-1", two / "checkpoint-1")
    assert_resumes(run, two, **TWO)


@pytest.mark.fault("TERM, INT, USR1")
def test_before_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(*flags(output_dir=run), log=tmp_path / "log") as process:
        wait_for((run / "config.yaml").exists, process)
        os.kill(process.pid, signal.SIGTERM)
        status = process.wait(30)
    assert last_line(Finished(status, (tmp_path / "log").read_text())).startswith("stopped by SIGTERM before training")
    assert status == 143


@pytest.mark.parametrize(("grace", "number", "over"), [(0.0, 15, True), (99.0, 15, False), (0.0, None, False)])
def test_what_is_played_is_left_when_the_grace_is_over(grace: float, number: int | None, over: bool) -> None:
    stop = StopSignal()
    stop.grace = grace
    if number:
        stop.agree(number)
    assert stop.over() == over
    if over:
        with pytest.raises(StoppedError):
            stop.check()


def test_torchruns_limit_cuts_the_grace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stop = StopSignal()
    stop.set_grace(60)
    assert stop.grace == 60
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    stop.set_grace(60)
    assert stop.grace == 15
    assert capsys.readouterr().err.startswith("--grace 60 is cut to 15: torchrun kills 30 s after a signal; start it ")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1800")
    stop.set_grace(60)
    assert stop.grace == 60
    assert capsys.readouterr().err == ""


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("moment", ["rollout", "update", "save", "rollout with grace", "update with grace"])
@pytest.mark.parametrize("name", STATUS)
def test_table(name: str, moment: str, processes: int, one: Path, two: Path, tmp_path: Path) -> None:
    run, options, whole = tmp_path / "run", ONE if processes == 1 else TWO, one if processes == 1 else two
    where, _, grace = moment.partition(" with ")
    step = 0 if grace else 1
    ranks = "1" if (name, processes) == ("SIGUSR1", 2) and where != "save" else ",".join(map(str, range(processes)))
    options = {**options, "save_steps": 1 if where == "save" else 2, "grace": 60 if grace else 0}
    assert_left(train_signalled(run, where, step, name, ranks, **options), run, 1, name, processes)
    assert_resumes(run, whole, **options)


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["rollout", "update", "save"])
def test_a_second_signal_ends_it_at_once(moment: str, one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {**ONE, "save_steps": 1}
    finished = train_signalled(run, moment, 1, "SIGUSR1,SIGTERM", **options)
    assert finished.status == 143
    assert "stopped by" not in finished.output
    assert "Traceback" not in finished.output
    assert [path.name for path in complete_checkpoints(run)] == ([] if moment == "save" else ["checkpoint-1"])
    assert_resumes(run, one, **options)


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
def test_nothing_was_trained(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = train_signalled(run, "update", 0, grace=0, **ONE)
    assert finished.status == 143
    assert last_line(finished).startswith("stopped by SIGTERM: nothing was trained yet; continue with: python -m")
    assert complete_checkpoints(run) == []
    assert_resumes(run, one, **ONE)


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
def test_while_a_checkpoint_is_loaded(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_signalled(run, "rollout", 1, grace=0, **ONE)
    finished = train_signalled(run, "load", 1, resume=True, **ONE)
    assert finished.status == 143
    assert last_line(finished) == "stopped by SIGTERM before training began; nothing is lost"
    assert_resumes(run, one, **ONE)


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
def test_weights_have_moved_within_the_iteration(tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    updates = {**ONE, "updates_per_iteration": 2, "per_device_train_batch_size": 1, "iterations": 3}
    assert train_signalled(whole, "none", 0, **updates).status == 0
    finished = train_signalled(run, "update", 3, grace=0, **updates)
    assert finished.status == 143
    assert last_line(finished).startswith(
        f"stopped by SIGTERM: the run is saved at {run}/checkpoint-2 (the 1 steps after it are lost: they are no whole "
    )
    assert train_signalled(run, "none", 0, **updates, resume=True).status == 0
    assert_same_run(run, whole, 6)


@pytest.mark.fault("TERM, INT, USR1")
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("moment", ["rollout", "update"])
def test_with_deepspeed(moment: str, stage: int, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = {**TWO, **dict.fromkeys(ARENA), "deepspeed": ROOT / "configs" / "deepspeed" / f"zero{stage}.json"}
    assert train_signalled(whole, "none", 0, **options).status == 0
    assert_left(train_signalled(run, moment, 1, "SIGTERM", "1", grace=0, **options), run, 1, "SIGTERM", 2)
    assert_resumes(run, whole, **options)


SCRIPT = {
    "IMAGES_DIR": str(DRAWN),
    "MODEL": str(TINY_VLM),
    "NUM_GPUS": "0",
    "RUN_NAME": "run",
    "REPORT_TO": "none",
    "GAMES": "4",
    "GENERATIONS": "4",
    "CIVILIANS": "2",
    "ROUNDS": "1",
    "TEMPLATE": "compact",
    "MAX_PIXELS": "3136",
    "MAX_CLUE_TOKENS": "8",
    "MAX_VOTE_TOKENS": "8",
    "MICRO_BATCH": "2",
    "ITERATIONS": "100",
}
GOES_ON = f'set -e; source {ROOT}/run_scripts/launch.sh; run "$@"; echo not to be reached'
GRPO = ["bash", str(ROOT / "run_scripts" / "run_grpo_vision_zero.sh")]


def processes_of(run: Path) -> list[int]:
    """Live processes whose command line has the folder of the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(run).encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@contextmanager
def started(command: list[str], run: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command that trains in `run`, after its first iteration; what is left of it is killed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "VIRTUAL_ENV": sys.prefix, "OUTPUT_BASE_DIR": str(run.parent)}
    log = run.with_name("log")
    with log.open("w") as file:
        environment = {**os.environ, **ENVIRONMENT, **own, **variables}
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for((run / "metrics.jsonl").exists, process)
        yield process, log
    finally:
        for number in [process.pid, *processes_of(run)]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def wait_for_none(run: Path) -> None:
    end = time.monotonic() + 60
    while left := processes_of(run):
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.1)


@pytest.mark.fault("TERM, INT, USR1 to script or torchrun")
@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("name", STATUS)
def test_the_script_and_torchrun(name: str, processes: str, tmp_path: Path) -> None:
    """The script becomes torchrun, or the run: to each of them the signal is the same."""
    run = tmp_path / "runs" / "run"
    run.parent.mkdir()
    with started(GRPO, run, NUM_PROCESSES=processes, **SCRIPT) as (process, log):
        assert len(processes_of(run)) == (1 if processes == "1" else 3)
        process.send_signal(getattr(signal, name))
        finished = Finished(process.wait(120), log.read_text())
        assert_left(finished, run, len(read_json_lines(run / "metrics.jsonl")), name, int(processes))
        wait_for_none(run)


@pytest.mark.fault("TERM, INT, USR1 to script or torchrun")
@pytest.mark.slow
def test_a_script_that_goes_on_afterwards_passes_signals_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = flags(output_dir=run, iterations=50, save_steps=50)
    program = [sys.executable, "-m", "vision_zero.train", *options]
    with started(["bash", "-c", GOES_ON, "script", *program], run) as (
        process,
        log,
    ):
        process.send_signal(signal.SIGUSR1)
        finished = Finished(process.wait(120), log.read_text())
        assert_left(finished, run, len(read_json_lines(run / "metrics.jsonl")), "SIGUSR1")
        wait_for_none(run)


@pytest.mark.fault("TERM, INT, USR1 to script or torchrun")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGKILL"])
def test_workers_whose_torchrun_is_gone_save_and_leave(name: str, tmp_path: Path) -> None:
    """Plain torchrun, which does not handle the signal."""
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = flags(output_dir=run, iterations=50, save_steps=50, per_device_train_batch_size=2)
    with started([*torchrun, "-m", "vision_zero.train", *options], run) as (process, log):
        process.send_signal(getattr(signal, name))
        process.wait(60)
        wait_for_none(run)
        assert "stopped by SIGTERM: the run is saved at" in log.read_text()
        assert "is cut to 15: torchrun kills 30 s after a signal" in log.read_text()
        assert len(complete_checkpoints(run)) == 1
