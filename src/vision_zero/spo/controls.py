"""Rewards without meaning, for a run that shows what training does by itself. The votes themselves stay as they are.

shuffled   the iteration's rewards in a random order: those of the votes among all votes, those of the spies among
           all spies, those of the civilians among all civilians, whatever their game. Each of the three keeps its
           mean and spread, so baselines move as they would; a game's rewards no longer sum to 0
constant   1 for everybody. Votes of a game are equal then: their advantages are exactly 0. A clue's is 1 minus its
           role's baseline, which comes from 0: alpha^t after t moves, so that whatever was said gets likelier
random     +1 or -1 by a fair coin for a vote, and for a clue giver + or - the root mean square of its role's
           rewards in the iteration
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

RewardControl = Literal["shuffled", "constant", "random"]
Rewards = list[list[float]]
"""By game: of players by seat (index 0 = seat 1), or of votes."""


def controlled_rewards(
    control: RewardControl, clues: Rewards, votes: Rewards, spies: Sequence[int], *, seed: int, iteration: int
) -> tuple[Rewards, Rewards]:
    """Rewards in place of `clues` and `votes`, those of all games in game order; drawn for (seed, iteration) alone."""
    rng = random.Random(f"vision-zero/reward-control/{seed}/{iteration}")
    clues, votes = [[*rewards] for rewards in clues], [[*rewards] for rewards in votes]
    seats = [(game, seat) for game, rewards in enumerate(clues) for seat in range(len(rewards))]
    of_spies = [(game, spy - 1) for game, spy in enumerate(spies)]
    of_civilians = [place for place in seats if place not in set(of_spies)]
    of_votes = [(game, number) for game, rewards in enumerate(votes) for number in range(len(rewards))]
    for table, places in ((clues, of_spies), (clues, of_civilians), (votes, of_votes)):
        true = [table[game][number] for game, number in places]
        if control == "shuffled":
            drawn = rng.sample(true, len(true))
        elif control == "constant":
            drawn = [1.0] * len(true)
        else:
            size = 1.0 if table is votes else math.sqrt(fmean(reward**2 for reward in true))
            drawn = [rng.choice((size, -size)) for _ in true]
        for (game, number), reward in zip(places, drawn, strict=True):
            table[game][number] = reward
    return clues, votes
