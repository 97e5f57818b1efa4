"""What metrics.jsonl and arena.jsonl of a run say of its iterations, checked: for whoever draws them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vision_zero import run_folder

Line = Mapping[str, Any]
Figures = Mapping[str, Sequence[float]]
"""Name -> value, low and high."""


@dataclass(frozen=True)
class StageSpan:
    """Iterations `first` to `last` (counted from 1) trained `stage`."""

    stage: str
    first: int
    last: int


def stage_spans(iterations: Sequence[Line]) -> list[StageSpan]:
    """The stages of metrics.jsonl's iterations, in order."""
    stages = ["clue" if line["stage/is_clue"] > 0.5 else "decision" for line in iterations]
    spans = []
    for stage, group in groupby(enumerate(stages, start=1), key=lambda one: one[1]):
        numbers = [number for number, _ in group]
        spans.append(StageSpan(stage, numbers[0], numbers[-1]))
    return spans


def read_iterations(run: Path) -> list[Line]:
    """The lines of metrics.jsonl that stand for iterations; with several updates per iteration, others lie between.

    Raises RunFolderError for a damaged file.
    """
    file = run / run_folder.METRICS
    iterations: list[Line] = [line for line in run_folder.read_json_lines(file, "step") if "stage/is_clue" in line]
    check_steps(file, iterations)
    for line in iterations:
        numbers = [line.get(name) for name in ("stage/is_clue", "stage/accuracy")]
        check_numbers(f"{file}, step {line['step']}", numbers)
    return iterations


def read_arena(run: Path) -> list[tuple[int, Figures]]:
    """Step and figures of every line of arena.jsonl. Raises RunFolderError for a damaged file."""
    file = run / run_folder.ARENA
    lines = run_folder.read_json_lines(file, "step", "figures")
    check_steps(file, lines)
    return [(line["step"], checked_figures(f"{file}, step {line['step']}", line["figures"])) for line in lines]


def is_whole(value: object) -> bool:
    """Whether it can be the number of a step, a game or a round: not below 0, and exact as a float too."""
    return type(value) is int and 0 <= value < 2**53


def check_steps(file: Path, lines: Sequence[Line]) -> None:
    """Raises RunFolderError for a line of `file` whose step is none."""
    for line in lines:
        if not is_whole(line["step"]):
            raise run_folder.RunFolderError(
                f"{file}, step {reprlib.repr(line['step'])}: not the number of a step; repair or remove it"
            )


def check_numbers(where: str, values: object) -> None:
    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise run_folder.RunFolderError(f"{where}: not the numbers of a run; repair or remove it")


def checked_figures(where: str, figures: object) -> Figures:
    """Value, low and high of every figure."""
    for figure in figures.values() if isinstance(figures, dict) else [None]:
        check_numbers(where, figure if isinstance(figure, list) and len(figure) == 3 else None)
    return figures if isinstance(figures, dict) else {}
