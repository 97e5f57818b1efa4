"""Tables of a study's results: means and differences over seeds, by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from scipy.stats import fisher_exact

from files import Line
from over_seeds import over_seeds, paired_difference
from plots import curve, values
from study import Study

Done = Mapping[tuple[str, int], Line]
CROSS_PLAY = ("table_gain", "spy_gain", "civilians_gain", "voters_gain", "together")
PLAY = (
    *("votes/right", "votes/na", "votes/invalid", "image_gain"),
    *("grounding/civilian/true", "grounding/civilian/copied", "grounding/spy/true"),
)
TRAINING = ("advantage/spy",)
"""The civilians' is minus this divided by their number: the game is zero-sum."""
RARE = 0.05
"""A share below this in every arm is not shown."""

ABOVE_HALF = (
    ("votes for N/A", "training", "stage/na_rate"),
    ("civilians' clues that claim nothing", "curve", "grounding/civilian/no_claim"),
)
"""What a share is called, the part of a result line, the figure."""


def of_arm(done: Done, arm: str, figure: str) -> dict[int, float]:
    """The final value of a figure by seed, where it is there."""
    figures = {seed: line["final"]["figures"] for (name, seed), line in done.items() if name == arm}
    return {seed: found[figure][0] for seed, found in figures.items() if figure in found}


def mean(done: Done, arm: str, figure: str) -> str:
    values = of_arm(done, arm, figure)
    return over_seeds(list(values.values())).text() if values else "–"


def short_mean(done: Done, arm: str, figure: str, sign: bool = False) -> str:
    values = of_arm(done, arm, figure)
    return f"{fmean(values.values()):{'+' if sign else ''}.3f}" if values else "–"


def difference(done: Done, arm: str, first: str, figure: str) -> str:
    if arm == first:
        return "0"
    found = paired_difference(of_arm(done, arm, figure), of_arm(done, first, figure))
    return found.text(sign=True) if found else "–"


def switches(done: Done, arm: str) -> str:
    """Mean number of switches per run by reason."""
    runs = [line["switches"] for (name, _), line in done.items() if name == arm]
    reasons = [switch["reason"] for run in runs for switch in run]
    found = [
        f"{reasons.count(name) / len(runs):.1f} {name}" for name in ("rule", "patience", "cycle") if name in reasons
    ]
    return ", ".join(found) or ("none" if runs else "–")


FAILURES = ("N/A", "silence", "code")


def failure(line: Line) -> str | None:
    """How a run's last evaluation failed: the first of FAILURES that it passes. None too where that is not known."""
    found = {name: interval[0] for name, interval in line["final"]["figures"].items()}
    if found.get("votes/na", 0) > 0.25:
        return "N/A"
    if found.get("grounding/civilian/no_claim", 0) > 0.5:
        return "silence"
    return "code" if found.get("together", 0) > 0.1 and found.get("grounding/civilian/true", 1) < 0.8 else None


def failed(done: Done, arm: str, first: str) -> str:
    """How many runs of an arm failed, how, and Fisher's exact test (two-sided) against the first arm."""
    kinds = {name: [failure(line) for (one, _), line in done.items() if one == name] for name in (arm, first)}
    if not any("together" in line["final"]["figures"] for line in done.values()):
        return "–"
    counts = [[n := sum(map(bool, some)), len(some) - n] for some in kinds.values()]
    words = ", ".join(f"{kinds[arm].count(kind)} {kind}" for kind in FAILURES if kind in kinds[arm])
    test = f"; p {fisher_exact(counts).pvalue:.2f}" if arm != first and all(kinds.values()) else ""
    return f"{words or 'none'} of {len(kinds[arm])}{test}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    above, *below = (f"| {' | '.join(line)} |" for line in (header, *rows))
    return "\n".join([above, f"|{'---|' * len(header)}", *below])


