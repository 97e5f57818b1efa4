"""A finished game as one JSON line: everything needed to read it, score it and train on it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from typing import Any

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import votes_in_order
from vision_zero.types import CastVote, Clue, Game


def game_when(game: Game, said: Clue | CastVote) -> Game:
    """The game as it stood when `said` was asked for, so that its prompt can be rendered again."""
    if isinstance(said, CastVote):
        return replace(game, votes=())
    return replace(game, clues=tuple(takewhile(lambda clue: clue.turn != said.turn, game.clues)), votes=())


def _turn_record(game: Game, said: Clue | CastVote, template: str) -> dict[str, Any]:
    reply = said.reply
    return {
        **{key: value for key, value in asdict(said.turn).items() if key != "game"},
        "prompt": render(game_when(game, said), said.turn, template).text,
        "reply": reply.text,
        "token_ids": list(reply.token_ids),
        "logprobs": list(reply.logprobs),
        "seconds": reply.seconds,
    }


def game_record(
    game: Game,
    *,
    step: int,
    stage: str,
    template: str,
    clue_rewards: Sequence[float],
    clue_advantages: Sequence[float],
    vote_rewards: Sequence[float],
) -> dict[str, Any]:
    """`game`, played at `step` in `stage`, with its rewards: by seat for clues, in `vote_turns` order for votes.

    Images are named, not copied: `image` and `edited` say where the pair's source has them.
    """
    return {
        "step": step,
        "stage": stage,
        "game": game.index,
        "seed": game.seed,
        "pair": game.pair.id,
        "domain": game.pair.domain,
        "image": game.pair.image.name,
        "edited": game.pair.edited.name if game.pair.edited is not None else None,
        "failed_edit": game.pair.failed_edit,
        "spy": game.spy,
        "spy_view": game.spy_view,
        "rules": asdict(game.rules),
        "clues": [
            {**_turn_record(game, clue, template), "clue": clue.text, "readable": clue.readable} for clue in game.clues
        ],
        "votes": [
            {**_turn_record(game, cast, template), "vote": cast.vote, "reward": reward}
            for cast, reward in zip(game.votes, vote_rewards, strict=True)
        ],
        "outcome": votes_in_order(game),
        "clue_rewards": list(clue_rewards),
        "clue_advantages": list(clue_advantages),
    }
