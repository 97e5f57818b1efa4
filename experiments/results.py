"""Results as JSON lines: one per run that ended, done or failed; nothing is ever removed by the programs.

A line of `results/STUDY.jsonl`:

    study, arm, seed     whose result it is
    key                  equal for runs that train the same (`study.key_of`)
    base                 of base.yaml; lines of different ones are not to be compared
    status               done, or failed with `error`
    options, start       how the arm differs from the base
    iterations, seconds, switches
    final                {"games": n, "figures": {name: [value, low, high]}}, names as in evaluate/win_rate/metrics.py
    training             [{"iteration", "figures": {name: value}}] of the training games, in means of some iterations;
                         lines that were made before there was this have none
    curve, curve_games   [{"iteration", "figures"}], and the games of each point
    run, commit          where it was made, and from which commit
    seeds                of a line of all seeds of an arm together, whose seed is 0 (`study.ALL_SEEDS`)
    shared_with          the study/arm whose run it is, if another's
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from files import Line, read_lines
from study import HERE, Study
from vision_zero.run_folder import append_json_line

RESULTS = HERE / "results"
NEEDED = {"done": ("key", "final", "curve", "curve_games", "run", "start", "base", "commit"), "failed": ("error",)}
"""What a line of each status is read for, besides whose it is."""


def results_file(study: str, folder: Path = RESULTS) -> Path:
    return folder / f"{study}.jsonl"


def read_results(study: str, folder: Path = RESULTS) -> list[Line]:
    """Raises ValueError for a broken line, by the file's name."""
    return read_lines(results_file(study, folder), _needed)


def read_all_results(folder: Path = RESULTS) -> list[Line]:
    return [line for path in sorted(folder.glob("*.jsonl")) for line in read_lines(path, _needed)]


def _needed(line: Line) -> tuple[str, ...]:
    return ("study", "arm", "seed", "status", *NEEDED.get(str(line.get("status")), ()))


def add_result(line: Line, folder: Path = RESULTS) -> None:
    append_json_line(results_file(line["study"], folder), line)


def latest(lines: list[Line], study: Study) -> Mapping[tuple[str, int], Line]:
    """The last line of each (arm, seed) of the study that was done."""
    wanted = {(arm.name, seed) for arm in study.arms for seed in study.result_seeds}
    done = [line for line in lines if line["status"] == "done"]
    return {(line["arm"], line["seed"]): line for line in done if (line["arm"], line["seed"]) in wanted}


def failures(lines: list[Line], study: Study) -> dict[tuple[str, int], list[Line]]:
    """All failed runs of the study's arms and seeds, whether or not they were made well later."""
    found: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        if line["status"] == "failed" and line["seed"] in study.seeds:
            found.setdefault((line["arm"], line["seed"]), []).append(line)
    return found


def reusable(lines: list[Line], key: str, seed: int, final_games: int, curve_games: int) -> Line | None:
    """A run that trained the same, of any study, evaluated on as many games or more."""
    for line in reversed(lines):
        same = line["status"] == "done" and line.get("key") == key and line["seed"] == seed
        if same and line["final"]["games"] >= final_games and line["curve_games"] >= curve_games:
            return line
    return None
