"""The images of a recorded game as its players saw them.

A record names its images and holds none: they are opened again where the run had them, by the pair's id in its source
or, where the source is not at hand, by the file name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision_zero.data.failed_edits import BlankOf
from vision_zero.data.pairs import BadImageError, ImageFile, load_pairs
from vision_zero.rollout.policy import GameImage, GameImages, open_images
from vision_zero.types import Game, GameRules, ImagePair, ImageSource

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
