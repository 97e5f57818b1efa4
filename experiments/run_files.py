"""One arm with one seed, as files: what a run folder holds, read and checked, and the result line made of it.

FOLDER                 the run, as `python -m vision_zero.train` leaves it
FOLDER.yaml .log       its options, and what it printed
FOLDER.key             of the options it was started with; a folder of another key is never continued
FOLDER.lock            held by whoever works on it
FOLDER/evaluation-N.jsonl
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from files import Line, read_lines
from study import ROOT, Arm
from vision_zero import run_folder

WINDOW = 5
"""Iterations of training that a result line has one mean of."""
TRAINING_FIGURES = (
    *("stage/is_clue", "stage/accuracy", "stage/na_rate", "votes/invalid"),
    *("reward/civilian", "reward/spy", "advantage/civilian", "advantage/spy", "baseline/civilian", "baseline/spy"),
)

WHERE_THERE_ARE_CLUES = ("clues/most_common", "clues/repeated")
"""Logged of iterations in which a clue could be parsed."""


class RunError(RuntimeError):
    """A run that failed, and why."""


class NotRunError(RunError):
    """A run that was not taken up, or was stopped from outside: nothing of it failed, and nothing is written down."""


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
        return sum("stage/is_clue" in line for line in read_lines(self.folder / run_folder.METRICS))

    def is_trained(self) -> bool:
        last = run_folder.complete_checkpoints(self.folder)[-1:] if self.folder.is_dir() else []
        done = self.folder.is_dir() and self.iterations_done() == self.iterations
        return done and bool(last) and (last[0] / run_folder.EXPORT / "config.json").is_file()


def line_of(run: Run, evaluation: Mapping[str, Any]) -> Line:
    """The result line without study and arm. Only `seconds`, `run` and `commit` depend on how it was made."""
    metrics = read_lines(
        run.folder / run_folder.METRICS, lambda line: TRAINING_FIGURES if "stage/is_clue" in line else ()
    )
    arena = read_lines(run.folder / run_folder.ARENA, lambda _: ("step", "figures"))
    switches = read_lines(run.folder / run_folder.SWITCHES, lambda _: ("iteration", "to_stage", "reason"))
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
            {"iteration": line["iteration"], "to": line["to_stage"], "reason": line["reason"]} for line in switches
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
            "figures": {
                name: round(fmean(line[name] for line in window), 4)
                for name in (*TRAINING_FIGURES, *WHERE_THERE_ARE_CLUES)
                if all(name in line for line in window)
            },
        }
        for number, window in enumerate(windows)
    ]


def commit_of(folder: Path) -> str:
    """The commit a run was made from, `+` for uncommitted changes (its git.diff has them); `unknown` without one."""
    file = folder / "git.txt"
    lines = file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
    commit = re.match(r"[0-9a-f]{7,}\b", lines[0]) if lines else None
    return commit[0] + ("+" if any(not line.startswith("??") for line in lines[1:]) else "") if commit else "unknown"