def main_table(study: Study, done: Done) -> str:
    first = study.arms[0].name
    header = ["arm", "win rate", f"minus `{first}`", "spy found (games)", "failed", "switches"]
    rows = [
        [
            f"`{arm.name}`",
            mean(done, arm.name, "win_rate"),
            difference(done, arm.name, first, "win_rate"),
            mean(done, arm.name, "against_itself"),
            failed(done, arm.name, first),
            switches(done, arm.name),
        ]
        for arm in study.arms
    ]
    return markdown(header, rows)


def training_mean(done: Done, arm: str, figure: str) -> str:
    """Mean over the iterations of all seeds' clue stages."""
    clue_stages = [
        point["figures"][figure]
        for (name, _), line in done.items()
        for point in line.get("training", ())
        if name == arm and point["figures"]["stage/is_clue"] > 0.5 and figure in point["figures"]
    ]
    return f"{fmean(clue_stages):+.3f}" if clue_stages else "–"


def above_half(done: Done, arm: str, part: str, figure: str) -> str:
    """The first point of a run's part (in `training` a window's last iteration) at which a share is above half, seed by
    seed; `never` where it is not."""
    found = []
    for (name, _), line in sorted(done.items()):
        shares = values(line, part, [figure]) if name == arm else {}
        if shares:
            found.append(next((str(iteration) for iteration, share in shares.items() if share > 0.5), "never"))
    if found and set(found) == {"never"}:
        return "never"
    return ", ".join(found) or "–"


def curve_table(study: Study, done: Done) -> str:
    """The curve of win rates in numbers: means over the seeds that reached an iteration, with their intervals."""
    arms = [arm.name for arm in study.arms]
    curves = {
        arm: curve([line for (name, _), line in done.items() if name == arm], "curve", ["win_rate"]) for arm in arms
    }
    iterations = sorted({iteration for points in curves.values() for iteration in points})
    rows = [
        [str(iteration), *(points[iteration].text() if iteration in points else "–" for points in curves.values())]
        for iteration in iterations
    ]
    return markdown(["win rate at iteration", *(f"`{arm}`" for arm in arms)], rows)


def detail_table(study: Study, done: Done) -> str:
    """Means over seeds, without intervals: the parts of the win rate, and figures of training.

    A line that would say the same nothing of every arm (no figure, that a share was never above half, or that the votes
    for N/A or without a seat are RARE) is left out.
    """
    signed = {"table_gain", "spy_gain", "civilians_gain", "voters_gain", "together", "image_gain"}
    names = (*CROSS_PLAY, *PLAY)
    rows = [
        [f"`{name}`", *(short_mean(done, arm.name, name, sign=name in signed) for arm in study.arms)] for name in names
    ]
    rows += [[f"`{name}`, training", *(training_mean(done, arm.name, name) for arm in study.arms)] for name in TRAINING]
    for text, part, figure in ABOVE_HALF:
        rows.append(
            [f"{text} above half at iteration", *(above_half(done, arm.name, part, figure) for arm in study.arms)]
        )
    rare = {f"`votes/{name}`" for name in ("na", "invalid")}
    rows = [row for row in rows if not (row[0] in rare and all(one != "–" and float(one) < RARE for one in row[1:]))]
    rows = [row for row in rows if set(row[1:]) not in ({"–"}, {"never"})]
    return markdown(["mean over seeds", *(f"`{arm.name}`" for arm in study.arms)], rows)


def transfer_table(study: Study, done: Done) -> str:
    kinds = sorted({name.partition("/")[2] for line in done.values() for name in line["final"]["figures"]})
    arms = [arm.name for arm in study.arms]
    rows = [
        [
            kind,
            ", ".join(dict.fromkeys(short_mean(done, arm, f"before/{kind}") for arm in arms)),  # one start, as a rule
            *(mean_gain(done, arm, kind) for arm in arms),
        ]
        for kind in kinds
    ]
    return markdown(["what", "right before", *(f"gain of `{arm}`" for arm in arms)], rows)


def mean_gain(done: Done, arm: str, kind: str) -> str:
    values = of_arm(done, arm, f"gain/{kind}")
    return over_seeds(list(values.values())).text(sign=True) if values else "–"
