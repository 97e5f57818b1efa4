"""Advantages: group normalization (decision stage) and role advantage estimation (clue stage).

Paper: Vision-Zero, arXiv 2509.25541. Its role advantage estimation (RAE) is that of SPIRAL, arXiv 2506.24119.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal


def group_normalize(rewards: Sequence[float], eps: float = 1e-4) -> list[float]:
    """`(r_i - mean) / (std + eps)` over one group, with the sample standard deviation (paper, decision stage).

    The same numbers as TRL's `scale_rewards="group"`. Equal rewards, and a group of one, give exactly 0.
    Raises ValueError for an empty group, a reward that is not finite, or an `eps` that is not positive.
    """
    if not rewards:
        raise ValueError("a group needs at least one reward")
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards must be finite, got {list(rewards)}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = fmean(rewards)
    variance = math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    return [(reward - mean) / (math.sqrt(variance) + eps) for reward in rewards]


class RoleBaselines:
    """Moving baseline of each role, starting at 0 (paper, RAE): `b <- alpha b + (1 - alpha) r`.

    With `alpha` 1 both stay 0: training without RAE. Raises ValueError for an `alpha` outside 0..1.
    """

    def __init__(self, alpha: float = 0.95) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha (decay of the role baselines) must be in 0..1, got {alpha}")
        self.alpha = alpha
        self.spy = 0.0
        self.civilian = 0.0

    def update(self, spy_mean: float, civilian_mean: float) -> None:
        """Move both baselines. Raises ValueError for a mean that is not finite, and moves neither."""
        if not (math.isfinite(spy_mean) and math.isfinite(civilian_mean)):
            raise ValueError(f"mean rewards must be finite, got spy {spy_mean}, civilians {civilian_mean}")
        self.spy = self.alpha * self.spy + (1 - self.alpha) * spy_mean
        self.civilian = self.alpha * self.civilian + (1 - self.alpha) * civilian_mean

    def state_dict(self) -> dict[str, float]:
        return {"spy": self.spy, "civilian": self.civilian}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.spy = state["spy"]
        self.civilian = state["civilian"]


def clue_advantages(
    rewards_by_game: Sequence[Sequence[float]],
    spies: Sequence[int],
    baselines: RoleBaselines,
    *,
    per: Literal["iteration", "game"] = "iteration",
    subtract: Literal["after", "before"] = "after",
) -> list[list[float]]:
    """Advantages `A_s = r_s - b_s`, `A_j = r_j - b_c` of every player of every game (paper, RAE). Moves `baselines`.

    `rewards_by_game` are those of all processes in game order, of each game by seat (index 0 = seat 1), as is what is
    returned; `spies` are seats counted from 1. A player's advantage is the same for its clues of all rounds. The
    baselines move once `per` iteration, by the means over all games, or per game in game order (the public code: per
    micro-batch), each game with its own move. They are subtracted as they are "after" the move (paper) or "before" it,
    when they do not yet depend on the rewards.

    Raises ValueError, before anything moves, without games, for lengths that differ, a game of fewer than two
    players, a spy that is no seat, a reward that is not finite, or an unknown option.
    """
    if per not in ("iteration", "game"):
        raise ValueError(f'per must be "iteration" or "game", got {per!r}')
    if subtract not in ("after", "before"):
        raise ValueError(f'subtract must be "after" or "before", got {subtract!r}')
    if not rewards_by_game:
        raise ValueError("clue advantages need at least one game")
    games = list(zip(rewards_by_game, spies, strict=True))
    for rewards, spy in games:
        if len(rewards) < 2 or not 1 <= spy <= len(rewards):
            raise ValueError(f"a game needs 2 players or more and a spy among them, got {len(rewards)} and spy {spy}")
        if not all(math.isfinite(reward) for reward in rewards):
            raise ValueError(f"rewards must be finite, got {list(rewards)}")

    advantages: list[list[float]] = []
    batches = [games] if per == "iteration" else [[game] for game in games]
    for batch in batches:
        spy_mean = fmean(rewards[spy - 1] for rewards, spy in batch)
        civilian_mean = fmean(fmean((*rewards[: spy - 1], *rewards[spy:])) for rewards, spy in batch)
        spy_baseline, civilian_baseline = baselines.spy, baselines.civilian
        baselines.update(spy_mean, civilian_mean)
        if subtract == "after":
            spy_baseline, civilian_baseline = baselines.spy, baselines.civilian
        advantages += [
            [
                reward - (spy_baseline if seat == spy else civilian_baseline)
                for seat, reward in enumerate(rewards, start=1)
            ]
            for rewards, spy in batch
        ]
    return advantages
