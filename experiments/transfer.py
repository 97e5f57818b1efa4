"""What games do to questions that no game asks: `python experiments/transfer.py`, after the runs of the headline.

A study with `runs_of` and `measure: module:function` trains nothing. The function, from this folder, takes a model's
folder and returns for every kind of question a list of 1.0 (right) or 0.0 (wrong), the same questions for every model.
Start and end of every run answer them; a result line holds before, after and gain of each kind.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from files import Line
from results import RESULTS, add_result, latest, read_results
from study import ROOT, STUDIES, Study, load_studies
from vision_zero.intervals import Interval, paired
from vision_zero.run_folder import complete_checkpoints

Answers = Mapping[str, Sequence[float]]
Measure = Callable[[Path], Answers]


def find_measure(name: str) -> Measure:
    """The function `module:function`. Raises ValueError if there is none."""
    module, _, function = name.partition(":")
    try:
        found: Measure = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"measure {name}: {error}") from error
    return found


def figures(before: Answers, after: Answers) -> dict[str, list[float]]:
    """`before/KIND`, `after/KIND` and `gain/KIND` as [value, low, high], questions being what intervals resample."""
    found = {}
    for kind in before:
        found[f"before/{kind}"] = list(astuple(Interval.of(before[kind])))
        found[f"after/{kind}"] = list(astuple(Interval.of(after[kind])))
        found[f"gain/{kind}"] = list(astuple(paired(after[kind], before[kind])))
    return found


def measure_study(study: Study, owner: Study, results: Path = RESULTS) -> int:
    """Measure every run of `owner` that is done and not measured yet. Returns how many were."""
    measure = find_measure(str(study.measure))
    there = latest(read_results(study.name, results), study)
    by_start: dict[str, Answers] = {}
    n_measured = 0
    for (arm, seed), run in latest(read_results(owner.name, results), owner).items():
        old = there.get((arm, seed))
        folder = ROOT / run["run"]
        if arm not in {one.name for one in study.arms} or (old is not None and old["key"] == run["key"]):
            continue
        if not complete_checkpoints(folder):
            print(f"missing {arm}/seed-{seed}: {folder} is not there")
            continue
        if run["start"] not in by_start:
            by_start[run["start"]] = measure(ROOT / run["start"])
        after = measure(complete_checkpoints(folder)[-1])
        names = {"study": study.name, "arm": arm, "seed": seed}
        kept = {name: run[name] for name in ("key", "base", "start", "run", "commit")}
        final = {"games": 0, "figures": figures(by_start[run["start"]], after)}
        line: Line = {**names, "status": "done", **kept, "options": {}, "final": final, "curve_games": 0, "curve": []}
        add_result(line, results)
        n_measured += 1
        print(f"done    {study.name}/{arm}/seed-{seed}")
    return n_measured


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python experiments/transfer.py", description="Measure the runs of a study.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="studies with runs_of; none: all of them")
    asked = parser.parse_args(arguments)
    known = load_studies(STUDIES)
    try:
        for study in known.values():
            if study.runs_of is not None and (not asked.studies or study.name in asked.studies):
                measure_study(study, known[study.runs_of])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
