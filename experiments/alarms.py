"""The alarms of a run (`vision_zero.spo.alarms`) on the recorded runs: `python experiments/alarms.py`, seconds.

How many of the runs that failed rang, how early, and how many healthy ones cried wolf. A run failed if its last
evaluation passes one of `tables.FAILURES`; these limits were set before the alarms. Alarms of an iteration are judged
on the recorded means of five iterations, those of the arena on the points of the curve.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from errors import in_words
from files import Line
from report import marked, write_sections
from results import read_all_results
from tables import FAILURES, failure, markdown
from vision_zero.spo.alarms import OF_AN_ITERATION, OF_THE_ARENA

ALARMS = (*OF_AN_ITERATION, *OF_THE_ARENA)


def first_rings(line: Line) -> dict[str, int]:
    """The iteration at which each alarm that rang rang first."""
    found: dict[str, int] = {}
    for point in line.get("training", ()):
        for alarm in OF_AN_ITERATION:
            if alarm.rings(point["figures"]):
                found.setdefault(alarm.name, point["iteration"])
    start = line["curve"][0]["figures"] if line["curve"] else {}
    for point in line["curve"]:
        for alarm in OF_THE_ARENA:
            if alarm.rings(point["figures"], start):
                found.setdefault(alarm.name, point["iteration"])
    return found


def recorded_runs() -> list[Line]:
    """Every run once: games were played at its end, and with which votes and clues is known."""
    runs = {}
    for line in read_all_results():
        if line["status"] == "done" and {"together", "votes/na", "grounding/civilian/no_claim"} <= (
            line["final"]["figures"].keys()
        ):
            runs[line["run"], line["commit"]] = line  # made again by other code, it is another run
    return list(runs.values())


def section(runs: Sequence[Line]) -> str:
    rows = []
    for kind in (*FAILURES, None):
        some = [run for run in runs if failure(run) == kind]
        rings = [first_rings(run) for run in some]
        known = {
            name for run in some for point in (*run.get("training", ()), *run["curve"]) for name in point["figures"]
        }
        early = sorted(min(one.values()) for one in rings if one)
        cells = [str(sum(alarm.name in one for one in rings)) if alarm.figure in known else "–" for alarm in ALARMS]
        when = f"{early[0]} to {early[-1]}, median {early[len(early) // 2]}" if early else "–"
        rows.append([kind or "healthy", str(len(some)), str(len(early)), when, *cells])
    parts = [
        "### Alarms",
        f"Would the alarms of a run have told of the runs that failed, and when? All {len(runs)} recorded runs; a "
        "run failed if at its end more than 0.25 of the votes are N/A, more than 0.5 of the civilians' clues claim "
        "nothing, or `together` is above 0.1 while less than 0.8 of their clues are true. An alarm of an iteration is "
        "judged by means of five iterations, where a run waits for five in a row: it may ring later, or not at all "
        "where only the last mean is beyond the limit. – means that none of these runs has the figure. Paper or its "
        "code: none.",
        "    python experiments/alarms.py",
        markdown(["at the end", "runs", "any alarm", "first at iteration", *(alarm.name for alarm in ALARMS)], rows),
    ]
    return marked("alarms", parts)


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python experiments/alarms.py", description="Alarms on recorded runs.").parse_args(
        arguments
    )
    text = section(recorded_runs())
    print(text)
    write_sections({"alarms": text})
    return 0


if __name__ == "__main__":
    sys.exit(main())
