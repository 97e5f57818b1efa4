"""Switches of the stage rule at constant accuracies: `python experiments/stage_rule.py` renews them in docs/method.md.

The vote accuracy and the N/A rate are held constant, so that what is seen is the rule alone: `vision_zero.spo.stages`
as training uses it. The page has the table of the paper's constants; those of all variants are printed. A test holds
the page to this output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vision_zero.spo.stages import StageSwitch, SwitchReason

ACCURACIES = tuple(tenth / 10 for tenth in range(1, 11))
NA_RATES = (0.0, 0.1, 0.3, 0.6)
STAGES_SHOWN = 4
LONG = 500
"""Iterations after which a stage that has not ended is called endless: every average has converged by then."""

VARIANTS: dict[str, dict[str, Any]] = {
    "The paper's constants": {},
    "`--debias true`": {"debias": True},
    "`--reset_averages true`": {"reset_averages": True},
    "`--debias true --reset_averages true`": {"debias": True, "reset_averages": True},
    "`--patience 0`": {"patience": None},
    "`--k_min 1`": {"k_min": 1},
    "`--k_min 10`": {"k_min": 10},
}

PAGE = Path(__file__).resolve().parent.parent / "docs" / "method.md"
START, END = "<!-- stage rule: start -->", "<!-- stage rule: end -->"

HEAD = """## What the stage rule does by itself

Here the rule (`src/vision_zero/spo/stages.py`) is fed the same accuracy and the same N/A rate in every iteration.

* Decision → clue needs an *average* accuracy of 0.9. At a constant accuracy below 0.9 the average never gets there,
  whatever the options: the decision stage ends by patience, after {patience} iterations, or never. The same holds
  where more than a tenth of the votes are N/A.
* The averages start at 0 and so read as errors at first. The first clue stage begins after {patience} iterations with
  {covered:.0%} of the true accuracy in the average. It ends by the rule after {k_min} iterations up to an accuracy of
  {zero_start}, although up to 40% of errors are allowed. Above, nothing but patience ends it.
* Once the averages have converged, the clue stage ends by the rule up to an accuracy of 0.6. From there to 0.9 both
  stages end by patience alone: the schedule is a fixed cycle.
* Bias-corrected averages (`--debias true`) take away the second point, not the first. For a model whose accuracy stays
  below 0.9 the thresholds decide (`--acc_up`, `--err_up`). [What real runs do](results.md#the-stage-rule).

The largest accuracy, without N/A votes, up to which a clue stage ends by the rule, and the smallest from which a
decision stage ever does (`always` and `never`: for any accuracy):

"""

FOOT = """
`python experiments/stage_rule.py` makes this section, and prints for each line how the first four stages end, by
accuracy and N/A rate.

"""


@dataclass(frozen=True)
class StageEnd:
    """A stage's length in iterations, and why it ended; None if it did not within `LONG` iterations."""

    iterations: int
    reason: SwitchReason | None

    def __str__(self) -> str:
        return "∞" if self.reason is None else f"{self.iterations}{self.reason[0]}"


def stage_ends(accuracy: float, na_rate: float, n: int, options: Mapping[str, Any]) -> list[StageEnd]:
    """The first `n` stages at a constant accuracy and N/A rate; fewer if one never ends."""
    switch = StageSwitch(**options)
    ends: list[StageEnd] = []
    while len(ends) < n:
        switch.update(accuracy, na_rate)
        if switch.last_reason is not None:
            ends.append(StageEnd(switch.history[-1].dwell, switch.last_reason))
        elif switch.dwell >= LONG:
            return [*ends, StageEnd(switch.dwell, None)]
    return ends


def table(options: Mapping[str, Any]) -> str:
    """The first stages by accuracy and N/A rate; neighbouring accuracies that give the same share a line."""
    lines = ["| accuracy | " + " | ".join(f"N/A {rate:g}" for rate in NA_RATES) + " |", "|---" * 5 + "|"]
    rows = [
        (accuracy, [" ".join(map(str, stage_ends(accuracy, rate, STAGES_SHOWN, options))) for rate in NA_RATES])
        for accuracy in ACCURACIES
    ]
    for cells, same in groupby(rows, key=lambda row: row[1]):
        accuracies = [f"{accuracy:.1f}" for accuracy, _ in same]
        name = accuracies[0] if len(accuracies) == 1 else f"{accuracies[0]} to {accuracies[-1]}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def border(holds: Callable[[float], bool]) -> str:
    """The accuracy at which `holds` changes between 0 and 1, to three digits; "always" or "never" if it does not."""
    at_zero, low, high = holds(0.0), 0.0, 1.0
    if holds(1.0) == at_zero:
        return "always" if at_zero else "never"
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) == at_zero else (low, middle)
    return f"{(low + high) / 2:.3f}"


def clue_stage_ends_by_rule(accuracy: float, number: int, options: Mapping[str, Any]) -> bool:
    """Clue stage `number` (1, 2, ...) ends by the rule."""
    ends = stage_ends(accuracy, 0.0, 2 * number, options)
    return len(ends) == 2 * number and ends[-1].reason == "rule"


def some_decision_stage_ends_by_rule(accuracy: float, options: Mapping[str, Any]) -> bool:
    return any(end.reason == "rule" for end in stage_ends(accuracy, 0.0, 12, options)[::2])


def borders() -> str:
    lines = ["| | first clue stage | sixth clue stage | some decision stage |", "|---|---|---|---|"]
    for name, options in VARIANTS.items():
        found = [
            border(partial(clue_stage_ends_by_rule, number=1, options=options)),
            border(partial(clue_stage_ends_by_rule, number=6, options=options)),
            border(partial(some_decision_stage_ends_by_rule, options=options)),
        ]
        lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(lines)


def section() -> str:
    """The part of docs/method.md between the markers."""
    paper = StageSwitch()
    zero_start = border(lambda accuracy: clue_stage_ends_by_rule(accuracy, 1, {}))
    covered = 1 - paper.rho ** (paper.patience or 0)
    head = HEAD.format(patience=paper.patience, k_min=paper.k_min, zero_start=zero_start, covered=covered)
    return f"\n{head}{borders()}\n{FOOT}"


def main() -> None:
    before, rest = PAGE.read_text("utf-8").split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n{section()}{END}{after}", "utf-8")
    print("\n\n".join(f"{name}\n\n{table(options)}" for name, options in VARIANTS.items()))


if __name__ == "__main__":
    main()
