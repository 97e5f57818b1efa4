"""Results as a page: `python experiments/report.py` renews the studies' sections of docs/results.md and their plots.

A section stands between `<!-- study NAME -->` and `<!-- end of study NAME -->`; whatever is written outside of these
stays. Sections of studies that have none yet are put behind the last one. A test holds the page to the result files.
`--curve` prints in numbers what the plots draw.

Means and differences are over seeds with Student's t (`over_seeds`); a difference is taken seed by seed against the
study's first arm.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance

from cross_play import cross_play_table
from errors import in_words
from files import Line
from over_seeds import GAME_DEVIATION, smallest_effect
from plots import plot
from results import RESULTS, failures, latest, read_results
from study import ROOT, STUDIES, Study, check_names, load_studies
from tables import Done, curve_table, detail_table, main_table, of_arm, transfer_table

PAGE = ROOT / "docs" / "results.md"
IMAGES = ROOT / "docs" / "images"


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
        f"{len(study.seeds)} seeds, {study.final_games} games at the end, {study.curve_games} at a point of the curve. "
        f"Smallest difference that can show: {plain:.3f}"
    )
    spread = seed_deviation(study, done)
    if spread is None:
        return f"{text}."
    known = smallest_effect(study.final_games, len(study.seeds), spread)
    return f"{text}, or {known:.3f} with the deviation of {spread:.3f} between seeds."


def gaps(study: Study, lines: list[Line], done: Done) -> list[str]:
    """What is missing, what failed, what is not to be compared, what is no longer asked for."""
    said = []
    missing = {arm.name: [str(s) for s in study.result_seeds if (arm.name, s) not in done] for arm in study.arms}
    if study.together:
        said += [f"Missing: `{arm}`." for arm, seeds in missing.items() if seeds]
    elif len(done) < len(study.arms) * len(study.seeds):
        said.append("Missing: " + "; ".join(f"`{arm}` seed {', '.join(s)}" for arm, s in missing.items() if s) + ".")
    if study.runs_of is None:  # lines that were made before there were any
        without = [f"`{arm}` seed {seed}" for (arm, seed), line in sorted(done.items()) if "training" not in line]
        if without:
            said.append(f"Without figures of training: {', '.join(without)}.")
    for (arm, seed), failed in failures(lines, study).items():
        reason = " ".join(failed[-1]["error"].split())[:160]
        later = "made well later" if (arm, seed) in done else "not made yet"
        said.append(f"Failed {len(failed)}×, {later}: `{arm}` seed {seed} ({reason}).")
    if len({line.get("base") for line in done.values()}) > 1:
        said.append("**Some of these runs had another `experiments/base.yaml`: they are not to be compared.**")
    known = {(arm.name, seed) for arm in study.arms for seed in study.result_seeds}
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
        parts.append(main_table(study, done))
        if not all(line.get("shared_with") for line in done.values()):  # else the other studies show it
            parts.append(detail_table(study, done))
    elif done:
        parts.append(cross_play_table(study, done) if study.together else transfer_table(study, done))
    parts += gaps(study, lines, done)
    return marked(study.name, parts)


def marked(name: str, parts: Sequence[str]) -> str:
    """A section of the page between its markers."""
    return "\n\n".join([f"<!-- study {name} -->", *parts, f"<!-- end of study {name} -->"])


def write_sections(sections: Mapping[str, str], page: Path = PAGE) -> None:
    page.write_text(renewed(page.read_text("utf-8"), sections), "utf-8")


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


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python experiments/report.py", description="Renew docs/results.md.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="these studies only; none: all that have results")
    parser.add_argument("--curve", action="store_true", help="print the win rate along the curves, and renew nothing")
    asked = parser.parse_args(arguments)
    known = load_studies(STUDIES)
    check_names(known, asked.studies)
    if asked.curve:
        for name in asked.studies or known:
            print(f"{name}\n\n{curve_table(known[name], latest(read_results(name, RESULTS), known[name]))}\n")
        return 0
    renewed_now = renew(PAGE, IMAGES, known, RESULTS, asked.studies)
    for name in dict.fromkeys(asked.studies or known):
        print(f"{'renewed' if name in renewed_now else 'no results of'} {name}")
    return 0 if renewed_now.issuperset(asked.studies) and renewed_now else 1


def renew(page: Path, images: Path, studies: Mapping[str, Study], results: Path, names: Sequence[str] = ()) -> set[str]:
    """Rewrite the sections and plots of the named studies, or of all, that have results. Returns which these are."""
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
    write_sections(sections, page)
    return set(sections)


if __name__ == "__main__":
    sys.exit(main())
