"""Run studies: `python experiments/run.py headline leak --jobs 2`; nothing that is there already is run again.

Every (arm, seed) is `python -m vision_zero.train` in runs/experiments/STUDY/ARM/seed-N, then
`python -m vision_zero.evaluate win-rate`; its result is a line of experiments/results/STUDY.jsonl. A stopped runner is
started again with the same command: finished runs are skipped, others continued from their last checkpoint. Runs that
train the same in several studies are run once. A run that fails is a line too, and is tried again next time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from errors import in_words
from files import Line
from one_run import result_of
from over_seeds import smallest_effect
from results import RESULTS, add_result, latest, read_all_results, read_results, reusable
from run_files import NotRunError, Run, RunError
from study import ROOT, STUDIES, Arm, Study, base_id, choose_studies, key_of, load_base, load_studies, options_of

RUNS = ROOT / "runs" / "experiments"
PROGRESS_SECONDS = 30.0


@dataclass(frozen=True)
class Wanted:
    """A result that is asked for."""

    study: Study
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.study.name}/{self.arm.name}/seed-{self.seed}"


@dataclass
class Plan:
    """`runs`: what is to be run, and whose results it gives. `found`: results that another study's run gives."""

    runs: list[tuple[Run, list[Wanted]]] = field(default_factory=list)
    found: list[tuple[Line, Wanted]] = field(default_factory=list)
    impossible: list[tuple[Wanted, str]] = field(default_factory=list)
    n_there: int = 0


def make_plan(wanted: Sequence[Wanted], base: Mapping[str, object], results: Path, runs: Path) -> Plan:
    """Group what trains the same; a run is evaluated on as many games as the most demanding of its studies asks."""
    plan = Plan()
    every_line = read_all_results(results)
    there = {study.name: latest(read_results(study.name, results), study) for study in {w.study for w in wanted}}
    keys: dict[tuple[str, str], str] = {}
    groups: dict[tuple[str, int], list[Wanted]] = {}
    for one in wanted:
        try:
            where = one.study.name, one.arm.name
            keys[where] = keys.get(where) or key_of(options_of(one.arm, base, one.seed, one.study.curve_games))
        except (ValueError, OSError) as error:
            plan.impossible.append((one, str(error)))
            continue
        old = there[one.study.name].get((one.arm.name, one.seed))
        sizes = one.study.final_games, one.study.curve_games
        if old is not None and reusable([old], keys[where], one.seed, *sizes):
            plan.n_there += 1
        elif (line := reusable(every_line, keys[where], one.seed, *sizes)) is not None:
            plan.found.append((line, one))
        else:
            groups.setdefault((keys[where], one.seed), []).append(one)
    for (key, seed), same in groups.items():
        first = same[0]
        curve_games = max(one.study.curve_games for one in same)
        run = Run(
            arm=first.arm,
            seed=seed,
            key=key,
            options=options_of(first.arm, base, seed, curve_games),
            folder=runs / first.study.name / first.arm.name / f"seed-{seed}",
            base=base_id(base),
            final_games=max(one.study.final_games for one in same),
            curve_games=curve_games,
        )
        plan.runs.append((run, same))
    return plan


def share(line: Line, one: Wanted, results: Path) -> None:
    """The result of a run as that of `one`, which trains the same."""
    owner = line.get("shared_with") or f"{line['study']}/{line['arm']}"
    own = {"study": one.study.name, "arm": one.arm.name, "options": dict(one.arm.options)}
    is_owner = owner == f"{one.study.name}/{one.arm.name}"
    add_result({**line, **own, "shared_with": None if is_owner else owner}, results)


def finish(run: Run, same: Sequence[Wanted], future: Future[Line], results: Path) -> bool:
    """Write down how a run ended, for everyone whose result it is. Returns whether it went well."""
    owner = same[0]
    try:
        line = future.result()
        value, low, high = line["final"]["figures"]["win_rate"]
    except NotRunError as error:
        print(f"NOT RUN {owner}: {error}", flush=True)
        return False
    except Exception as error:  # whatever it is: the runs beside it go on, and their results are written
        if not isinstance(error, (RunError, OSError, ValueError)):
            error = RunError(f"{run.folder}: {type(error).__name__}: {error}")
        print(f"FAILED  {owner}: {error}", flush=True)
        for one in same:
            add_result(failure(one, str(error)), results)
        return False
    print(
        f"done    {owner}: win rate {value:.3f} ({low:.3f} to {high:.3f}), {line['seconds']:.0f} s of training",
        flush=True,
    )
    for one in same:
        share({**line, "study": owner.study.name, "arm": owner.arm.name}, one, results)
    return True


