"""One arm with one seed: train, evaluate, and what is left as one result line. Every step can be taken up again.

FOLDER                 the run, as `python -m vision_zero.train` leaves it
FOLDER.yaml .log       its options, and what it printed
FOLDER.key             of the options it was started with; a folder of another key is never continued
FOLDER.lock            held by whoever works on it
FOLDER/evaluation-N.jsonl
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from results import Line
from study import ROOT, Arm
from vision_zero import run_folder

HELDOUT = "500"
"""Drawings of the last evaluation; the curve's are fewer (base.yaml)."""
SHOWN_OF_A_FAILURE = 2000
WINDOW = 5
"""Iterations of training that a result line has one mean of."""
TRAINING_FIGURES = (
    *("stage/is_clue", "stage/accuracy", "stage/na_rate", "votes/invalid"),
    *("reward/civilian", "reward/spy", "advantage/civilian", "advantage/spy", "baseline/civilian", "baseline/spy"),
)


class RunError(RuntimeError):
    """A run that failed, and why."""


class BusyError(RuntimeError):
    """A run that another runner, or what one left behind, is working on. Nothing failed."""


@dataclass(frozen=True)
class Run:
    """What is run where. `options` are all of them, `arm` says how they differ from the base."""

    arm: Arm
    seed: int
    key: str
    options: Mapping[str, Any]
    folder: Path
    base: str
    final_games: int
    curve_games: int

    def beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def iterations(self) -> int:
        return int(self.options["iterations"])

    def iterations_done(self) -> int:
        lines = run_folder.read_json_lines(self.folder / run_folder.METRICS)
        return sum("stage/is_clue" in line for line in lines)

    def is_trained(self) -> bool:
        last = run_folder.complete_checkpoints(self.folder)[-1:] if self.folder.is_dir() else []
        done = self.folder.is_dir() and self.iterations_done() == self.iterations
        return done and bool(last) and (last[0] / run_folder.EXPORT / "config.json").is_file()


def result_of(run: Run) -> Line:
    """Train and evaluate what is not there yet. Raises BusyError, and RunError with the end of the log."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(run.beside(".lock")) as lock:
        check_key(run)
        if not run.is_trained():
            train(run, lock)
        if not run.is_trained():
            raise RunError(f"{run.folder} ended without its last checkpoint; its log is {run.beside('.log')}")
        return line_of(run, evaluated(run, lock))


def check_key(run: Run) -> None:
    """Raises RunError for a folder that was made with other options, another start or another version of training."""
    file = run.beside(".key")
    if file.is_file() and run.folder.exists() and file.read_text() != run.key:
        raise RunError(
            f"{run.folder} was made with other options or another start model; remove it, or pass --again to have it "
            "removed and made again"
        )
    file.write_text(run.key)


def train(run: Run, lock: int) -> None:
    config = run.beside(".yaml")
    config.write_text(yaml.safe_dump(dict(run.options)), "utf-8")
    resume = (run.folder / run_folder.CONFIG).is_file()
    words = ["--config", str(config), "--output_dir", str(run.folder)]
    call(["vision_zero.train", *words, *(["--resume", "true"] if resume else [])], run, lock)


def evaluated(run: Run, lock: int) -> Mapping[str, Any]:
    """The evaluation's line, with as many games or more if that is there already."""
    for file in sorted(run.folder.glob("evaluation-*.jsonl")):
        lines = run_folder.read_json_lines(file)
        if lines and lines[-1]["games"] >= run.final_games:
            return lines[-1]
    file = run.folder / f"evaluation-{run.final_games}.jsonl"
    last = run_folder.complete_checkpoints(run.folder)[-1]
    words = [str(last), "--reference", str(run.options["model_name_or_path"]), "--out", str(file)]
    words += ["--drawn", HELDOUT, "--games", str(run.final_games), "--use_cpu", "true"]
    call(["vision_zero.evaluate", "win-rate", *words], run, lock)
    lines = run_folder.read_json_lines(file)
    if not lines:
        raise RunError(f"the evaluation of {run.folder} wrote nothing to {file}")
    return lines[-1]


def call(module_and_words: list[str], run: Run, lock: int) -> None:
    """`python -m ...` on one thread, its output to the log. Raises RunError if it fails.

    The lock is handed on: while a run goes on, nobody else takes up its folder, even if the runner is gone.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    with run.beside(".log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module_and_words],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        )
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status:
        end = run.beside(".log").read_text("utf-8", errors="replace")[-SHOWN_OF_A_FAILURE:]
        raise RunError(f"{module_and_words[0]} ended with status {status}: ...{end}")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The descriptor of a lock file that nobody else holds. Raises BusyError if somebody does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{path} is held: this run is going on already; try again when it has ended") from error
        yield descriptor
    finally:
        os.close(descriptor)


def line_of(run: Run, evaluation: Mapping[str, Any]) -> Line:
    """The result line without study and arm. Only `seconds`, `run` and `commit` depend on how it was made."""
    metrics = run_folder.read_json_lines(run.folder / run_folder.METRICS)
    arena = run_folder.read_json_lines(run.folder / run_folder.ARENA)
    return {
        "status": "done",
        "key": run.key,
        "base": run.base,
        "seed": run.seed,
        "options": dict(run.arm.options),
        "start": str(run.options["model_name_or_path"]),
        "iterations": run.iterations_done(),
        "seconds": round(sum(line.get("step_time", 0.0) for line in metrics), 1),
        "switches": [
            {"iteration": line["iteration"], "to": line["to_stage"], "reason": line["reason"]}
            for line in run_folder.read_json_lines(run.folder / run_folder.SWITCHES)
        ],
        "final": {"games": evaluation["games"], "figures": evaluation["figures"], "of_start": evaluation["start"]},
        "training": training_curve(metrics),
        "curve_games": run.curve_games,
        "curve": [{"iteration": line["step"], "figures": line["figures"]} for line in arena],
        "run": os.path.relpath(run.folder, ROOT),
        "commit": commit_of(run.folder),
    }


def training_curve(metrics: Sequence[Line]) -> list[Line]:
    """Figures of the training games themselves, in means of `WINDOW` iterations by the last one's number."""
    iterations = [line for line in metrics if "stage/is_clue" in line]
    windows = [iterations[first : first + WINDOW] for first in range(0, len(iterations), WINDOW)]
    return [
        {
            "iteration": number * WINDOW + len(window),
            "figures": {name: round(fmean(line[name] for line in window), 4) for name in TRAINING_FIGURES},
        }
        for number, window in enumerate(windows)
    ]


def commit_of(folder: Path) -> str:
    """The commit a run was made from, `+` for uncommitted changes (its git.diff has them)."""
    first, *changed = (folder / "git.txt").read_text("utf-8").splitlines() or [""]
    return first.split(" ")[0] + ("+" if any(not line.startswith("??") for line in changed) else "")
