"""Advantages: group normalization against TRL's own code, and RAE by hand in each of its variants."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.spo.advantages import RoleBaselines, clue_advantages, group_normalize

# Two games by seat; the spies sit in seats 1 and 3. Spy rewards -0.6 and 0.2, civilian means 0.3 and -0.1.
REWARDS = [[-0.6, 0.2, 0.4], [-0.2, 0.0, 0.2]]
SPIES = [1, 3]


def trl_advantages(rewards: list[float]) -> list[float]:
    """The lines of TRL 1.16's GRPOTrainer for `scale_rewards="group"`, on one group, with TRL's nanstd.

    Good to 7 digits: nanstd takes its n / (n - 1) in float32.
    """
    import torch
    from trl.trainer.utils import nanstd

    tensor = torch.tensor(rewards, dtype=torch.float64)
    groups = tensor.view(-1, len(rewards))
    mean = torch.nanmean(groups, dim=1).repeat_interleave(len(rewards), dim=0)
    std = nanstd(groups, dim=1).repeat_interleave(len(rewards), dim=0)
    advantages: list[float] = ((tensor - mean) / (std + 1e-4)).tolist()
    return advantages


def test_group_normalize_by_hand() -> None:
    # Mean 1/4, every reward 3/4 away from it, four squares over n - 1 = 3.
    advantages = group_normalize([1.0, 1.0, -0.5, -0.5])
    std = math.sqrt(4 * 0.75**2 / 3)
    assert advantages == pytest.approx([sign * 0.75 / (std + 1e-4) for sign in (1, 1, -1, -1)], rel=1e-14)


@pytest.mark.parametrize("rewards", [[0.1] * 7, [-1.0], [1 / 3] * 8])
def test_group_normalize_of_equal_rewards_is_exactly_zero(rewards: list[float]) -> None:
    assert group_normalize(rewards) == [0.0] * len(rewards)


@pytest.mark.parametrize(
    "rewards",
    [[1.0, -1.0], [1.0, -0.5, -1.0, -1.0, 1.0, 1.0, -0.5, -1.0], [0.0, 1e-5, 0.0], [1.0] * 7 + [-1.0], [0.1] * 8],
)
def test_group_normalize_equals_trl(rewards: list[float]) -> None:
    assert group_normalize(rewards) == pytest.approx(trl_advantages(rewards), rel=1e-7, abs=1e-9)


@given(st.lists(st.sampled_from([1.0, -0.5, -1.0, 0.5]), min_size=2, max_size=16))
def test_group_normalize_equals_trl_on_any_group_of_votes(rewards: list[float]) -> None:
    assert group_normalize(rewards) == pytest.approx(trl_advantages(rewards), rel=1e-7, abs=1e-9)
    assert sum(group_normalize(rewards)) == pytest.approx(0, abs=1e-10)


def test_group_normalize_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        group_normalize([])
    with pytest.raises(ValueError, match="nan"):
        group_normalize([1.0, float("nan")])
    with pytest.raises(ValueError, match="eps"):
        group_normalize([1.0, 2.0], eps=0.0)


def test_role_baselines_by_hand() -> None:
    baselines = RoleBaselines(alpha=0.9)
    baselines.update(1.0, -2.0)
    assert (baselines.spy, baselines.civilian) == pytest.approx((0.1, -0.2))
    baselines.update(0.0, 1.0)
    assert (baselines.spy, baselines.civilian) == pytest.approx((0.09, -0.08))


def test_role_baselines_have_covered_64_percent_of_a_constant_after_20_updates() -> None:
    baselines = RoleBaselines()
    for _ in range(20):
        baselines.update(1.0, 0.0)
    assert baselines.spy == pytest.approx(1 - 0.95**20)
    assert baselines.spy == pytest.approx(0.64, abs=0.005)


def test_role_baselines_state_survives_json_exactly() -> None:
    baselines = RoleBaselines(0.95)
    for step in range(7):
        baselines.update(1 / (step + 3), -step / 7)
    restored = RoleBaselines(0.95)
    restored.load_state_dict(json.loads(json.dumps(baselines.state_dict())))
    assert (restored.spy, restored.civilian) == (baselines.spy, baselines.civilian)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_role_baselines_refuse_an_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        RoleBaselines(alpha)


def test_role_baselines_refuse_a_mean_that_is_not_finite_and_stay() -> None:
    baselines = RoleBaselines()
    with pytest.raises(ValueError, match="finite"):
        baselines.update(1.0, float("inf"))
    assert (baselines.spy, baselines.civilian) == (0.0, 0.0)


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_once_per_iteration_after_the_move() -> None:
    baselines = RoleBaselines(0.9)
    advantages = clue_advantages(REWARDS, SPIES, baselines)
    # Means over games: spy -0.2, civilians 0.1; a tenth of each.
    assert (baselines.spy, baselines.civilian) == pytest.approx((-0.02, 0.01))
    assert flat(advantages) == pytest.approx([-0.58, 0.19, 0.39, -0.21, -0.01, 0.22])
    assert [len(row) for row in advantages] == [3, 3]


def test_once_per_iteration_before_the_move() -> None:
    baselines = RoleBaselines(0.9)
    assert flat(clue_advantages(REWARDS, SPIES, baselines, subtract="before")) == pytest.approx(flat(REWARDS))
    assert (baselines.spy, baselines.civilian) == pytest.approx((-0.02, 0.01))
    second = clue_advantages(REWARDS, SPIES, baselines, subtract="before")
    assert flat(second) == pytest.approx([-0.58, 0.19, 0.39, -0.21, -0.01, 0.22])


def test_once_per_game_after_the_move() -> None:
    baselines = RoleBaselines(0.9)
    advantages = clue_advantages(REWARDS, SPIES, baselines, per="game")
    # Game 1: b_s = -0.06, b_c = 0.03. Game 2: b_s = -0.054 + 0.02, b_c = 0.027 - 0.01.
    assert flat(advantages) == pytest.approx([-0.54, 0.17, 0.37, -0.217, -0.017, 0.234])
    assert (baselines.spy, baselines.civilian) == pytest.approx((-0.034, 0.017))


def test_once_per_game_before_the_move() -> None:
    baselines = RoleBaselines(0.9)
    advantages = clue_advantages(REWARDS, SPIES, baselines, per="game", subtract="before")
    assert flat(advantages) == pytest.approx([-0.6, 0.2, 0.4, -0.23, -0.03, 0.26])
    assert (baselines.spy, baselines.civilian) == pytest.approx((-0.034, 0.017))


def test_alpha_one_is_training_without_rae() -> None:
    baselines = RoleBaselines(1.0)
    assert clue_advantages(REWARDS, SPIES, baselines, per="game") == REWARDS
    assert (baselines.spy, baselines.civilian) == (0.0, 0.0)


@given(
    st.lists(st.tuples(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.integers(1, 3)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_move_of_an_iteration_does_not_depend_on_the_order_of_its_games(games, random) -> None:
    shuffled = random.sample(games, len(games))
    one, other = RoleBaselines(), RoleBaselines()
    clue_advantages([rewards for rewards, _ in games], [spy for _, spy in games], one)
    clue_advantages([rewards for rewards, _ in shuffled], [spy for _, spy in shuffled], other)
    assert (one.spy, one.civilian) == (other.spy, other.civilian)


@pytest.mark.parametrize("subtract", ["after", "before"])
def test_games_one_by_one_are_the_games_of_an_iteration_taken_per_game(subtract) -> None:
    whole, single = RoleBaselines(), RoleBaselines()
    together = clue_advantages(REWARDS, SPIES, whole, per="game", subtract=subtract)
    apart = [
        clue_advantages([rewards], [spy], single, subtract=subtract)[0]
        for rewards, spy in zip(REWARDS, SPIES, strict=True)
    ]
    assert together == apart
    assert whole.state_dict() == single.state_dict()


@pytest.mark.parametrize(
    ("rewards", "spies", "options", "message"),
    [
        ([], [], {}, "at least one game"),
        (REWARDS, [1], {}, "shorter"),
        (REWARDS, [1, 4], {}, "spy 4"),
        (REWARDS, [0, 1], {}, "spy 0"),
        ([[1.0]], [1], {}, "2 players"),
        ([[1.0, 1.0], [float("nan"), 1.0]], [1, 1], {"per": "game"}, "finite"),
        (REWARDS, SPIES, {"per": "step"}, "per must be"),
        (REWARDS, SPIES, {"subtract": "never"}, "subtract must be"),
    ],
)
def test_clue_advantages_refuse_nonsense_and_move_nothing(rewards, spies, options, message) -> None:
    baselines = RoleBaselines()
    with pytest.raises(ValueError, match=message):
        clue_advantages(rewards, spies, baselines, **options)
    assert (baselines.spy, baselines.civilian) == (0.0, 0.0)
