"""Effect of self-play on questions that no game asks: `python experiments/transfer.py`, after the runs of the headline.

A study with `runs_of` and `measure: module:function` trains nothing. The function, from this folder, takes a model's
folder and returns for every kind of question a list of 1.0 (right) or 0.0 (wrong), the same questions for every model.
Start and end of every run answer them; a result line holds before, after and gain of each kind. With `together` the
function takes the last checkpoints of all seeds of an arm, and the start, and returns the `final` of one line.
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
from study import ALL_SEEDS, ROOT, STUDIES, Study, choose_studies, load_studies
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


def measure_together(study: Study, owner: Study, results: Path) -> int:
    """Measure the arms of `owner` that `study` names, the runs of all seeds at once. Returns how many are missing."""
    measure: Callable[[Sequence[Path], Path], Line] = find_measure(str(study.measure))  # type: ignore[assignment]
    there = latest(read_results(study.name, results), study)
    runs = latest(read_results(owner.name, results), owner)
    n_missing = 0
    for arm in (arm.name for arm in study.arms):
        found = {seed: runs[arm, seed] for seed in study.seeds if (arm, seed) in runs}
        last = {seed: complete_checkpoints(ROOT / run["run"])[-1:] for seed, run in found.items()}
        same = {name: sorted({run[name] for run in found.values()}) for name in ("key", "base", "start", "commit")}
        old = there.get((arm, ALL_SEEDS))
        if len(found) == len(study.seeds) and old is not None and [old["key"]] == same["key"]:
            continue
        gone = [f"seed {seed}" for seed in study.seeds if not last.get(seed)]
        unlike = [name for name in ("key", "base", "start") if len(same[name]) > 1]
        if gone or unlike:
            n_missing += 1
            why = f"without result or checkpoint: {', '.join(gone)}" if gone else f"runs differ in {', '.join(unlike)}"
            print(f"missing {study.name}/{arm}: {owner.name}: {why}")
            continue
        final = measure([checkpoint for (checkpoint,) in last.values()], ROOT / same["start"][0])
        names: Line = {"study": study.name, "arm": arm, "seed": ALL_SEEDS, "seeds": [*found], "status": "done"}
        kept = {name: same[name][0] for name in ("key", "base", "start")} | {"commit": ", ".join(same["commit"])}
        of_runs = {"run": [run["run"] for run in found.values()], "options": {}, "curve_games": 0, "curve": []}
        add_result({**names, **kept, **of_runs, "final": final}, results)
        print(f"done    {study.name}/{arm}")
    return n_missing


def figures(before: Answers, after: Answers) -> dict[str, list[float]]:
    """`before/KIND`, `after/KIND` and `gain/KIND` as [value, low, high], intervals by bootstrap over questions."""
    found = {}
    for kind in before:
        found[f"before/{kind}"] = list(astuple(Interval.of_mean(before[kind])))
        found[f"after/{kind}"] = list(astuple(Interval.of_mean(after[kind])))
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
    n_missing = [
        (measure_together if study.together else measure_study)(study, known[str(study.runs_of)], RESULTS)
        for study in studies
    ]
    return 1 if any(n_missing) else 0


if __name__ == "__main__":
    sys.exit(main())
