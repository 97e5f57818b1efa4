"""A finished game as one JSON line: everything needed to read it, score it and train on it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import votes_in_order
from vision_zero.types import CastVote, Clue, Game


def prompt_of(game: Game, said: Clue | CastVote, template: str) -> str:
    """The text of the prompt that `said` answered, from the game as it stood then."""
    before = game if isinstance(said, CastVote) else replace(game, clues=game.clues[: game.clues.index(said)])
    return render(before, said.turn, template).text


def _turn_record(game: Game, said: Clue | CastVote, template: str) -> dict[str, Any]:
    reply = said.reply
    return {
        **{key: value for key, value in asdict(said.turn).items() if key != "game"},
        "prompt": prompt_of(game, said, template),
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
