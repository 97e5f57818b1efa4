"""Record of a finished game: one JSON line, enough to read it, to score it and to train on it again.

A record names its images and holds none. They are opened again where the run had them: by the pair's id in its source
or, without the source, by the file name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from vision_zero.data.failed_edits import with_failed_edit
from vision_zero.data.pairs import BadImageError, ImageFile, load_pairs, source_options
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import votes_in_order
from vision_zero.rollout.game_images import GameImage, GameImages, open_images
from vision_zero.types import CastVote, Clue, Game, GameRules, ImagePair

Record = Mapping[str, Any]


def game_when(game: Game, said: Clue | CastVote) -> Game:
    """The game before the turn `said`, so that the prompt of that turn can be rendered again."""
    if isinstance(said, CastVote):
        return replace(game, votes=())
    return replace(game, clues=tuple(takewhile(lambda clue: clue.turn != said.turn, game.clues)), votes=())


def _turn_record(game: Game, said: Clue | CastVote, template: str) -> dict[str, Any]:
    completion = said.completion
    return {
        **{key: value for key, value in asdict(said.turn).items() if key != "game"},
        "prompt": render(game_when(game, said), said.turn, template).text,
        "completion": completion.text,
        "token_ids": list(completion.token_ids),
        "logprobs": list(completion.logprobs),
        "seconds": completion.seconds,
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
    past: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Record of `game`, played at `step` in `stage`; rewards of clues by seat, of votes in `vote_turns` order."""
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
            {**_turn_record(game, clue, template), "clue": clue.text, "parsed": clue.parsed} for clue in game.clues
        ],
        "votes": [
            {**_turn_record(game, cast, template), "vote": cast.vote, "reward": reward}
            for cast, reward in zip(game.votes, vote_rewards, strict=True)
        ],
        "outcome": votes_in_order(game),
        "clue_rewards": list(clue_rewards),
        "clue_advantages": list(clue_advantages),
        "past": past,
    }


def seen_images(
    record: Record, pairs: Mapping[str, ImagePair] | None = None, known: GameImages | None = None
) -> tuple[GameImage, GameImage]:
    """The civilians' and the spy's image, of `pairs` by id; `known` are open. Raises BadImageError if one is gone."""
    pair = (pairs or {}).get(record["pair"])
    if pair is None:
        edited = None if record["edited"] is None else ImageFile(Path(record["edited"]))
        pair = ImagePair(id=record["pair"], image=ImageFile(Path(record["image"])), edited=edited)
    pair = with_failed_edit(pair, record.get("failed_edit"))  # absent in records of earlier versions
    if record["spy_view"] == "edited" and pair.edited is None:
        raise BadImageError(f"{pair.id}: the edited image that the spy saw is not in the source any more")
    rules = GameRules(**record["rules"])
    game = Game(record["game"], record["seed"], pair, rules, record["spy"], record["spy_view"])
    images = open_images([game], known)
    return images[game.index, "civilian"], images[game.index, "spy"]


def pairs_of(config: Mapping[str, Any], names: set[str]) -> dict[str, ImagePair]:
    """Pairs of a run's sources by id, of those in `names`. Raises PairSourceError or OSError for a lost source."""
    images: Sequence[str] = config.get("images") or []
    source = load_pairs(list(images), **source_options(config))
    return {pair.id: pair for pair in source if pair.id in names}
