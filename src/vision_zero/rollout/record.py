"""A finished game as one JSON line: everything needed to read it, score it and train on it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from vision_zero.data.failed_edits import BlankOf
from vision_zero.data.pairs import BadImageError, ImageFile, load_pairs
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import votes_in_order
from vision_zero.rollout.game_images import GameImage, GameImages, open_images
from vision_zero.types import CastVote, Clue, Game, GameRules, ImagePair, ImageSource


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


# -------------------------------------------------------------------------------------------- images of a recorded game

# The images of a recorded game as its players saw them.
#
# A record names its images and holds none: they are opened again where the run had them, by the pair's id in its source
# or, where the source is not at hand, by the file name.


Record = Mapping[str, Any]


def seen_images(
    record: Record, pairs: Mapping[str, ImagePair] | None = None, known: GameImages | None = None
) -> tuple[GameImage, GameImage]:
    """What the civilians and what the spy saw. `pairs`: the run's pairs by id; `known`: images that are open already.

    Raises BadImageError when an image is no longer where it was.
    """
    game = _game(record, (pairs or {}).get(record["pair"]) or _pair_of_files(record))
    images = open_images([game], known)
    return images[game.index, "civilian"], images[game.index, "spy"]


def pairs_of(config: Mapping[str, Any], names: set[str]) -> dict[str, ImagePair]:
    """The pairs called `names` in the image sources of a run's options, by id; those that are not there are left out.

    Raises PairSourceError or OSError for a source that cannot be read any more.
    """
    images: Sequence[str] = config.get("images") or []
    source = load_pairs(list(images), columns=config.get("columns") or None, scenes=config.get("scenes_dir"))
    return {pair.id: pair for pair in source if pair.id in names}


def _pair_of_files(record: Record) -> ImagePair:
    edited = None if record["edited"] is None else ImageFile(Path(record["edited"]))
    return ImagePair(id=record["pair"], image=ImageFile(Path(record["image"])), edited=edited)


def _game(record: Record, pair: ImagePair) -> Game:
    failed = record.get("failed_edit")  # absent in records of earlier versions
    edited: ImageSource | None = pair.edited
    if failed == "blank":
        edited = BlankOf(pair.image)
    elif failed == "identical":
        edited = pair.image
    if record["spy_view"] == "edited" and edited is None:
        raise BadImageError(f"{pair.id}: the edited image that the spy saw is not in the source any more")
    return Game(
        index=record["game"],
        seed=record["seed"],
        pair=replace(pair, edited=edited),
        rules=GameRules(**record["rules"]),
        spy=record["spy"],
        spy_view=record["spy_view"],
    )
