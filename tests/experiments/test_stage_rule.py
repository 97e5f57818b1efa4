"""The page about the stage rule: numbers worked out on paper, and the page as the program writes it."""

import math
from pathlib import Path

import pytest

import stage_rule
from stage_rule import END, PAGE, START, VARIANTS, StageEnd, border, clue_stage_ends_by_rule, section, stage_ends


def test_the_page_is_what_the_rule_says() -> None:
    written = PAGE.read_text("utf-8").partition(START)[2].partition(END)[0]
    assert written == f"\n{section()}", "run: python experiments/stage_rule.py"


def test_the_program_renews_its_section_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "method.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", "utf-8")
    monkeypatch.setattr(stage_rule, "PAGE", page)
    stage_rule.main()
    assert page.read_text("utf-8") == f"before\n{START}\n{section()}{END}\nafter\n"
    printed = capsys.readouterr().out
    assert all(name in printed for name in VARIANTS)
    assert "| 1.0 | 45r ∞ | 45r ∞ | ∞ | ∞ |" in printed  # without patience


@pytest.mark.parametrize("accuracy", [0.61, 0.65, 0.7, 0.75, 0.8, 0.85, 0.89])
def test_between_the_thresholds_nothing_but_patience_ends_a_stage_for_good(accuracy: float) -> None:
    """The claim of the method: at a constant accuracy from 0.6 to 0.9 no decision stage ends by the rule."""
    ends = stage_ends(accuracy, 0.0, 40, {})
    assert set(ends[::2]) == {StageEnd(20, "patience")}
    assert ends[-1] == StageEnd(20, "patience")


def test_the_zero_start_ends_the_first_clue_stage() -> None:
    """After 20 + 5 iterations the average is a (1 - 0.95^25); its error reaches 0.4 at a = 0.6 / (1 - 0.95^25)."""
    by_hand = 0.6 / (1 - 0.95**25)
    assert by_hand == pytest.approx(0.8303, abs=1e-4)
    assert stage_ends(by_hand - 1e-6, 0.0, 2, {})[1] == StageEnd(5, "rule")
    assert stage_ends(by_hand + 1e-6, 0.0, 2, {})[1] == StageEnd(20, "patience")
    assert border(lambda accuracy: clue_stage_ends_by_rule(accuracy, 1, {})) == f"{by_hand:.3f}"
    assert border(lambda accuracy: clue_stage_ends_by_rule(accuracy, 1, {"debias": True})) == "0.600"


def test_a_perfect_voter_ends_its_second_decision_stage_by_the_rule() -> None:
    """1 - 0.95^t passes 0.9 at t = 45: the first 40 iterations are two stages by patience, then 5 make 45."""
    assert math.ceil(math.log(0.1) / math.log(0.95)) == 45
    reasons = ["patience", "patience", "rule", "patience"]
    assert stage_ends(1.0, 0.0, 4, {}) == [StageEnd(n, why) for n, why in zip((20, 20, 5, 20), reasons, strict=True)]


def test_without_patience_a_stage_may_never_end() -> None:
    ends = stage_ends(0.8, 0.0, 4, VARIANTS["`--patience 0`"])
    assert [str(end) for end in ends] == ["∞"]


def test_many_na_votes_end_clue_stages() -> None:
    """0.6 (1 - 0.95^t) passes 0.5 at t = 35: 15 iterations into a clue stage that begins after 20."""
    assert math.ceil(math.log(1 - 0.5 / 0.6) / math.log(0.95)) == 35
    assert stage_ends(0.9, 0.6, 2, {})[1] == StageEnd(15, "rule")
