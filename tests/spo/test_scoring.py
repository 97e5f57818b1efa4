"""Scores of an iteration by hand; its formulas are tested where they stand."""

import pytest

from vision_zero.spo.advantages import RoleBaselines
from vision_zero.spo.scoring import Scores, score_games
from vision_zero.types import GameSummary, Vote

VOTES: list[tuple[Vote, ...]] = [(1, 1), (1, 1), (2, None), (None, None)]
"""Right, right, wrong, given up; the spy is player 1 of 3."""


def scores(past: set[int]) -> tuple[Scores, RoleBaselines]:
    games = [GameSummary(k, 1, 3, votes, 0, (5,) * 3, (4,) * 2) for k, votes in enumerate(VOTES)]
    baselines = RoleBaselines(0.9)
    weights = {"reward_beta": 0.1, "reward_lambda": 0.1, "na_reward": -0.5}
    return score_games(games, **weights, baselines=baselines, move_baselines=True, past=past), baselines


@pytest.mark.parametrize(
    ("past", "accuracy", "na_rate"),
    [(set(), 0.5, 3 / 8), ({1, 3}, 0.5, 1 / 4), ({2, 3}, 1.0, 0.0), ({0, 1}, 0.0, 3 / 4), ({0, 1, 2, 3}, 0.5, 3 / 8)],
)
def test_only_the_stages_figures_leave_out_past_players(past: set[int], accuracy: float, na_rate: float) -> None:
    """Unless all games have one. Rewards and baselines count all: the policy gave the clues of all."""
    found, baselines = scores(past)
    assert (found.accuracy, found.na_rate) == (accuracy, na_rate)
    plain, usual = scores(set())
    assert found.by_game == plain.by_game
    for name in ("reward/spy", "reward/vote"):
        assert found.means[name] == plain.means[name]
    assert (baselines.spy, baselines.civilian) == (usual.spy, usual.civilian)
