"""Runs of the real command line in processes of their own, and what they left in their folders.

The command is `vision_zero.train`, on several processes with gloo. Its processes are forked (`tests.fork_server`);
`fresh` ones are started by `python -m vision_zero.train` and torchrun. All runs are tiny: 4 games of 3 players and 1
round per iteration on drawn scenes, both stages in turn, a learning rate at which one update matters.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from tests.fork_server import ENVIRONMENT, ROOT, ForkedProcess, free_port
from vision_zero.run_folder import read_json_lines

# The tiny model speaks the game, so that votes differ and both stages have a gradient; random weights have neither.
TINY_VLM, BENCH_MODEL = ROOT / "data" / "tiny_vlm", ROOT / "tests" / "models" / "bench_model"
DRAWN, PHOTOS = ROOT / "data" / "drawn", ROOT / "data" / "photos"

OPTIONS: dict[str, Any] = {
    "images": DRAWN,
    "model_name_or_path": TINY_VLM,
    "template": "compact",
    "max_pixels": 56 * 56,
    "civilians": 2,
    "rounds": 1,
    "num_generations": 4,
    "games_per_iteration": 4,
    "per_device_train_batch_size": 4,
    "iterations": 4,
    "schedule": "cycle",
    "cycle_decision": 1,
    "cycle_clue": 1,
    "max_clue_tokens": 10,
    "max_vote_tokens": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "gradient_checkpointing": False,
    "save_steps": 2,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 3,
}
TIMEOUT = 300
TIMINGS = ("seconds/", "step_time")
STEPS_ON_DISK = 0.005


def without_weight(model: Path, copy: Path, name: str) -> Path:
    """A copy of a model whose file lacks the weights that have `name` in theirs."""
    shutil.copytree(model, copy)
    weights = load_file(model / "model.safetensors")
    kept = {key: value for key, value in weights.items() if name not in key}
    assert len(kept) < len(weights)
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def flags(**options: Any) -> list[str]:
    """`OPTIONS` with changes, as flags; None leaves an option out."""
    words: list[str] = []
    for name, value in {**OPTIONS, **options}.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


@dataclass(frozen=True)
class Finished:
    """A run that ended: its exit status and all it printed."""

    status: int
    output: str

    def __post_init__(self) -> None:
        print(self.output[-6000:])  # pytest shows it when the test fails


class Process(Protocol):
    """A `subprocess.Popen` or a forked process."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


TRAIN = ["-m", "vision_zero.train"]


def _command(processes: int, program: list[str]) -> list[str]:
    if processes == 1:
        return [sys.executable, *program]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    return [*launcher, "--master_addr", "127.0.0.1", "--master_port", str(free_port()), *program]


@contextmanager
def running(
    *words: str, processes: int = 1, program: list[str] = TRAIN, log: Path | None = None, fresh: bool = False
) -> Iterator[Process]:
    """A run that goes on while the block runs; with all its processes it is killed at the end of the block."""
    environment = {**os.environ, **ENVIRONMENT}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    output = Path(os.devnull) if log is None else log
    process: Process
    if fresh:
        with output.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [*_command(processes, program), *words],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    else:
        process = ForkedProcess([*program, *words], environment, output, processes)
    try:
        yield process
    finally:
        kill(process)


def kill(process: Process) -> None:
    """SIGKILL to the whole session that `running` opened: launcher and workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:  # a fork that has not yet opened its session
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    process.wait()


def run_program(
    program: list[str], log: Path, *, processes: int = 1, fresh: bool = False, timeout: float | None = None
) -> Finished:
    """A program to its end. One that takes longer than `timeout` seconds (TIMEOUT) is killed and fails the test."""
    timeout = timeout or TIMEOUT  # not the default itself: tests of long runs raise TIMEOUT
    with running(processes=processes, program=program, log=log, fresh=fresh) as process:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            kill(process)
            raise AssertionError(f"still running after {timeout} s:\n{log.read_text('utf-8')[-6000:]}") from None
    return Finished(status, log.read_text("utf-8"))


def train(
    output_dir: Path, *, processes: int = 1, program: list[str] = TRAIN, fresh: bool = False, **options: Any
) -> Finished:
    """A whole run into `output_dir`. With vLLM it is always fresh: the engine starts threads and processes."""
    log = output_dir.with_name(f"{output_dir.name}.{time.monotonic_ns()}.log")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = fresh or "use_vllm" in options
    return run_program([*program, *flags(output_dir=output_dir, **options)], log, processes=processes, fresh=fresh)


def train_well(output_dir: Path, **options: Any) -> Finished:
    finished = train(output_dir, **options)
    assert finished.status == 0, finished.output[-6000:]
    return finished


def wait_for(condition: Callable[[], object], process: Process) -> None:
    """Until `condition()` holds. Fails if the run ends before, or after TIMEOUT seconds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, "the run ended before what was waited for"
        assert time.monotonic() < end, "timed out"
        time.sleep(STEPS_ON_DISK)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMINGS)} for line in lines]


def games(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The recorded games by file name, without timings."""
    files = sorted((run / "games").glob("*.jsonl"))
    found = {file.name: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}
    for game in (game for one in found.values() for game in one):
        for turn in (*game["clues"], *game["votes"]):
            del turn["seconds"]
    return found


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.glob("*.safetensors"))
    assert files, f"no weights in {checkpoint}"
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_run(run: Path, other: Path, last: int) -> None:
    """Metrics, games, switches and the weights of checkpoint-`last` are equal to the last digit."""
    assert metrics(run) == metrics(other)
    assert games(run) == games(other)
    assert read_json_lines(run / "switches.jsonl") == read_json_lines(other / "switches.jsonl")
    ours, theirs = (weights(folder / f"checkpoint-{last}") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    state = f"checkpoint-{last}/iterative_spo.json"
    assert (run / state).read_bytes() == (other / state).read_bytes()
