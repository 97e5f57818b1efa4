"""Civilians of every model with voters of every model, against the frozen start as the spy, all on the same deals.

With T(i, j) the share of games in which civilians of i and voters of j find the spy:

    convention   mean of T(i, i) - mean of T(i, j), i != j    what players gain with their own training's voters alone
    skill        mean of T(i, j), i != j - T(start, start)    what they gain with the voters of another training

Intervals resample image pairs: other pictures, these models. `over_models` has those of other models on these deals.
"""

import gc
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from vision_zero.evaluate.bootstrap import Interval, students_t
from vision_zero.evaluate.win_rate.arena import Arena, GameOutcome, Matchup, OutcomesByMatchup
from vision_zero.evaluate.win_rate.match import CachedPolicy
from vision_zero.evaluate.win_rate.metrics import FROZEN, START, Figures, by_pair

if TYPE_CHECKING:
    from vision_zero.rollout.load_policy import ModelPlayer


def play_every_pair(
    arena: Arena, models: Sequence[str], load: Callable[[str], "ModelPlayer"], on_call: Callable[[int], None]
) -> tuple[dict[Matchup, list[GameOutcome]], dict[str, CachedPolicy]]:
    """Outcomes of all civilians and voters among START and `models`, and the players with what each has said.

    Two models are in memory at a time, START and another. A model is first loaded to give its clues, once, and to vote
    on these and on those of the models before it. All but the last are then loaded again, to vote on the others' clues.
    """
    names = (START, *models)
    players = {name: CachedPolicy(None) for name in names}
    loaded: dict[str, ModelPlayer] = {}

    def forget() -> None:
        for model in loaded.values():
            model.forget()

    results: dict[Matchup, list[GameOutcome]] = {}
    asked = [(voter, names[: number + 1]) for number, voter in enumerate(names)]
    asked += [(voter, names[number + 1 :]) for number, voter in enumerate(models[:-1], start=1)]
    for voter, civilians in asked:
        matchups = [Matchup(one, START, voter) for one in civilians]
        if voter in civilians:
            matchups.append(Matchup(voter, START, START))
        players[voter].policy = loaded[voter] = load(voter)
        forget()
        results |= arena.play(matchups, players, on_call=on_call, after_chunk=forget)
        if voter != START:
            players[voter].policy = None
            del loaded[voter]
            gc.collect()  # a model is held by circles of its own
    return results, players


def cross_play_figures(results: OutcomesByMatchup, models: Sequence[str]) -> Figures:
    mean, gain = by_pair(results[FROZEN])
    wins = {matchup: [float(one.table_won) for one in outcomes] for matchup, outcomes in results.items()}

    def mean_of(pairs: Iterable[tuple[str, str]]) -> list[float]:
        """Mean over pairs of civilians and voters, by deal."""
        return [fmean(won) for won in zip(*(wins[Matchup(i, START, j)] for i, j in pairs), strict=True)]

    own, others, start = mean_of(zip(models, models, strict=True)), mean_of(permutations(models, 2)), wins[FROZEN]
    means = {"own_voters": mean(own), "other_voters": mean(others), "start": mean(start)}
    return {"convention": gain(own, others), "skill": gain(others, start), **means}


def share_found(results: OutcomesByMatchup, models: Sequence[str]) -> list[list[Interval]]:
    """T by civilians (rows) and voters (columns), the start first."""
    mean, _ = by_pair(results[FROZEN])
    names = (START, *models)
    return [[mean([float(one.table_won) for one in results[Matchup(i, START, j)]]) for j in names] for i in names]


def over_models(found: Sequence[Sequence[Interval]]) -> Figures:
    """Convention and skill with intervals over models, {} for two models: the jackknife, with Student's t.

    Each model is left out in turn with its row and column, since the entries of one model are not independent. Two of
    its n - 1 degrees of freedom make an interval that is 3% short (`students_t`).
    """

    def figures(matrix: np.ndarray) -> np.ndarray:
        block, n = matrix[1:, 1:], len(matrix) - 1
        own = np.trace(block) / n
        others = (block.sum() - np.trace(block)) / (n * (n - 1))
        return np.array([own - others, others - matrix[0, 0]])

    matrix = np.array([[interval.value for interval in row] for row in found])
    n = len(matrix) - 1
    if n < 3:
        return {}
    without = np.array([figures(np.delete(np.delete(matrix, one, 0), one, 1)) for one in range(1, n + 1)])
    half = students_t(n - 1) * np.sqrt((n - 1) ** 2 / n * without.var(axis=0, ddof=1))
    return {
        name: Interval(value, value - wide, value + wide)
        for name, value, wide in zip(("convention", "skill"), figures(matrix).tolist(), half.tolist(), strict=True)
    }
