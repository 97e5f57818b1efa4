"""Results as a page: `python experiments/report.py` renews the studies' sections of docs/results.md and their plots.

A section stands between `<!-- study NAME -->` and `<!-- end of study NAME -->`; whatever is written outside of these
stays. Sections of studies that have none yet are put behind the last one. A test holds the page to the result files.

Means and differences are over seeds with Student's t (`over_seeds`); a difference is taken seed by seed against the
study's first arm.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance

from files import Line
from over_seeds import GAME_DEVIATION, over_seeds, paired_difference, smallest_effect
from plots import curve, plot
from results import RESULTS, failures, latest, read_results
from study import ROOT, STUDIES, Study, load_studies

PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"
Done = Mapping[tuple[str, int], Line]


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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main_table(study: Study, done: Done, n_failed: Mapping[str, int]) -> str:
    first = study.arms[0].name
    header = [
        "arm",
        "seeds",
        "failed",
        "win rate",
        f"minus `{first}`",
        "spy found (games)",
        f"minus `{first}`",
        "switches",
    ]
    rows = [
        [
            f"`{arm.name}`",
            str(len(of_arm(done, arm.name, "win_rate"))),
            str(n_failed.get(arm.name, 0)),
            mean(done, arm.name, "win_rate"),
            difference(done, arm.name, first, "win_rate"),
            mean(done, arm.name, "against_itself"),
            difference(done, arm.name, first, "against_itself"),
            switches(done, arm.name),
        ]
        for arm in study.arms
    ]
    return markdown(header, rows)


CROSS_PLAY = ("as_table", "as_spy", "table_gain", "spy_gain", "civilians_gain", "voters_gain", "together")
PLAY = ("votes/right", "votes/na", "votes/invalid", "sight", "truth/civilian/true", "truth/spy/true")


TRAINING = ("reward/civilian", "reward/spy", "advantage/civilian", "advantage/spy")


def training_mean(done: Done, arm: str, figure: str) -> str:
    """Mean over the iterations of all seeds' clue stages."""
    clue_stages = [
        point["figures"][figure]
        for (name, _), line in done.items()
        for point in line["training"]
        if name == arm and point["figures"]["stage/is_clue"] > 0.5
    ]
    return f"{fmean(clue_stages):+.3f}" if clue_stages else "–"


def fell_silent(done: Done, arm: str) -> str:
    """Up to which iteration most votes of a window had become N/A, seed by seed; `never` where they did not."""
    found = []
    for (name, _), line in sorted(done.items()):
        if name == arm:
            windows = [p["iteration"] for p in line["training"] if p["figures"]["stage/na_rate"] > 0.5]
            found.append(str(windows[0]) if windows else "never")
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
    """Means over seeds, without intervals: what the win rate is made of, and what training saw."""
    signed = {"table_gain", "spy_gain", "civilians_gain", "voters_gain", "together", "sight"}
    names = (*CROSS_PLAY, *PLAY)
    rows = [
        [f"`{name}`", *(short_mean(done, arm.name, name, sign=name in signed) for arm in study.arms)] for name in names
    ]
    rows += [[f"`{name}`, training", *(training_mean(done, arm.name, name) for arm in study.arms)] for name in TRAINING]
    rows.append(["N/A above half at iteration", *(fell_silent(done, arm.name) for arm in study.arms)])
    return markdown(["mean over seeds", *(f"`{arm.name}`" for arm in study.arms)], rows)


def transfer_table(study: Study, done: Done) -> str:
    kinds = sorted({name.partition("/")[2] for line in done.values() for name in line["final"]["figures"]})
    rows = [
        [f"`{arm.name}`", kind, short_mean(done, arm.name, f"before/{kind}"), mean_gain(done, arm.name, kind)]
        for arm in study.arms
        for kind in kinds
    ]
    return markdown(["arm", "what", "right before", "gain"], rows)


def mean_gain(done: Done, arm: str, kind: str) -> str:
    values = of_arm(done, arm, f"gain/{kind}")
    return over_seeds(list(values.values())).text(sign=True) if values else "–"


def seed_deviation(study: Study, done: Done) -> float | None:
    """Deviation of the win rate between seeds of an arm, beyond what games make; None before an arm has two seeds."""
    values = [list(of_arm(done, arm.name, "win_rate").values()) for arm in study.arms]
    variances = [variance(some) for some in values if len(some) > 1]
    if not variances:
        return None
    return math.sqrt(max(0.0, fmean(variances) - GAME_DEVIATION**2 / study.final_games))