def failure(one: Wanted, error: str) -> Line:
    """A line about a run that failed. Paths are those of the repository, whatever machine it failed on."""
    names = {"study": one.study.name, "arm": one.arm.name, "seed": one.seed}
    for place in sorted((str(ROOT), sys.prefix), key=len, reverse=True):  # an environment may lie in the repository
        error = error.replace(f"{place}/", "")
    return {**names, "status": "failed", "options": dict(one.arm.options), "error": error}


def carry_out(plan: Plan, jobs: int, results: Path, again: bool = False) -> int:
    """Run what is planned, `jobs` at a time. Returns how many runs failed or could not be run."""
    for line, one in plan.found:
        print(f"shared  {one}: the run of {line['study']}/{line['arm']}")
        share(line, one, results)
    for one, error in plan.impossible:
        print(f"NOT RUN {one}: {error}")  # what it needs is missing, so there is no run to write down
    n_failed = len(plan.impossible)
    waiting = list(plan.runs)
    going: dict[Future[Line], tuple[Run, list[Wanted]]] = {}
    said = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or going:
            while waiting and len(going) < jobs:
                run, same = waiting.pop(0)
                print(f"start   {same[0]} in {run.folder}" + "".join(f", also {one}" for one in same[1:]), flush=True)
                going[pool.submit(result_of, run, again)] = (run, same)
            done, _ = wait(going, timeout=min(PROGRESS_SECONDS, 1.0), return_when=FIRST_COMPLETED)
            for future in done:
                n_failed += not finish(*going.pop(future), future, results)
            if going and time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                for run, same in going.values():
                    with suppress(OSError, ValueError):  # what cannot be read is said when the run ends
                        print(f"        {same[0]}: iteration {run.iterations_done()}/{run.iterations}", flush=True)
    return n_failed


def describe(study: Study) -> str:
    """The runs of a study and the smallest effect it can show, in words."""
    effect = smallest_effect(study.final_games, len(study.seeds))
    shown = "one seed shows no difference" if effect is None else f"smallest effect that can show: {effect:.3f}"
    return (
        f"{study.name}: {study.title}. {len(study.arms)} arms x {len(study.seeds)} seeds, {study.final_games} games at "
        f"the end, {study.curve_games} along the curve; {shown} in win rate (two-sided 95%, power 0.8, if seeds "
        "differed by nothing but their games)"
    )


def number_of_jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of 1 or more")
    return int(text)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python experiments/run.py", description="Run studies.", allow_abbrev=False)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="names in experiments/studies; none: all")
    parser.add_argument("--arms", nargs="+", help="these arms only")
    parser.add_argument("--seeds", nargs="+", type=int, help="these seeds only")
    parser.add_argument("--jobs", type=number_of_jobs, default=2, help="runs side by side, one thread each (2)")
    parser.add_argument("--again", action="store_true", help="remove and remake folders that other options made")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and stop")
    parser.add_argument("--base", type=Path, default=STUDIES.parent / "base.yaml", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=STUDIES, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, default=RUNS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def choose(asked: argparse.Namespace) -> list[Wanted]:
    """Raises ValueError for a study, arm or seed that is not there, and for a study that runs nothing."""
    studies = choose_studies(load_studies(asked.folder), asked.studies, runs=True)
    wanted = []
    for study in studies:
        arms = [study.arm(name) for name in dict.fromkeys(asked.arms)] if asked.arms else study.arms
        if strange := sorted(set(asked.seeds or ()) - set(study.seeds)):
            raise ValueError(f"study {study.name} has no seed {strange[0]}; it has {', '.join(map(str, study.seeds))}")
        wanted += [Wanted(study, arm, seed) for seed in dict.fromkeys(asked.seeds or study.seeds) for arm in arms]
    # Studies with more games go first, so that what they share is evaluated on enough.
    return sorted(wanted, key=lambda one: -one.study.final_games)


def check_writable(results: Path) -> None:
    """Raises OSError for a folder of results that cannot be written to, before hours of runs find out."""
    results.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=results):
        pass


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if a run failed or could not be run."""
    asked = parse_arguments(arguments)
    wanted = choose(asked)
    base = load_base(asked.base)
    for study in dict.fromkeys(one.study for one in wanted):
        print(describe(study))
    plan = make_plan(wanted, base, asked.results, asked.runs)
    print(
        f"{len(wanted)} results: {plan.n_there} are there, {len(plan.found)} are those of other studies' runs, "
        f"{len(plan.runs)} runs to go"
    )
    if asked.plan:
        for one, why in plan.impossible:
            print(f"  cannot be run: {one}: {why}")
        for run, same in plan.runs:
            print(f"  {run.folder}: {', '.join(map(str, same))}")
        return 0
    check_writable(asked.results)
    return 1 if carry_out(plan, asked.jobs, asked.results, asked.again) else 0


if __name__ == "__main__":
    sys.exit(main())
