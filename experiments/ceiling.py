"""Votes on the clues of a model's games with itself: the model's own, and those of one who knows the civilians' scene.

One who knows the scene suspects whoever said most often what it does not show: one of them at random if there are
several, and any player if all clues are true. It is a reference, not a bound: who copies, and in which words, is
information too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from questions import policy_of
from tiny_vlm.measuring import played, share_right
from tiny_vlm.scripted import false_claims
from vision_zero.data.pairs import load_pairs
from vision_zero.rollout.sampling import Sampling
from vision_zero.types import Game, GameRules

DRAWN = "drawn:400@heldout"
SAMPLING = Sampling(0.8, top_k=0)
"""As `base.yaml` plays."""


def votes(model: Path) -> Mapping[str, Sequence[float]]:
    """By game: the share of votes for the spy, and the chance of one who knows. `model`: a model or a checkpoint."""
    with policy_of(model, SAMPLING) as policy:
        games = played(policy, load_pairs(DRAWN), GameRules(), seed=0)
    return {
        "the model's votes": [share_right(game) for game in games],
        "the votes of one who knows the scene": [chance_of_one_who_knows(game) for game in games],
    }


def chance_of_one_who_knows(game: Game) -> float:
    false = {seat: len(said) for seat, said in false_claims(game).items()}
    suspects = [seat for seat, count in false.items() if count == max(false.values())]
    return (game.spy in suspects) / len(suspects)
