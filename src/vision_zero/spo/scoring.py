"""Rewards and advantages of all games of an iteration, computed alike on every process."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from vision_zero.spo.advantages import RoleBaselines, clue_advantages
from vision_zero.spo.controls import RewardControl, controlled_rewards
from vision_zero.spo.rewards import accuracy, clue_rewards, decision_reward, na_rate
from vision_zero.types import GameSummary


@dataclass(frozen=True)
class GameScore:
    """Rewards and advantages of one game: clues by seat (index 0 = seat 1), votes in the order of `vote_turns`."""

    clue_rewards: list[float]
    clue_advantages: list[float]
    vote_rewards: list[float]


@dataclass(frozen=True)
class Scores:
    """Scores of an iteration. `accuracy` and `na_rate` are inputs of the stage switch.

    `means`: over games, of rewards and advantages by role, and of votes' rewards, by the names of their metrics.
    """

    by_game: dict[int, GameScore]
    accuracy: float
    na_rate: float
    means: dict[str, float]


def _by_role(what: str, values_by_game: Sequence[Sequence[float]], spies: Sequence[int]) -> dict[str, float]:
    """Means over games: of the spy's value, and of the civilians' mean value."""
    games = list(zip(values_by_game, spies, strict=True))
    return {
        f"{what}/spy": fmean(values[seat - 1] for values, seat in games),
        f"{what}/civilian": fmean((sum(values) - values[seat - 1]) / (len(values) - 1) for values, seat in games),
    }


def score_games(
    games: Sequence[GameSummary],
    *,
    reward_beta: float,
    reward_lambda: float,
    na_reward: float,
    baselines: RoleBaselines,
    move_baselines: bool,
    per: Literal["iteration", "game"] = "iteration",
    subtract: Literal["after", "before"] = "after",
    past: Collection[int] = (),
    control: RewardControl | None = None,
    seed: int = 0,
    iteration: int = 0,
) -> Scores:
    """Score all games of an iteration, given in game order.

    With `move_baselines` (the clue stage) `baselines` move in place; without, the advantages are the same but
    `baselines` stay. Accuracy and N/A rate leave out the games `past`, in which another model has a role, unless these
    are all. A `control` puts other rewards in place of all of them. Raises ValueError without games.
    """
    rewards = [clue_rewards(game.votes, game.spy, game.n_players, reward_beta, reward_lambda) for game in games]
    spies = [game.spy for game in games]
    votes = [[decision_reward(vote, game.spy, na_reward) for vote in game.votes] for game in games]
    if control is not None:
        rewards, votes = controlled_rewards(control, rewards, votes, spies, seed=seed, iteration=iteration)
    moving = baselines if move_baselines else deepcopy(baselines)
    advantages = clue_advantages(rewards, spies, moving, per=per, subtract=subtract)
    own = [game for game in games if game.game not in past] or games
    return Scores(
        by_game={game.game: GameScore(rewards[i], advantages[i], votes[i]) for i, game in enumerate(games)},
        accuracy=accuracy([game.votes for game in own], [game.spy for game in own]),
        na_rate=na_rate([game.votes for game in own]),
        means={
            **_by_role("reward", rewards, spies),
            "reward/vote": fmean(reward for some in votes for reward in some),
            **_by_role("advantage", advantages, spies),
        },
    )
