"""The stage switch: averages by hand, every branch with its reason, and what follows from the paper's values."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.spo.stages import CycleStages, FixedStage, StageSchedule, StageSwitch, SwitchEvent

PAPER = (0.95, 0.9, 0.4, 0.5, 0.1, 5, 20)
shares = st.floats(0, 1)


def quick(**options) -> StageSwitch:
    """A switch whose averages are the last iteration's values (rho 0), so that each branch can be set off at once."""
    values = {"rho": 0.0, "acc_up": 0.9, "err_up": 0.4, "na_up": 0.5, "na_down": 0.1, "k_min": 1, "patience": None}
    return StageSwitch(**{**values, **options})


def in_clue_stage(**options) -> StageSwitch:
    switch = quick(**options)
    while switch.stage == "decision":
        switch.update(1.0, 0.0)
    return switch


def test_defaults_are_the_papers() -> None:
    assert vars(StageSwitch()) == vars(StageSwitch(*PAPER))


def test_starts_in_the_decision_stage_with_averages_at_zero() -> None:
    switch = StageSwitch(*PAPER)
    assert (switch.stage, switch.dwell, switch.iteration, switch.last_reason) == ("decision", 0, 0, None)
    assert (switch.accuracy_average, switch.na_average) == (0.0, 0.0)
    assert switch.history == []


def test_averages_by_hand() -> None:
    switch = StageSwitch(*PAPER)
    assert switch.update(0.8, 0.2) == "decision"
    assert (switch.accuracy_average, switch.na_average) == pytest.approx((0.04, 0.01))
    switch.update(0.4, 0.0)
    assert (switch.accuracy_average, switch.na_average) == pytest.approx((0.058, 0.0095))
    assert (switch.dwell, switch.iteration) == (2, 2)


def test_bias_correction_gives_a_constant_back_from_the_first_iteration() -> None:
    switch = StageSwitch(*PAPER, debias=True)
    assert (switch.accuracy_average, switch.na_average) == (0.0, 0.0)
    for _ in range(12):
        switch.update(0.7, 0.3)
        assert (switch.accuracy_average, switch.na_average) == pytest.approx((0.7, 0.3))


def test_bias_correction_by_hand() -> None:
    switch = StageSwitch(*PAPER, debias=True)
    switch.update(1.0, 0.0)
    switch.update(0.0, 1.0)
    assert switch.accuracy_average == pytest.approx(0.95 * 0.05 / (1 - 0.95**2))
    assert switch.na_average == pytest.approx(0.05 / (1 - 0.95**2))


@pytest.mark.parametrize(
    ("accuracy", "na_rate", "switches"),
    [(0.9, 0.1, True), (0.89, 0.0, False), (1.0, 0.11, False), (0.5, 0.6, False)],
)
def test_rule_that_ends_a_decision_stage(accuracy: float, na_rate: float, switches: bool) -> None:
    switch = quick()
    assert switch.update(accuracy, na_rate) == ("clue" if switches else "decision")
    assert switch.last_reason == ("rule" if switches else None)


@pytest.mark.parametrize(
    ("accuracy", "na_rate", "switches"),
    [(0.6, 0.0, True), (0.61, 0.49, False), (1.0, 0.5, True), (0.0, 1.0, True), (1.0, 0.0, False)],
)
def test_rule_that_ends_a_clue_stage(accuracy: float, na_rate: float, switches: bool) -> None:
    switch = in_clue_stage()
    assert switch.update(accuracy, na_rate) == ("decision" if switches else "clue")
    assert switch.last_reason == ("rule" if switches else None)


def test_the_rule_waits_for_k_min_in_either_stage_and_dwell_restarts() -> None:
    switch = quick(k_min=3)
    seen = []
    for _ in range(3):
        seen.append((switch.update(1.0, 0.0), switch.dwell, switch.last_reason))
    assert seen == [("decision", 1, None), ("decision", 2, None), ("clue", 0, "rule")]
    seen = []
    for _ in range(3):
        seen.append((switch.update(0.0, 0.0), switch.dwell, switch.last_reason))
    assert seen == [("clue", 1, None), ("clue", 2, None), ("decision", 0, "rule")]


def test_patience_ends_either_stage() -> None:
    switch = quick(patience=2)
    stages = [switch.update(0.7, 0.0) for _ in range(6)]
    assert stages == ["decision", "clue", "clue", "decision", "decision", "clue"]
    assert [event.reason for event in switch.history] == ["patience"] * 3