def effects(study: Study, done: Done) -> str:
    """The smallest effect the study can show, as known beforehand and with the seeds' own spread."""
    plain = smallest_effect(study.final_games, len(study.seeds))
    if plain is None:
        return "One seed: no difference can be shown."
    text = (
        f"{len(study.seeds)} seeds, {study.final_games} games at the end of a run, {study.curve_games} along its "
        "curve. Smallest difference of win rates that can show (two-sided 95%, power 0.8), by the games alone: "
        f"{plain:.3f}"
    )
    spread = seed_deviation(study, done)
    if spread is None:
        return f"{text}."
    known = smallest_effect(study.final_games, len(study.seeds), spread)
    return f"{text}; with the deviation of {spread:.3f} between seeds that was seen: {known:.3f}."


def gaps(study: Study, lines: list[Line], done: Done) -> list[str]:
    """What is missing, what failed, what is not to be compared, what is no longer asked for."""
    said = []
    missing = {arm.name: [str(s) for s in study.seeds if (arm.name, s) not in done] for arm in study.arms}
    if len(done) < len(study.arms) * len(study.seeds):
        said.append("Missing: " + "; ".join(f"`{arm}` seed {', '.join(s)}" for arm, s in missing.items() if s) + ".")
    for (arm, seed), failed in failures(lines, study).items():
        reason = " ".join(failed[-1]["error"].split())[:160]
        later = "made well later" if (arm, seed) in done else "not made yet"
        said.append(f"Failed {len(failed)}×, {later}: `{arm}` seed {seed} ({reason}).")
    if len({line.get("base") for line in done.values()}) > 1:
        said.append("**Some of these runs had another `experiments/base.yaml`: they are not to be compared.**")
    known = {(arm.name, seed) for arm in study.arms for seed in study.seeds}
    others = {(line["arm"], line["seed"]) for line in lines} - known
    if others:
        said.append(
            "Run and no longer part of the study: " + ", ".join(f"`{a}` seed {s}" for a, s in sorted(others)) + "."
        )
    shared = sorted({line["shared_with"] for line in done.values() if line.get("shared_with")})
    if shared:
        said.append("Runs shared with other studies: " + ", ".join(f"`{name}`" for name in shared) + ".")
    return said


def section(study: Study, lines: list[Line]) -> str:
    """A study's part of the page, with its markers."""
    done = latest(lines, study)
    failed = failures(lines, study)
    program = "run.py" if study.runs_of is None else "transfer.py"
    parts = [
        f"### {study.title}",
        f"{study.question} Paper or its code: {study.claim}.",
        f"    python experiments/{program} {study.name}",
    ]
    if study.runs_of is None:
        parts.append(effects(study, done))
    if any(line["curve"] for line in done.values()):
        parts.append(f"![Curves of the study {study.name}](images/study-{study.name}.svg)")
    if done and study.runs_of is None:
        n_failed: Counter[str] = Counter()
        for (arm, _), runs in failed.items():
            n_failed[arm] += len(runs)
        parts.append(main_table(study, done, n_failed))
        parts.append(curve_table(study, done))
        parts.append(detail_table(study, done))
    elif done:
        parts.append(transfer_table(study, done))
    parts += gaps(study, lines, done)
    return "\n\n".join([f"<!-- study {study.name} -->", *parts, f"<!-- end of study {study.name} -->"])


def renewed(page: str, sections: Mapping[str, str]) -> str:
    """The page with the sections of these studies; everything between other markers, or outside of any, stays."""
    for name, text in sections.items():
        pattern = re.compile(rf"<!-- study {re.escape(name)} -->.*?<!-- end of study {re.escape(name)} -->", re.DOTALL)
        if pattern.search(page):
            before, after = pattern.split(page, maxsplit=1)
            page = before + text + after
        else:  # behind the last section, or at the end of the page
            ends = list(re.finditer(r"<!-- end of study [\w-]+ -->", page))
            place = ends[-1].end() if ends else len(page.rstrip())
            page = f"{page[:place]}\n\n{text}{page[place:].rstrip()}\n"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python experiments/report.py", description="Renew docs/results.md.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="these studies only; none: all that have results")
    asked = parser.parse_args(arguments)
    known = load_studies(STUDIES)
    if unknown := sorted(set(asked.studies) - known.keys()):
        print(f"error: no study {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 1
    renew(PAGE, IMAGES, known, RESULTS, asked.studies)
    return 0


def renew(page: Path, images: Path, studies: Mapping[str, Study], results: Path, names: Sequence[str] = ()) -> None:
    """Rewrite the sections and plots of the named studies, or of all that have results."""
    sections = {}
    for name, study in studies.items():
        lines = read_results(name, results)
        if not lines or (names and name not in names):
            continue
        sections[name] = section(study, lines)
        drawing = plot(study, latest(lines, study))
        if drawing is not None:
            images.mkdir(parents=True, exist_ok=True)
            (images / f"study-{name}.svg").write_text(drawing, "utf-8")
    page.write_text(renewed(page.read_text("utf-8"), sections), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
