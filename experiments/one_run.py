"""One arm with one seed: train, evaluate, and what is left as one result line. Every step can be taken up again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from files import Line, read_lines
from run_files import NotRunError, Run, RunError, line_of
from study import ROOT
from vision_zero import run_folder

HELDOUT = "500"
"""Drawings of the last evaluation; the curve's are fewer (base.yaml)."""
SHOWN_OF_A_FAILURE = 2000
EVALUATION = ("games", "figures", "start")


def result_of(run: Run, again: bool = False) -> Line:
    """Train and evaluate what is not there yet; with `again`, a folder of another key is removed first.

    Raises NotRunError, and RunError with the end of the log.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(run.beside(".lock")) as lock:
        check_key(run, again)
        if not run.is_trained():
            train(run, lock)
        if not run.is_trained():
            raise RunError(f"{run.folder} ended without its last checkpoint; its log is {run.beside('.log')}")
        return line_of(run, evaluated(run, lock))


def check_key(run: Run, again: bool) -> None:
    """Raises NotRunError for a folder made with other options, another start or another version of training."""
    file = run.beside(".key")
    if file.is_file() and run.folder.exists() and file.read_text("utf-8", errors="replace") != run.key:
        if not again:
            raise NotRunError(
                f"{run.folder} was made with other options or another start model; remove it, or pass --again to have "
                "it removed and made again"
            )
        print(f"removed {run.folder}", flush=True)
        shutil.rmtree(run.folder)
        run.beside(".log").unlink(missing_ok=True)
    if not file.is_file() and (run.folder / run_folder.CONFIG).exists():
        raise NotRunError(f"{run.folder} holds a run, but {file} is not there to say whose it is; remove the folder")
    file.write_text(run.key, "utf-8")


def train(run: Run, lock: int) -> None:
    config = run.beside(".yaml")
    config.write_text(yaml.safe_dump(dict(run.options)), "utf-8")
    resume = (run.folder / run_folder.CONFIG).is_file()
    words = ["--config", str(config), "--output_dir", str(run.folder)]
    call(["vision_zero.train", *words, *(["--resume", "true"] if resume else [])], run, lock)


def evaluated(run: Run, lock: int) -> Mapping[str, Any]:
    """The evaluation's line, with as many games or more if that is there already."""
    for file in sorted(run.folder.glob("evaluation-*.jsonl")):
        lines = read_lines(file, lambda _: EVALUATION)
        if lines and lines[-1]["games"] >= run.final_games:
            return lines[-1]
    file = run.folder / f"evaluation-{run.final_games}.jsonl"
    last = run_folder.complete_checkpoints(run.folder)[-1]
    words = [str(last), "--reference", str(run.options["model_name_or_path"]), "--out", str(file)]
    words += ["--drawn", HELDOUT, "--games", str(run.final_games), "--use_cpu", "true"]
    call(["vision_zero.evaluate", "win-rate", *words], run, lock)
    lines = read_lines(file, lambda _: EVALUATION)
    if not lines:
        raise RunError(f"the evaluation of {run.folder} wrote nothing to {file}")
    return lines[-1]


def call(module_and_words: list[str], run: Run, lock: int) -> None:
    """`python -m ...` on one thread, its output to the log. Raises RunError if it fails, NotRunError if it is killed.

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
    if status < 0:
        raise NotRunError(f"{module_and_words[0]} was ended by {signal.Signals(-status).name}; run it again to go on")
    if status:
        end = run.beside(".log").read_text("utf-8", errors="replace")[-SHOWN_OF_A_FAILURE:]
        raise RunError(f"{module_and_words[0]} ended with status {status}: ...{end}")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """The descriptor of a lock file that nobody else holds. Raises NotRunError if somebody does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotRunError(f"{path} is held: this run is going on already; try again when it has ended") from error
        yield descriptor
    finally:
        os.close(descriptor)