def test_patience_does_not_wait_for_k_min() -> None:
    switch = quick(patience=2, k_min=5)
    assert [switch.update(1.0, 0.0) for _ in range(2)] == ["decision", "clue"]
    assert switch.last_reason == "patience"


def test_the_rule_is_named_where_both_hold() -> None:
    switch = quick(patience=1)
    switch.update(1.0, 0.0)
    assert switch.last_reason == "rule"


def test_last_reason_is_that_of_the_last_iteration_only() -> None:
    switch = quick()
    switch.update(1.0, 0.0)
    assert switch.last_reason == "rule"
    switch.update(1.0, 0.0)
    assert switch.last_reason is None


def test_without_patience_nothing_but_the_rule_ends_a_stage() -> None:
    switch = quick()
    assert {switch.update(0.7, 0.0) for _ in range(500)} == {"decision"}
    assert switch.dwell == 500


def test_history_holds_what_decided_each_switch() -> None:
    switch = quick(k_min=2, patience=3)
    for accuracy, na_rate in [(0.5, 0.0), (0.95, 0.05), (0.8, 0.2), (0.8, 0.2), (0.8, 0.2)]:
        switch.update(accuracy, na_rate)
    assert switch.history == [
        SwitchEvent(2, "decision", "clue", "rule", 0.95, 0.05, 2),
        SwitchEvent(5, "clue", "decision", "patience", 0.8, 0.2, 3),
    ]


def test_averages_run_on_over_a_switch_unless_they_are_restarted() -> None:
    kept = StageSwitch(0.5, 0.5, 0.4, 0.5, 0.1, 1, None)
    restarted = StageSwitch(0.5, 0.5, 0.4, 0.5, 0.1, 1, None, reset_averages=True)
    for switch in (kept, restarted):
        assert switch.update(1.0, 0.0) == "clue"
        assert switch.history[0].accuracy_average == 0.5
    assert kept.accuracy_average == 0.5
    assert restarted.accuracy_average == 0.0
    # Kept: 0.75, an error of 0.25; restarted: 0.5, an error of 0.5, which ends the stage.
    assert kept.update(1.0, 0.0) == "clue"
    assert restarted.update(1.0, 0.0) == "decision"


def test_bias_correction_restarts_with_the_averages() -> None:
    switch = StageSwitch(*PAPER[:5], 1, None, debias=True, reset_averages=True)
    assert switch.update(0.95, 0.0) == "clue"
    switch.update(0.7, 0.2)
    assert (switch.accuracy_average, switch.na_average) == pytest.approx((0.7, 0.2))
    assert switch.iteration == 2


@pytest.mark.parametrize("accuracy", [0.6, 0.7, 0.8, 0.9])
def test_papers_values_at_a_constant_accuracy_the_rule_never_ends_a_decision_stage(accuracy: float) -> None:
    patient = StageSwitch(*PAPER[:6], None)
    assert {patient.update(accuracy, 0.0) for _ in range(300)} == {"decision"}
    switch = StageSwitch(*PAPER)
    for _ in range(300):
        switch.update(accuracy, 0.0)
    reasons = {event.reason for event in switch.history if event.from_stage == "decision"}
    assert reasons == {"patience"}
    assert {event.dwell for event in switch.history if event.from_stage == "decision"} == {20}


def test_papers_values_the_rule_cannot_end_the_first_decision_stage() -> None:
    switch = StageSwitch(*PAPER)
    for _ in range(20):
        switch.update(1.0, 0.0)
    assert [(event.iteration, event.reason) for event in switch.history] == [(20, "patience")]
    assert switch.accuracy_average == pytest.approx(1 - 0.95**20)  # 0.64 of the 0.9 that the rule asks for


@pytest.mark.parametrize("accuracy", [0.6, 0.7, 0.8])
def test_papers_values_the_start_at_zero_ends_the_first_clue_stage_after_k_min(accuracy: float) -> None:
    switch = StageSwitch(*PAPER)
    for _ in range(25):
        switch.update(accuracy, 0.0)
    assert [(event.iteration, event.to_stage, event.reason) for event in switch.history] == [
        (20, "clue", "patience"),
        (25, "decision", "rule"),
    ]
    # With the bias corrected, 0.7 and 0.8 are no errors: the stage goes on (0.6 is on the threshold).
    corrected = StageSwitch(*PAPER, debias=True)
    for _ in range(25):
        corrected.update(accuracy, 0.0)
    if accuracy > 0.6:
        assert corrected.stage == "clue"


