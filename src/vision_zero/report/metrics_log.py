"""Readers of metrics.jsonl and arena.jsonl of a run, with checks of their numbers, for summary, curves and page.

The figures that are said first are in metrics_log.yaml.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vision_zero import run_folder
from vision_zero.config.game import beside
from vision_zero.evaluate.bootstrap import RESAMPLED, Interval

HEADLINE: dict[str, str] = beside(__file__)
Line = Mapping[str, Any]
Figures = Mapping[str, Sequence[float | None]]
"""Name -> value, low and high; None: no interval."""


def finite_number(value: object) -> float | None:
    """The value as a float if it is a finite number: infinities and NaN are not drawn and are no JSON."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


@dataclass(frozen=True)
class StageSpan:
    """A stage and the iterations that trained it, `first` to `last`, counted from 1."""

    stage: str
    first: int
    last: int


def stage_spans(iterations: Sequence[Line]) -> list[StageSpan]:
    """Stages of the iterations of metrics.jsonl, in order."""
    stages = ["clue" if line["stage/is_clue"] > 0.5 else "decision" for line in iterations]
    groups = groupby(enumerate(stages, start=1), key=lambda one: one[1])
    spans = [(stage, [number for number, _ in group]) for stage, group in groups]
    return [StageSpan(stage, numbers[0], numbers[-1]) for stage, numbers in spans]


def read_steps(file: Path, *needed: str) -> list[Line]:
    """Every line of a JSONL file whose lines have a step. Raises RunFolderError for a damaged file."""
    lines = run_folder.read_json_lines(file, "step", *needed)
    if wrong := [line["step"] for line in lines if not is_whole(line["step"])]:
        said = f"step {reprlib.repr(wrong[0])}: not the number of a step; repair or remove it"
        raise run_folder.RunFolderError(f"{file}, {said}")
    return list(lines)


def read_iterations(run: Path) -> list[Line]:
    """Lines of metrics.jsonl that begin an iteration, not its other updates. Raises RunFolderError for damage."""
    file = run / run_folder.METRICS
    iterations = [line for line in read_steps(file) if "stage/is_clue" in line]
    for line in iterations:
        numbers = [line.get(name) for name in ("stage/is_clue", "stage/accuracy")]
        check_numbers(f"{file}, step {line['step']}", numbers)
    return iterations


def read_arena(run: Path, notes: list[str]) -> list[tuple[int, Figures]]:
    """Step and figures of every line of arena.jsonl. Raises RunFolderError for a damaged file."""
    file = run / run_folder.ARENA
    lines = read_steps(file, "figures")
    note_older_intervals(file, lines, notes)
    return [(line["step"], checked_figures(f"{file}, step {line['step']}", line["figures"])) for line in lines]


def win_rate(step: int, figures: Figures, steps_per_iteration: int) -> str:
    """The win rate of a line of arena.jsonl in words, with those of both roles."""
    roles = [f"as the {role} {figures[f'as_{role}'][0]:.2f}" for role in ("table", "spy") if f"as_{role}" in figures]
    rate: Any = figures.get("win_rate")
    said = Interval(*rate) if rate else "not known"
    return "; ".join([f"{said} against the start, after iteration {step // steps_per_iteration}", *roles])


def chance(config: Mapping[str, Any]) -> float | None:
    """Probability that one vote at random is right: civilians who vote know that they are not the spy themselves."""
    civilians = finite_number(config.get("civilians"))
    return None if civilians is None or civilians < 1 else 1 / (civilians + (config.get("voter") != "civilian"))


def note_older_intervals(file: Path, lines: Sequence[Line], notes: list[str]) -> None:
    """Add a note if lines of `file` have, or may have, intervals that took two deals on one pair for independent."""
    older = sum(
        RESAMPLED not in line
        and (finite_number(line.get("pairs", line.get("games"))) or 0)
        < (finite_number(line.get("games")) or math.inf) / 2
        for line in lines
    )
    if older:
        said = "whose 95% intervals resampled deals: where pairs were played more than once they are too narrow"
        notes.append(f"{file.name}: {older} of {len(lines)} lines are of an older version, {said}")


def is_whole(value: object) -> bool:
    """Whether the value can be the number of a step, a game or a round: not below 0, and exact as a float too."""
    return type(value) is int and 0 <= value < 2**53


def check_numbers(where: str, values: object) -> None:
    """Check that `values` is a list of numbers. Raises RunFolderError that begins with `where`."""
    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise run_folder.RunFolderError(f"{where}: not the numbers of a run; repair or remove it")


def checked_figures(where: str, figures: object) -> Figures:
    """`figures`, checked to have value, low and high each. Raises RunFolderError that begins with `where`."""
    for figure in figures.values() if isinstance(figures, dict) else [None]:
        numbers = figure if isinstance(figure, list) and len(figure) == 3 else None
        check_numbers(where, numbers[:1] if numbers and numbers[1:] == [None, None] else numbers)
    return figures if isinstance(figures, dict) else {}
