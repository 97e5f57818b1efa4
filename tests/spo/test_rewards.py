"""Rewards: numbers worked out by hand, the zero-sum property, and what N/A and invalid votes do not change."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.spo.rewards import accuracy, clue_rewards, decision_reward, format_reward, na_rate, plurality
from vision_zero.types import CastVote, Clue, Completion, Turn, Vote

TENTH = Fraction(1, 10)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Vote], int, int]:
    """(votes, spy, n_players) of one game."""
    n_players = draw(st.integers(2, 9))
    votes = draw(st.lists(st.one_of(st.none(), st.integers(0, n_players)), max_size=40))
    return votes, draw(st.integers(1, n_players)), n_players


def test_clue_rewards_by_hand() -> None:
    # Seat 2 is the spy: v = [1, 4, 0, 2, 0], v_c = 3/4, v_s - v_c = 13/4.
    votes: list[Vote] = [2, 2, 4, None, 2, 1, 4, 2, 0]
    expected = [
        Fraction(13, 160) - Fraction(1, 40),  # beta/4 * 13/4 - lam (1 - 3/4)
        -Fraction(13, 40),
        Fraction(13, 160) + Fraction(3, 40),
        Fraction(13, 160) - Fraction(1, 8),
        Fraction(13, 160) + Fraction(3, 40),
    ]
    assert clue_rewards(votes, 2, 5, TENTH, TENTH) == expected
    assert clue_rewards(votes, 2, 5, 0.1, 0.1) == pytest.approx([float(reward) for reward in expected], abs=1e-15)


def test_clue_rewards_when_all_votes_find_the_spy_span_beta_times_the_number_of_votes() -> None:
    assert clue_rewards([3] * 8, 3, 5, 0.1, 0.1) == pytest.approx([0.2, 0.2, -0.8, 0.2, 0.2])
    assert clue_rewards([1] * 8, 3, 5, TENTH, TENTH) == [
        -Fraction(1, 20) - Fraction(6, 10),
        -Fraction(1, 20) + Fraction(2, 10),
        Fraction(2, 10),
        -Fraction(1, 20) + Fraction(2, 10),
        -Fraction(1, 20) + Fraction(2, 10),
    ]


def test_clue_rewards_are_floats_for_whole_weights_and_zero_without_votes() -> None:
    rewards = clue_rewards([1, 2], 1, 3, 1, 1)
    assert rewards == [-0.5, -0.25, 0.75]
    assert all(isinstance(reward, float) for reward in rewards)
    assert clue_rewards([], 1, 3, 0.1, 0.1) == [0.0, 0.0, 0.0]


@given(tables(), st.fractions(0, 3), st.fractions(0, 3))
def test_clue_rewards_are_the_formula_and_sum_to_zero_exactly(
    table: tuple[list[Vote], int, int], beta: Fraction, lam: Fraction
) -> None:
    votes, spy, n_players = table
    counts = {seat: sum(vote == seat for vote in votes) for seat in range(1, n_players + 1)}
    civilians = [seat for seat in counts if seat != spy]
    mean = Fraction(sum(counts[seat] for seat in civilians), len(civilians))
    expected = {
        seat: (beta / len(civilians)) * (counts[spy] - mean) - lam * (counts[seat] - mean) for seat in civilians
    }
    expected[spy] = -beta * (counts[spy] - mean)
    rewards = clue_rewards(votes, spy, n_players, beta, lam)
    assert rewards == [expected[seat] for seat in sorted(expected)]
    assert sum(rewards) == 0


@given(tables(), st.floats(0, 3), st.floats(0, 3))
def test_clue_rewards_sum_to_zero_in_floats(table: tuple[list[Vote], int, int], beta: float, lam: float) -> None:
    assert abs(sum(clue_rewards(*table, beta, lam))) < 1e-12


@given(tables(), st.randoms(use_true_random=False))
def test_clue_rewards_follow_a_permutation_of_the_seats(table: tuple[list[Vote], int, int], random) -> None:
    votes, spy, n_players = table
    new_seat = list(range(1, n_players + 1))
    random.shuffle(new_seat)
    moved: list[Vote] = [vote if vote is None or vote == 0 else new_seat[vote - 1] for vote in votes]
    before = clue_rewards(votes, spy, n_players, 0.1, 0.2)
    after = clue_rewards(moved, new_seat[spy - 1], n_players, 0.1, 0.2)
    assert [after[seat - 1] for seat in new_seat] == before


@given(tables(), st.integers(0, 5), st.integers(0, 5))
def test_na_and_invalid_votes_count_for_nobody(table: tuple[list[Vote], int, int], n_na: int, n_invalid: int) -> None:
    votes, spy, n_players = table
    seats: list[Vote] = [vote for vote in votes if vote]
    padded = [None] * n_na + seats + [0] * n_invalid
    assert clue_rewards(padded, spy, n_players, 0.1, 0.1) == clue_rewards(seats, spy, n_players, 0.1, 0.1)
    assert plurality(padded, n_players) == plurality(seats, n_players)


@pytest.mark.parametrize(
    ("votes", "spy", "n_players", "beta", "lam", "message"),
    [
        ([1], 0, 4, 0.1, 0.1, "spy must be a seat in 1..4, got 0"),
        ([1], 5, 4, 0.1, 0.1, "spy must be a seat in 1..4, got 5"),
        ([5], 1, 4, 0.1, 0.1, "got 5"),
        ([-1], 1, 4, 0.1, 0.1, "got -1"),
        ([1], 1, 1, 0.1, 0.1, "at least 2 players"),
        ([1], 1, 4, -0.1, 0.1, "reward_beta=-0.1"),
        ([1], 1, 4, 0.1, float("nan"), "reward_lambda=nan"),
    ],
)
def test_clue_rewards_refuse_nonsense(votes, spy, n_players, beta, lam, message) -> None:
    with pytest.raises(ValueError, match=message):
        clue_rewards(votes, spy, n_players, beta, lam)


def test_decision_reward() -> None:
    assert [decision_reward(vote, spy=3) for vote in (3, None, 1, 0)] == [1.0, -0.5, -1.0, -1.0]
    assert decision_reward(None, spy=3, na=0.0) == 0.0
    assert decision_reward(3, spy=3, na=0.0) == 1.0
    with pytest.raises(ValueError, match="got -2"):
        decision_reward(-2, spy=3)
    with pytest.raises(ValueError, match="got 0"):
        decision_reward(0, spy=0)


def test_format_reward() -> None:
    clue = Clue(Turn(0, "clue", 1, 1, 0), Completion("\\boxed{red}"), "red", "", parsed=True)
    vote = CastVote(Turn(0, "decision", 0, 0, 0), Completion("\\boxed{1}"), 1)
    assert [format_reward(clue), format_reward(replace(clue, parsed=False))] == [1.0, -1.0]
    assert [format_reward(vote), format_reward(replace(vote, vote=None)), format_reward(replace(vote, vote=0))] == [
        1,
        1,
        -1,
    ]


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([2, 2, 1], 2),
        ([2, 2, 1, 1], None),
        ([], None),
        ([None, None, 0, 0, 0], None),
        ([None, None, 0, 0, 0, 3], 3),
        ([4, 4, 1, 2, 3], 4),
    ],
)
def test_plurality(votes: list[Vote], winner: int | None) -> None:
    assert plurality(votes, 4) == winner


def test_plurality_refuses_votes_for_no_seat() -> None:
    with pytest.raises(ValueError, match="got 5"):
        plurality([5], 4)


def test_accuracy_is_the_share_of_games_won_by_plurality() -> None:
    games: list[list[Vote]] = [[1, 1, 2], [1, 2], [None, 0], [3, None, 0]]
    assert accuracy(games, [1, 1, 1, 3]) == 0.5
    assert accuracy([[2, 2, 3]], [3]) == 0.0
    with pytest.raises(ValueError, match="at least one game"):
        accuracy([], [])
    with pytest.raises(ValueError, match="shorter"):
        accuracy(games, [1])


def test_na_rate_is_over_all_votes_of_all_games_and_invalid_is_not_na() -> None:
    assert na_rate([[None, 0, 1], [None]]) == 0.5
    assert na_rate([[0, 0], [1]]) == 0.0
    with pytest.raises(ValueError, match="at least one vote"):
        na_rate([[], []])
