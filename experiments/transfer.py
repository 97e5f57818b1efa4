"""Effect of self-play on questions that no game asks: `python experiments/transfer.py`, after the runs of the headline.

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

from errors import in_words
from files import Line
from results import RESULTS, add_result, latest, read_results
from study import ROOT, STUDIES, Study, choose_studies, load_studies
from vision_zero.evaluate.bootstrap import Interval, paired
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
    """`before/KIND`, `after/KIND` and `gain/KIND` as [value, low, high], intervals by bootstrap over questions."""
    found = {}
    for kind in before:
        found[f"before/{kind}"] = list(astuple(Interval.of(before[kind])))
        found[f"after/{kind}"] = list(astuple(Interval.of(after[kind])))
        found[f"gain/{kind}"] = list(astuple(paired(after[kind], before[kind])))
    return found


def measure_study(study: Study, owner: Study, results: Path) -> int:
    """Measure every run of `owner` that `study` names and that is not measured yet. Returns how many are missing."""
    measure = find_measure(str(study.measure))
    there = latest(read_results(study.name, results), study)
    runs = latest(read_results(owner.name, results), owner)
    by_start: dict[str, Answers] = {}
    n_missing = 0
    for arm, seed in ((arm.name, seed) for arm in study.arms for seed in study.seeds):
        run, old = runs.get((arm, seed)), there.get((arm, seed))
        if run is not None and old is not None and old["key"] == run["key"]:
            continue
        checkpoints = complete_checkpoints(ROOT / run["run"]) if run is not None else []
        if run is None or not checkpoints:
            n_missing += 1
            why = f"{owner.name} has no result of it" if run is None else f"{run['run']} has no checkpoint"
            print(f"missing {study.name}/{arm}/seed-{seed}: {why}")
            continue
        if run["start"] not in by_start:
            by_start[run["start"]] = measure(ROOT / run["start"])
        after = measure(checkpoints[-1])
        names = {"study": study.name, "arm": arm, "seed": seed}
        kept = {name: run[name] for name in ("key", "base", "start", "run", "commit")}
        final = {"games": 0, "figures": figures(by_start[run["start"]], after)}
        line: Line = {**names, "status": "done", **kept, "options": {}, "final": final, "curve_games": 0, "curve": []}
        add_result(line, results)
        print(f"done    {study.name}/{arm}/seed-{seed}")
    return n_missing


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if something that was asked for could not be measured."""
    parser = argparse.ArgumentParser(prog="python experiments/transfer.py", description="Measure the runs of a study.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="studies with runs_of; none: all of them")
    asked = parser.parse_args(arguments)
    known = load_studies(STUDIES)
    studies = choose_studies(known, asked.studies, runs=False)
    n_missing = [measure_study(study, known[str(study.runs_of)], RESULTS) for study in studies]
    return 1 if any(n_missing) else 0


if __name__ == "__main__":
    sys.exit(main())
