"""Waits that end: for a process that is killed, stopped or hangs, for processes that never come, for a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from tests.fork_server import ForkedProcess, free_port
from tests.process_helpers import (
    ENVIRONMENT,
    ROOT,
    TINY_VLM,
    TRAIN,
    Process,
    assert_same_run,
    flags,
    kill,
    running,
    train,
    train_well,
    wait_for,
)
from vision_zero import ranks, run_folder

TWO: dict[str, Any] = {"per_device_train_batch_size": 2, "save_steps": 1, "iterations": 300, "ddp_timeout": 5}
SAVING: dict[str, Any] = {"save_steps": 1, "save_total_limit": 1}
ZERO2 = {"deepspeed": ROOT / "configs" / "deepspeed" / "zero2.json"}


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error:")]


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def pids(process: Process) -> list[int]:
    """The processes that train, by rank: children of the fork, or of torchrun."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def said_when(sent: signal.Signals, rank: int, tmp_path: Path, **options: Any) -> tuple[str, float, list[int]]:
    """What a run of two processes printed when one of them got a signal, and the seconds until the other had ended."""
    run, log, fresh = tmp_path / "run", tmp_path / "log", options.pop("fresh", False)
    with running(*flags(output_dir=run, **TWO | options), processes=2, log=log, fresh=fresh) as process:
        wait_for((run / "checkpoint-1" / "COMPLETE").exists, process)
        both = pids(process)
        assert len(both) == 2
        os.kill(both[rank], sent)
        started = time.monotonic()
        try:
            while not ended(both[1 - rank]):
                assert time.monotonic() - started < 60, log.read_text()
                time.sleep(0.05)
            seconds = time.monotonic() - started
        finally:  # those of torchrun are in sessions of their own
            for pid in both:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    output = log.read_text("utf-8")
    assert "Traceback" not in output.partition("torch/distributed/run.py")[0]
    (line,) = errors(output)
    assert f"error: rank {rank} (host " in line
    assert f"pid {both[rank]}), last " in line
    assert "The last good checkpoint is " in line
    assert str(run_folder.complete_checkpoints(run)[-1]) in line
    return line, seconds, both


@pytest.mark.fault("a rank killed")
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_is_named_at_once(rank: int, tmp_path: Path) -> None:
    line, seconds, _ = said_when(signal.SIGKILL, rank, tmp_path, ddp_timeout=1800)
    assert "was killed or crashed; all processes end" in line
    assert seconds < 15


@pytest.mark.fault("a rank stopped")
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("options", [{}, ZERO2], ids=["gloo", "DeepSpeed"])
def test_a_stopped_process_is_named_after_the_limit(rank: int, options: dict[str, Any], tmp_path: Path) -> None:
    line, seconds, _ = said_when(signal.SIGSTOP, rank, tmp_path, **options)
    assert "gave no sign of life for" in line if rank else "keeps the run's store, gave no answer for" in line
    assert 4 < seconds < 20


@pytest.mark.fault("a rank stopped")
@pytest.mark.slow
def test_under_torchrun_too(tmp_path: Path) -> None:
    line, seconds, _ = said_when(signal.SIGSTOP, 0, tmp_path, fresh=True)
    assert "gave no sign of life for" in line
    assert "it is stopped" in line
    assert seconds < 20


@pytest.mark.fault("a rank stopped")
@pytest.mark.slow
def test_a_process_that_is_stopped_for_less_goes_on(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    with running(*flags(output_dir=run, **TWO | {"iterations": 4}), processes=2, log=log) as process:
        wait_for((run / "checkpoint-1" / "COMPLETE").exists, process)
        for pid in pids(process):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(2)
            os.kill(pid, signal.SIGCONT)
        assert process.wait(120) == 0
    assert not errors(log.read_text())


@pytest.mark.fault("a rank hangs")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("playing", "came no further for 5 s while others wait for it"),
        ("backward", "no process came further for 5 s: rank 0 (host "),
    ],
)
def test_a_process_that_hangs_is_named(place: str, says: str, tmp_path: Path) -> None:
    program = [str(ROOT / "tests" / "hung_train.py"), place]
    log, run = tmp_path / "log", tmp_path / "run"
    with running(*flags(output_dir=run, **TWO), processes=2, log=log, program=program) as process:
        wait_for(lambda: "error:" in log.read_text() if log.exists() else False, process)
    (line,) = errors(log.read_text())
    assert says in line
    assert "rank 1 (host " in line
    assert "Traceback" not in log.read_text()


