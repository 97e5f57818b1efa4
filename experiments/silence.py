"""Votes of a model on players who claim nothing: `python experiments/silence.py [MODEL]`, about a minute.

Scripted players name an object that they see, or say "1"; the voters are the model's. A clue without a claim cannot be
false, so a voter that looks for what is false never suspects it: this is what the clue stage alone finds.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from ceiling import SAMPLING
from questions import policy_of
from study import ROOT
from tiny_vlm.games import TOKEN_LIMITS
from tiny_vlm.measuring import share_right
from tiny_vlm.scripted import NamingPlayer, clue_completion
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.bootstrap import Interval
from vision_zero.game.spy_game import deal_games
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.types import Completion, GameRules

DRAWN = "drawn:100@heldout"


class SilentPlayer(NamingPlayer):
    """Claims nothing."""

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        return clue_completion("1")


TABLES: dict[str, tuple[Policy, Policy]] = {
    "everybody names an object": (NamingPlayer(), NamingPlayer()),
    "the civilians claim nothing": (SilentPlayer(), NamingPlayer()),
    "the spy claims nothing": (NamingPlayer(), SilentPlayer()),
    "nobody claims anything": (SilentPlayer(), SilentPlayer()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python experiments/silence.py", description="Votes on players who are silent."
    )
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "data" / "tiny_vlm", help="voters (tiny_vlm)")
    games = deal_games(range(100), 0, load_pairs(DRAWN), GameRules())
    with policy_of(parser.parse_args(arguments).model, SAMPLING) as voters:
        for name, (civilian, spy) in TABLES.items():
            played = play(games, Seating(civilian, spy, voters), TOKEN_LIMITS, template="compact").games
            print(f"{name:<30} votes for the spy {Interval.of([share_right(game) for game in played])}")


if __name__ == "__main__":
    main()
