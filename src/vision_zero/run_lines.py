"""What metrics.jsonl and arena.jsonl of a run say of its iterations, checked: for whoever draws them."""

from __future__ import annotations

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
    for line in iterations:
        check_numbers(file, line, [line.get(name) for name in ("step", "stage/is_clue", "stage/accuracy")])
    return iterations


def read_arena(run: Path) -> list[tuple[int, Figures]]:
    """Step and figures of every line of arena.jsonl. Raises RunFolderError for a damaged file."""
    file = run / run_folder.ARENA
    arena = []
    for line in run_folder.read_json_lines(file, "step", "figures"):
        check_numbers(file, line, [line["step"]])
        arena.append((line["step"], checked_figures(file, line)))
    return arena


def check_numbers(file: Path, line: Line, values: object) -> None:
    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise run_folder.RunFolderError(f"{file}, step {line['step']}: not the numbers of a run; repair or remove it")


def checked_figures(file: Path, line: Line) -> Figures:
    """Value, low and high of every figure."""
    figures = line["figures"]
    for figure in figures.values() if isinstance(figures, dict) else [None]:
        check_numbers(file, line, figure if isinstance(figure, list) and len(figure) == 3 else None)
    return figures if isinstance(figures, dict) else {}