COMPLETE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.fault("WORLD_SIZE left behind")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_waits_for_nobody_is_told(rank: str, tmp_path: Path) -> None:
    left = COMPLETE | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": str(free_port())}
    log = tmp_path / "log"
    words = flags(output_dir=tmp_path / "run", rendezvous_timeout=1)
    process = ForkedProcess([*TRAIN, *words], {**os.environ, **ENVIRONMENT, **left}, log)
    try:
        assert process.wait(30) == 1
    finally:
        kill(process)
    (line,) = errors(log.read_text())
    came = "1 of 2 processes came (rank 0)" if rank == "0" else f"nothing answers at 127.0.0.1:{left['MASTER_PORT']}"
    assert f"{came} within 1 s (rendezvous_timeout), with RANK={rank} WORLD_SIZE=2" in line
    assert "torchrun; if this process is to train alone: unset RANK WORLD_SIZE" in line
    assert "Traceback" not in log.read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("WORLD_SIZE left behind")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment is no whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 in the environment is no whole number from 1"),
        ({"RANK": "-1"}, "RANK=-1 in the environment is no whole number"),
        ({"RANK": "2"}, "RANK=2 WORLD_SIZE=2 .* contradict"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 .* contradict"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 .* contradict"),
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR. "),
        ({"MASTER_ADDR": "", "LOCAL_RANK": ""}, "no LOCAL_RANK MASTER_ADDR. "),
        (dict.fromkeys(COMPLETE, "") | {"LOCAL_RANK": "0"}, "no RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"),
        (dict.fromkeys(COMPLETE, "") | {"RANK": "1"}, "RANK=1 .* contradict"),
        (dict.fromkeys(COMPLETE, "") | {"PMI_SIZE": "4"}, "PMI_SIZE=4 .* no WORLD_SIZE: processes of mpirun"),
        (
            dict.fromkeys(COMPLETE, "") | {"SLURM_STEP_NUM_TASKS": "8"},
            "SLURM_STEP_NUM_TASKS=8 .* no WORLD_SIZE",
        ),
    ],
)
def test_variables_that_contradict_are_refused(
    changes: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (COMPLETE | changes).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(ranks.RankError, match=says):
        ranks.check_environment()


@pytest.mark.parametrize(
    "variables",
    [{}, {"RANK": "0", "WORLD_SIZE": "1"}, COMPLETE, COMPLETE | {"PMI_SIZE": "8"}, {"OMPI_COMM_WORLD_SIZE": "1"}],
)
def test_variables_of_launchers_are_accepted(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks.check_environment()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"games_per_iteration": 5}, "error: games_per_iteration=5 cannot be shared evenly by 2 processes"),
        ({"images": "/nowhere"}, "error: /nowhere: no such file or folder"),
    ],
)
def test_what_two_processes_refuse_is_told_once(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    finished = train(tmp_path / "run", processes=2, **TWO | options)
    assert finished.status == 1
    (line,) = errors(finished.output)
    assert line.startswith(says)


@contextmanager
def small_files() -> Iterator[None]:
    """Nothing may write past the first 500 bytes of a file, as if the disk were full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault("full disk")
@pytest.mark.parametrize("writer", ["torch", "safetensors", "tokenizer", "text", "line"])
def test_every_writer_that_meets_a_limit_says_where(writer: str, tmp_path: Path) -> None:
    tensors = {"one": torch.ones(9999)}
    tokenizer = AutoTokenizer.from_pretrained(TINY_VLM)
    path = tmp_path / "file"
    write = {
        "torch": lambda: torch.save(tensors, path),
        "safetensors": lambda: save_file(tensors, path),
        "tokenizer": lambda: tokenizer.save_pretrained(path),
        "text": lambda: run_folder.write_json(path, "x" * 999),
        "line": lambda: run_folder.append_json_line(path, {"x": "x" * 9999}),
    }[writer]
    with small_files(), pytest.raises(run_folder.WriteError) as stopped, run_folder.writing(path):
        write()
    assert str(stopped.value).startswith(f"{path}: cannot be written: ")
    assert "GB are free there" in str(stopped.value)
    if writer == "text":
        assert not list(tmp_path.iterdir()), "half a file was left"


def test_a_write_error_is_no_other_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_folder.writing(tmp_path):
        raise KeyError
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(run_folder.WriteError, match="full: cannot be written: No space left on device"):
        run_folder.append_json_line(full, {"x": 1})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB: one checkpoint fits, two do not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.fault("full disk")
def test_a_full_disk_at_a_save(disk: Path) -> None:
    stopped_by_a_full_disk(disk, iterations=2)


@pytest.mark.fault("full disk")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"processes": 2}, {"processes": 2, **ZERO2}],
    ids=["one process", "two processes", "DeepSpeed"],
)
def test_a_run_after_a_full_disk_is_the_same(options: dict[str, Any], disk: Path, tmp_path: Path) -> None:
    options = {"iterations": 3, "per_device_train_batch_size": 2, **options}
    run = stopped_by_a_full_disk(disk, **options)
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    train_well(run, resume=True, **SAVING | options)
    whole = tmp_path / "whole"
    train_well(whole, **SAVING | options)
    assert_same_run(run, whole, last=3)


def stopped_by_a_full_disk(disk: Path, **options: Any) -> Path:
    run = disk / "run"
    if "deepspeed" in options:  # its checkpoints are twice as large
        subprocess.run(["mount", "-o", "remount,size=36m", disk], check=True)
    stopped = train(run, **SAVING | options)
    assert stopped.status == 1
    (line,) = errors(stopped.output)
    assert line.startswith(f"error: {run}/checkpoint-2: cannot be written: ")
    assert f"The last good checkpoint is {run}/checkpoint-1; --resume goes on from it once it can be written" in line
    assert f"warning: {run}: 0.0" in stopped.output
    assert "GB are free, checkpoint-1 took 0.0" in stopped.output
    assert "Traceback" not in stopped.output
    assert [path.name for path in run_folder.checkpoints(run)] == ["checkpoint-1"]
    return run


@pytest.mark.fault("full disk")
@pytest.mark.slow
@pytest.mark.parametrize("file", ["metrics.jsonl", "games"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_of_the_run_that_cannot_be_written(file: str, processes: int, tmp_path: Path) -> None:
    """What stands in its place is no file of a run: a device that is full, and a file where a folder should be."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = TWO | {"iterations": 12}
    with running(*flags(output_dir=run, **options), processes=processes, log=tmp_path / "log") as process:
        wait_for((run / "checkpoint-1" / "COMPLETE").exists, process)
        good = run / "good"
        (run / file).rename(good)
        if file == "games":
            (run / file).write_text("no folder")
        else:
            (run / file).symlink_to("/dev/full")
        assert process.wait(120) == 1
    (line,) = errors((tmp_path / "log").read_text())
    assert line.startswith(f"error: {run / file}")
    assert "cannot be written: " in line
    assert "Traceback" not in (tmp_path / "log").read_text()
    (run / file).unlink()
    good.rename(run / file)
    train_well(run, processes=processes, resume=True, **options)
    train_well(whole, processes=processes, **options)
    assert_same_run(run, whole, last=12)


def test_little_space_is_told_before_a_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    run_folder.warn_of_little_space(tmp_path)
    with (checkpoint / "large").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).total)  # takes no space
    run_folder.warn_of_little_space(tmp_path)
    assert capsys.readouterr().err == "", "it is not complete"
    (checkpoint / "COMPLETE").touch()
    run_folder.warn_of_little_space(tmp_path)
    assert "checkpoint-1 took" in capsys.readouterr().err


def test_one_process_has_neither_threads_nor_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    before = threading.active_count()
    ranks.join(60, 1800, "gloo")
    ranks.at("playing")
    assert ranks.watch is None
    assert threading.active_count() == before
    assert not torch.distributed.is_initialized()
