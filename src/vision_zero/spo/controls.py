"""Rewards without meaning (docs/method.md), for a run that shows what training does by itself.

shuffled   in a random order, over all games: spies' rewards, civilians' and votes', each among themselves
constant   1 for everybody
random     by a fair coin, +1 or -1 for a vote; of a role's clues + or - the root mean square of its rewards
"""

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

RewardControl = Literal["shuffled", "constant", "random"]
Rewards = list[list[float]]


def controlled_rewards(
    control: RewardControl, clues: Rewards, votes: Rewards, spies: Sequence[int], *, seed: int, iteration: int
) -> tuple[Rewards, Rewards]:
    """Rewards in place of `clues`, by game and seat, and `votes`, by game; drawn for (seed, iteration) alone."""
    rng = random.Random(f"vision-zero/reward-control/{seed}/{iteration}")
    clues, votes = [[*rewards] for rewards in clues], [[*rewards] for rewards in votes]
    of_spies = [(game, spy - 1) for game, spy in enumerate(spies)]
    of_civilians = [place for place in _places(clues) if place not in set(of_spies)]
    for table, places in ((clues, of_spies), (clues, of_civilians), (votes, _places(votes))):
        true = [table[game][number] for game, number in places]
        size = 1.0 if table is votes else fmean(reward**2 for reward in true) ** 0.5
        if control == "shuffled":
            drawn = rng.sample(true, len(true))
        else:
            drawn = [1.0 if control == "constant" else rng.choice((size, -size)) for _ in true]
        for (game, number), reward in zip(places, drawn, strict=True):
            table[game][number] = reward
    return clues, votes


def _places(table: Rewards) -> list[tuple[int, int]]:
    return [(game, number) for game, rewards in enumerate(table) for number in range(len(rewards))]
