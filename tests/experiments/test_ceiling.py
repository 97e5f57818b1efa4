"""One who knows the scene, on clues that are chosen by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ceiling import chance_of_one_who_knows
from tests.tiny_games import play_out
from vision_zero.data.drawn_scenes import drawn_pair
from vision_zero.evaluate.clues.grounding import COLOURS, SHAPES, civilian_objects
from vision_zero.game.spy_game import deal
from vision_zero.types import Game, GameRules

PAIR = drawn_pair(0)
TRUE = civilian_objects(PAIR)[0]
FALSE = next(name for c in COLOURS for s in SHAPES if (name := f"{c} {s}") not in civilian_objects(PAIR))


def game_of(spy: int, by_seat: Sequence[str]) -> Game:
    """Three players who say the same in both rounds."""
    game = replace(deal(0, 0, PAIR, GameRules(n_civilians=2, n_rounds=2, n_votes=2)), spy=spy)
    return play_out(game, lambda turn: f"\\boxed{{{by_seat[turn.seat - 1]}}}" if turn.seat else "\\boxed{N/A}")


@pytest.mark.parametrize(
    ("spy", "by_seat", "chance"),
    [
        (1, (FALSE, TRUE, TRUE), 1.0),  # the spy alone said something false
        (2, (FALSE, TRUE, TRUE), 0.0),  # a civilian alone did
        (1, (FALSE, FALSE, TRUE), 1 / 2),  # one of two
        (1, (f"{FALSE} {FALSE}", FALSE, TRUE), 1.0),  # more often than another
        (3, (TRUE, TRUE, TRUE), 1 / 3),  # nobody did
    ],
)
def test_one_who_knows_suspects_who_said_most_that_is_false(spy: int, by_seat: Sequence[str], chance: float) -> None:
    assert chance_of_one_who_knows(game_of(spy, by_seat)) == pytest.approx(chance)