def brute_force(measures: list[tuple[float, float]]) -> list[str]:
    """Stages by the paper's algorithm with its averages written out as sums over all past iterations."""
    stages, stage, started = [], "decision", 0
    for t in range(1, len(measures) + 1):
        acc = sum(0.05 * 0.95 ** (t - 1 - i) * measures[i][0] for i in range(t))
        na = sum(0.05 * 0.95 ** (t - 1 - i) * measures[i][1] for i in range(t))
        confident, unsure = acc >= 0.6 and na <= 0.1, 1 - acc >= 0.4 or na >= 0.3
        rule = confident if stage == "decision" else unsure
        if (rule and t - started >= 5) or t - started >= 20:
            stage, started = ("clue" if stage == "decision" else "decision"), t
        stages.append(stage)
    return stages


@given(st.lists(st.tuples(shares, st.floats(0, 0.4)), max_size=80), shares)
def test_switch_equals_the_algorithm_written_out(measures: list[tuple[float, float]], lift: float) -> None:
    measures = [(max(accuracy, lift), na_rate) for accuracy, na_rate in measures]
    switch = StageSwitch(0.95, 0.6, 0.4, 0.3, 0.1, 5, 20)
    assert [switch.update(*measure) for measure in measures] == brute_force(measures)


def schedules() -> list[tuple[StageSchedule, StageSchedule]]:
    """Pairs of the same fresh schedule."""
    return [
        (StageSwitch(*PAPER), StageSwitch(*PAPER)),
        (
            StageSwitch(0.5, 0.6, 0.4, 0.3, 0.1, 2, 4, True, reset_averages=True),
            StageSwitch(0.5, 0.6, 0.4, 0.3, 0.1, 2, 4, True, reset_averages=True),
        ),
        (FixedStage("clue"), FixedStage("clue")),
        (CycleStages(3, 2), CycleStages(3, 2)),
    ]


@given(st.lists(st.tuples(shares, shares), max_size=60), st.integers(0, 60))
def test_state_survives_json_exactly_and_continues_the_same(measures: list[tuple[float, float]], stop: int) -> None:
    for straight, resumed in schedules():
        for measure in measures[:stop]:
            straight.update(*measure)
        resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
        assert vars(resumed) == vars(straight)
        for measure in measures[stop:]:
            assert straight.update(*measure) == resumed.update(*measure)
        assert resumed.state_dict() == straight.state_dict()


def test_state_of_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="StageSwitch, not CycleStages"):
        CycleStages(3, 2).load_state_dict(StageSwitch().state_dict())
    with pytest.raises(ValueError, match="fixed to stage clue"):
        FixedStage("clue").load_state_dict(FixedStage("decision").state_dict())


@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_fixed_stage_stays_and_tracks_the_averages(stage) -> None:
    schedule = FixedStage(stage)
    reference = StageSwitch()
    for accuracy in (1.0, 0.0, 0.5):
        assert schedule.update(accuracy, 0.25) == stage
        reference.update(accuracy, 0.25)
    assert (schedule.accuracy_average, schedule.na_average) == (reference.accuracy_average, reference.na_average)
    assert (schedule.dwell, schedule.history, schedule.last_reason) == (3, [], None)


def test_cycle_takes_turns_by_the_number_of_steps() -> None:
    schedule = CycleStages(3, 2)
    stages = [schedule.stage] + [schedule.update(0.5, 0.0) for _ in range(9)]
    assert stages == ["decision"] * 3 + ["clue"] * 2 + ["decision"] * 3 + ["clue"] * 2
    assert [asdict(event)["reason"] for event in schedule.history] == ["cycle"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 1.0}, "rho"),
        ({"rho": -0.1}, "rho"),
        ({"acc_up": 1.1}, "acc_up"),
        ({"err_up": -0.1}, "err_up"),
        ({"na_up": float("nan")}, "na_up"),
        ({"na_down": 2}, "na_down"),
        ({"k_min": -1}, "k_min"),
        ({"patience": 0}, "patience"),
    ],
)
def test_switch_refuses_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageSwitch(**options)


def test_other_schedules_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="votes"):
        FixedStage("votes")
    with pytest.raises(ValueError, match="at least 1 step"):
        CycleStages(3, 0)


@pytest.mark.parametrize(("accuracy", "na_rate"), [(1.1, 0.0), (0.5, -0.1), (float("nan"), 0.0)])
def test_update_refuses_what_is_no_share_and_changes_nothing(accuracy: float, na_rate: float) -> None:
    switch = StageSwitch()
    before = switch.state_dict()
    with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
        switch.update(accuracy, na_rate)
    assert switch.state_dict() == before
