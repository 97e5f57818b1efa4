"""Alarms: what rings by hand, and that none rings for what cannot be known."""

import pytest

from vision_zero.spo.alarms import OF_AN_ITERATION, OF_THE_ARENA, Alarm, clue_shares
from vision_zero.types import GameSummary

BY_NAME = {alarm.name: alarm for alarm in (*OF_AN_ITERATION, *OF_THE_ARENA)}


def game(number: int, *clues: str) -> GameSummary:
    return GameSummary(number, 1, 3, (1, 2), 0, (1,) * len(clues), (1, 1), clues)


@pytest.mark.parametrize(("share", "rings"), [(0.25, False), (0.26, True)])
def test_above_the_limit_rings(share: float, rings: bool) -> None:
    assert BY_NAME["flees"].rings({"stage/na_rate": share}) is rings
    assert "0.26" in BY_NAME["flees"].words({"stage/na_rate": 0.26})


def test_all_of_an_interval_must_be_beyond_the_limit() -> None:
    collude = BY_NAME["collude"]
    assert not collude.rings({"together": [0.2, -0.01, 0.4]}, {})
    assert collude.rings({"together": [0.2, 0.01, 0.4]}, {})
    assert collude.rings({"together": [0.2, None, None]}, {})  # one image pair has no interval


def test_a_share_of_the_starts_figure() -> None:
    blind = BY_NAME["blind"]
    start = {"image_gain": [0.2, 0.1, 0.3]}
    assert blind.rings({"image_gain": [0.05, 0.0, 0.09]}, start)
    assert not blind.rings({"image_gain": [0.05, 0.0, 0.11]}, start)
    assert not blind.rings({"image_gain": [-0.1, -0.2, -0.06]}, {"image_gain": [-0.1, -0.2, 0.0]})
    assert not blind.rings({"image_gain": [0.05, 0.0, 0.09]}, {})
    assert not blind.rings({"image_gain": [0.05, 0.0, 0.09]})


@pytest.mark.parametrize("alarm", BY_NAME.values(), ids=str)
def test_what_was_not_measured_rings_nothing(alarm: Alarm) -> None:
    assert not alarm.rings({}, {})
    assert alarm.words({alarm.figure: 0.5}).count("0.5") == 1


def test_shares_of_clues_by_hand() -> None:
    games = [game(0, "red cube", "blue cube", "red cube"), game(1, "red cube", "a sphere")]
    assert clue_shares(games) == {"most_common": 3 / 5, "repeated": 1 / 5}
    assert clue_shares([game(0)]) == {}
