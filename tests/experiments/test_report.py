"""The page of results: made-up result lines with figures worked out by hand; the real page against the real lines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import report
from files import Line
from plots import curve
from results import RESULTS, latest, read_results
from study import Arm, Study, load_studies
from tables import curve_table, failed, failure
from tests.experiments.result_lines import FIRST, SECOND, line, window, without_training
from transfer import figures, find_measure

ROOT = Path(__file__).resolve().parents[2]
STUDY = Study(
    name="made-up",
    title="A made-up study",
    question="Does it help?",
    claim="yes",
    seeds=(1, 2, 3),
    final_games=400,
    curve_games=20,
    arms=(Arm("first", {}), Arm("second", {"rae_alpha": 1.0})),
)


def cells(text: str, arm: str) -> list[str]:
    row = next(row for row in text.splitlines() if row.startswith(f"| `{arm}` "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_means_and_differences_by_hand() -> None:
    """First arm: mean 0.6, deviation 0.1, half width 4.3027 * 0.1 / sqrt(3) = 0.248. Differences 0.1, 0.2, 0.1: mean
    0.1333, deviation 0.0577, half width 4.3027 * 0.0577 / sqrt(3) = 0.1434."""
    text = report.section(STUDY, [*FIRST, *SECOND])
    _, rate, minus, found, _, switches = cells(text, "first")
    assert (rate, minus) == ("0.600 (0.352 to 0.848)", "0")
    assert (found, switches) == ("0.500 (0.500 to 0.500)", "1.0 rule")
    _, rate, minus, *_ = cells(text, "second")
    assert minus == "+0.133 (-0.010 to +0.277)"
    assert rate.startswith("0.733")
    assert "| `table_gain` | +0.125 | +0.125 |" in text
    assert "Missing" not in text


def test_failures_are_counted_by_kind_and_compared_exactly() -> None:
    def line(**figures: float) -> Line:
        return {"final": {"figures": {name.replace("__", "/"): [value, 0, 1] for name, value in figures.items()}}}

    silent, code = line(grounding__civilian__no_claim=0.6), line(together=0.2, grounding__civilian__true=0.7)
    fine = line(votes__na=0.25, together=0.2, grounding__civilian__true=0.8)
    assert [failure(one) for one in (silent, code, fine, line(votes__na=0.26), line())] == [
        *("silence", "code", None, "N/A", None)
    ]
    done = {("a", 1): silent, ("a", 2): code, ("a", 3): silent, ("b", 1): fine, ("b", 2): fine, ("b", 3): fine}
    assert failed(done, "a", "a") == "2 silence, 1 code of 3"
    assert failed(done, "b", "a") == "none of 3; p 0.10"  # 2 / (6 choose 3)


def test_training_figures_are_means_of_clue_stages_and_silence_is_dated() -> None:
    """Windows of clue stages only: (0.3 + 0.1) / 2; N/A is above half from the second window on."""
    silent = [line("first", seed, 0.5) for seed in (1, 2)]
    talking = line("second", 1, 0.5, training=[window(5, False, 0.5, 0.0)])
    text = report.section(STUDY, [*silent, talking])
    assert "| `advantage/spy`, training | +0.200 | – |" in text
    assert "| votes for N/A above half at iteration | 10, 10 | never |" in text
    assert "| votes for N/A above half at iteration | 10, 10, never | – |" in report.section(
        STUDY, [*silent, line("first", 3, 0.5, training=talking["training"])]
    )


def test_lines_without_figures_of_training_are_left_out_of_these_and_named() -> None:
    lines = [line("first", 1, 0.5), without_training(line("first", 2, 0.5)), without_training(line("second", 1, 0.5))]
    text = report.section(STUDY, lines)
    assert "Without figures of training: `first` seed 2, `second` seed 1." in text
    assert "| `advantage/spy`, training | +0.200 | – |" in text
    assert "| votes for N/A above half at iteration | 10 | – |" in text
    assert curve(lines, "training", ["stage/na_rate"])[5].n == 1
    assert report.plot(STUDY, latest(lines, STUDY)) is not None
    assert "Without figures" not in report.section(STUDY, lines[:1])


def test_clues_that_claim_nothing_are_dated_on_the_curve() -> None:
    """Only above half counts, at the first point; a seed that never gets there says so."""

    def shares(*values: float) -> list[dict[str, object]]:
        name = "grounding/civilian/no_claim"
        return [{"iteration": 20 * i, "figures": {name: [value, 0, 1]}} for i, value in enumerate(values)]

    silent, talking = line("first", 1, 0.5, curve=shares(0, 0.5, 0.6, 1)), line("first", 2, 0.5, curve=shares(0, 0.5))
    text = report.section(STUDY, [silent, talking, line("second", 1, 0.5, curve=shares(0, 0))])
    assert "| civilians' clues that claim nothing above half at iteration | 40, never | never |" in text


def test_lines_that_say_nothing_of_any_arm_are_left_out() -> None:
    calm = [{"iteration": 5, "figures": {"stage/is_clue": 0.0, "stage/na_rate": 0.1}}]
    text = report.section(STUDY, [line(arm, 1, 0.5, training=calm) for arm in ("first", "second")])
    rows = text.partition("mean over seeds")[2]
    assert "table_gain" in rows
    assert "training" not in rows  # no clue stage
    assert "above half" not in rows


def test_figures_that_other_studies_show_are_not_shown_again() -> None:
    own, others = line("first", 1, 0.5), line("second", 1, 0.5, shared_with="other/arm")
    assert "mean over seeds" in report.section(STUDY, [own, others])
    assert "mean over seeds" not in report.section(STUDY, [{**own, "shared_with": "other/first"}, others])


def test_the_curve_in_numbers() -> None:
    """Curves start at 0.5 and end, at iteration 2, at 0.5, 0.6 and 0.7: mean 0.6."""
    text = curve_table(STUDY, latest([*FIRST, line("second", 1, 0.4, curve=FIRST[0]["curve"][:1])], STUDY))
    assert "| 0 | 0.500 (0.500 to 0.500) | 0.500 (one seed) |" in text
    assert "| 2 | 0.600 (0.352 to 0.848) | – |" in text


def test_smallest_effects_by_hand() -> None:
    """By games alone (4.3027 + 1.0607) sqrt(2 * 0.25 / 400 / 3) = 0.109. Variances between seeds 0.01 and 0.01333, in
    the mean 0.011667, minus 0.25 / 400 = 0.011042, root 0.105; then 5.3634 sqrt(2 * 0.011667 / 3) = 0.473."""
    text = report.section(STUDY, [*FIRST, *SECOND])
    assert "Smallest difference that can show: 0.109, or 0.473 with the deviation of 0.105 between seeds." in text
    assert "can show: 0.109." in report.section(STUDY, FIRST[:1])


def test_partial_results_say_what_is_missing_and_what_failed() -> None:
    failed = {"study": "made-up", "arm": "second", "seed": 2, "status": "failed", "error": "out of\nmemory"}
    text = report.section(STUDY, [failed, *FIRST[:2], SECOND[0], failed, line("gone", 9, 0.1)])
    assert "Missing: `first` seed 3; `second` seed 2, 3." in text
    assert "Failed 2×, not made yet: `second` seed 2 (out of memory)." in text
    assert "Run and no longer part of the study: `gone` seed 9." in text
    assert cells(text, "second")[1:3] == ["0.600 (one seed)", "+0.100 (one seed)"]
    nothing = report.section(STUDY, [])
    assert "Missing: `first` seed 1, 2, 3; `second` seed 1, 2, 3." in nothing
    assert "|" not in nothing


def test_a_run_made_again_counts_and_its_failure_stays_on_the_page() -> None:
    failed = {"study": "made-up", "arm": "first", "seed": 1, "status": "failed", "error": "killed"}
    lines = [failed, FIRST[0], line("first", 1, 0.9), failed]
    assert latest(lines, STUDY)["first", 1]["final"]["figures"]["win_rate"][0] == 0.9
    text = report.section(STUDY, lines)
    assert "Failed 2×, made well later: `first` seed 1 (killed)." in text


def test_lines_of_another_base_are_called_out() -> None:
    text = report.section(STUDY, [FIRST[0], line("second", 1, 0.6, base="other", shared_with="x/y")])
    assert "had another `experiments/base.yaml`: they are not to be compared" in text
    assert "Runs shared with other studies: `x/y`." in text


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    page, results = tmp_path / "results.md", tmp_path / "results"
    results.mkdir()
    page.write_text("# Results\n\nMine.\n")
    studies = {"made-up": STUDY}
    report.renew(page, tmp_path / "images", studies, results)
    assert page.read_text() == "# Results\n\nMine.\n"
    (results / "made-up.jsonl").write_text("".join(json.dumps(one) + "\n" for one in FIRST))
    report.renew(page, tmp_path / "images", studies, results)
    once = page.read_text()
    assert once.startswith("# Results\n\nMine.\n\n<!-- study made-up -->")
    page.write_text(once + "\nAnalysis with a \\1 in it.\n")
    (results / "made-up.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*FIRST, *SECOND]))
    report.renew(page, tmp_path / "images", studies, results)
    twice = page.read_text()
    assert "0.733" in twice
    assert twice.count("<!-- study made-up -->") == 1
    assert twice.endswith("\nAnalysis with a \\1 in it.\n")
    (results / "another.jsonl").write_text(json.dumps(FIRST[0]) + "\n")
    report.renew(page, tmp_path / "images", studies | {"another": replace(STUDY, name="another")}, results)
    parts = re.split(r"<!-- (study [\w-]+) -->", page.read_text())
    assert parts[1::2] == ["study made-up", "study another"]  # behind the other one, before what stood behind that
    assert parts[-1].endswith("<!-- end of study another -->\n\nAnalysis with a \\1 in it.\n")
    twice = page.read_text()
    studies["another"] = replace(STUDY, name="another")
    report.renew(page, tmp_path / "images", studies, results)
    assert page.read_text() == twice


def test_the_plot_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    done = latest([*FIRST, *SECOND], STUDY)
    drawing = report.plot(STUDY, done)
    assert drawing is not None
    assert drawing == report.plot(STUDY, done)
    assert drawing != report.plot(STUDY, latest(FIRST, STUDY))
    assert len(drawing) < 120_000
    assert report.plot(STUDY, {}) is None


def test_a_curve_is_the_sum_of_its_figures_over_the_seeds_that_have_them() -> None:
    points = curve(FIRST, "training", ("stage/na_rate", "votes/invalid"))
    assert {step: (round(point.value, 9), point.n) for step, point in points.items()} == {
        5: (0.3, 3),
        10: (0.7, 3),
        15: (0.8, 3),
    }
    assert curve(FIRST, "curve", ["votes/right"]).keys() == {2}


def test_transfer_is_paired_question_by_question() -> None:
    found = figures({"counting": [0.0, 0.0, 1.0, 1.0]}, {"counting": [0.0, 1.0, 1.0, 1.0]})
    assert found["before/counting"][0] == 0.5
    assert found["gain/counting"][0] == 0.25
    transfer = Study("t", "t", "q", "c", (1, 2, 3), 0, 0, (Arm("first", {}),), "headline", "module:function")
    lines = [
        {
            **without_training(line("first", seed, 0.0)),
            "final": {"games": 0, "figures": {"before/x": [0.5], "gain/x": [gain]}},
            "curve": [],
        }
        for seed, gain in ((1, 0.1), (2, 0.2), (3, 0.3))
    ]
    assert "| x | 0.500 | +0.200 (-0.048 to +0.448) |" in report.section(transfer, lines)
    with pytest.raises(ValueError, match="measure nothing:answers"):
        find_measure("nothing:answers")


@pytest.mark.parametrize("name", sorted(load_studies()))
def test_the_page_is_what_the_results_say(name: str) -> None:
    """With the result files as they are, `python experiments/report.py` would change nothing."""
    lines = read_results(name, RESULTS)
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    found = re.findall(rf"<!-- study {name} -->.*?<!-- end of study {name} -->", page, re.DOTALL)
    wanted = [report.section(load_studies()[name], lines)] if lines else []
    assert found == wanted, "run: python experiments/report.py"
