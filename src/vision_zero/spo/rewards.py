"""Rewards of both stages and metrics of the stage switch, as pure functions of the votes.

Paper: Vision-Zero, arXiv 2509.25541. A vote is a seat 1..n, `None` for N/A, or 0 for an invalid vote; N/A and invalid
votes count for nobody.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from vision_zero.types import CastVote, Clue, Vote

Number = TypeVar("Number", float, Fraction)
"""float in training; Fraction in tests, where the sum of rewards is exactly 0."""


def clue_rewards(
    votes: Sequence[Vote], spy: int, n_players: int, reward_beta: Number, reward_lambda: Number
) -> list[Number]:
    """Zero-sum rewards of a game's players, index 0 = seat 1 (paper, clue-stage reward).

    With v_s votes for the spy, v_j for civilian j, v_c their mean over the n_c civilians, beta and lam the weights:

        r_s = -beta (v_s - v_c)
        r_j = beta / n_c (v_s - v_c) - lam (v_j - v_c)

    Raises ValueError for fewer than two players, a spy or a vote that is no seat, and negative weights.
    """
    if n_players < 2:
        raise ValueError(f"a game has at least 2 players, got n_players={n_players}")
    if not 1 <= spy <= n_players:
        raise ValueError(f"spy must be a seat in 1..{n_players}, got {spy}")
    if not (reward_beta >= 0 and reward_lambda >= 0):
        raise ValueError(
            f"the weights must not be negative, got reward_beta={reward_beta}, reward_lambda={reward_lambda}"
        )
    counts = _votes_by_seat(votes, n_players)
    n_civilians = n_players - 1
    spy_votes = counts[spy - 1]
    civilian_votes = sum(counts) - spy_votes
    # Both differences times n_c are integers; dividing last keeps Fractions exact.
    spy_excess = n_civilians * spy_votes - civilian_votes
    return [
        -reward_beta * spy_excess / n_civilians
        if seat == spy
        else reward_beta * spy_excess / n_civilians**2
        - reward_lambda * (n_civilians * seat_votes - civilian_votes) / n_civilians
        for seat, seat_votes in enumerate(counts, start=1)
    ]


def decision_reward(vote: Vote, spy: int, na: float = -0.5) -> float:
    """+1 for the spy's seat, `na` for N/A, -1 for another seat or an invalid vote (paper, decision-stage reward).

    Raises ValueError for a spy or a vote that cannot be a seat.
    """
    if spy < 1:
        raise ValueError(f"spy must be a seat, counted from 1, got {spy}")
    if vote is None:
        return na
    if vote < 0:
        raise ValueError(f"a vote is None, 0 or a seat, got {vote}")
    return 1.0 if vote == spy else -1.0


def format_reward(said: Clue | CastVote) -> float:
    r"""+1 for a parsed completion, else -1 (public code: a bonus for `\boxed{}`). Its weight is 0 in the paper."""
    return 1.0 if said.parsed else -1.0


COMPLETION_REWARDS: Mapping[str, Callable[[Clue | CastVote], float]] = {"format": format_reward}
"""Rewards of a single completion beside those of the game, by name; the option `NAME_weight` weighs each."""


def plurality(votes: Sequence[Vote], n_players: int) -> int | None:
    """The seat with the most votes; None for a tie, or if no vote names one. Raises ValueError for no such seat."""
    counts = _votes_by_seat(votes, n_players)
    most = max(counts, default=0)
    return counts.index(most) + 1 if most > 0 and counts.count(most) == 1 else None


def accuracy(games: Sequence[Sequence[Vote]], spies: Sequence[int]) -> float:
    """Share of games whose plurality vote is the spy (paper, stage switch); `games` holds each game's votes.

    Raises ValueError without games, or if `games` and `spies` differ in length.
    """
    if not games:
        raise ValueError("accuracy needs at least one game")
    right = 0
    for votes, spy in zip(games, spies, strict=True):
        highest_seat = max([spy, *(vote for vote in votes if vote is not None)])
        right += plurality(votes, highest_seat) == spy
    return right / len(games)


def na_rate(games: Sequence[Sequence[Vote]]) -> float:
    """Share of all votes, over all games, that are N/A (paper, stage switch).

    Invalid votes are not N/A: they are in the denominator only. Raises ValueError if there is no vote.
    """
    votes = [vote for game in games for vote in game]
    if not votes:
        raise ValueError("na_rate needs at least one vote")
    return votes.count(None) / len(votes)


def _votes_by_seat(votes: Sequence[Vote], n_players: int) -> list[int]:
    """Votes for each seat, index 0 = seat 1. Raises ValueError for a vote outside 0..n_players."""
    counts = Counter(votes)
    for vote in counts:
        if vote is not None and not 0 <= vote <= n_players:
            raise ValueError(f"a vote is None, 0 or a seat in 1..{n_players}, got {vote}")
    return [counts[seat] for seat in range(1, n_players + 1)]
