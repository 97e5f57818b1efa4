"""Options of the game and its images, and what commands have in common. Imports without torch: `--help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from vision_zero.data.pairs import PAIR_BY_HELP, SPLIT_HELP, LazyPairs, load_pairs, source_options
from vision_zero.types import GameRules


def option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def option_list(help: str) -> Any:
    return field(default_factory=list, metadata={"help": help, "nargs": "*"})


def at_least(least: int) -> Callable[[str], int]:
    """Type of an argument that is a whole number of at least `least`."""

    def whole_number(text: str) -> int:
        if not text.lstrip("-").isdecimal():
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return whole_number


positive = at_least(1)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Options of every command that opens a source."""
    parser.add_argument("--pair_by", metavar="BEFORE,AFTER", help=PAIR_BY_HELP)
    parser.add_argument("--split", metavar="NAME", help=SPLIT_HELP)


@dataclass
class GameConfig:
    """Images and rules."""

    images: list[str] = option_list("Image sources, mixed: folders, manifests, data sets; see docs/data.md")
    scenes_dir: str | None = option(None, "Scene descriptions (NAME_comparison.json) of a folder of edited pairs")
    columns: list[str] = option_list("Column names of a data set: the image and, if there is one, its edited version")
    pair_by: str | None = option(None, PAIR_BY_HELP)
    split: str | None = option(None, SPLIT_HELP)
    holdout: float = option(0.0, "Share of the pairs kept out of training (the split depends on the pairs alone)")
    failed_edits: float = option(
        0.0,
        "Noise: this share of the edited images fails, half of them blank, half identical to the original (which ones "
        "depends on the pairs' ids alone)",
    )
    on_bad_image: Literal["stop", "skip"] = option(
        "stop", "A broken image stops the run after a checkpoint, or the game takes the next pair (counted and said)"
    )
    min_pixels: int | None = option(
        None, "Images are enlarged to at least this many pixels (model families that resize)"
    )
    max_pixels: int | None = option(None, "Images are reduced to at most this many pixels (paper: 320x240 for CLEVR)")
    civilians: int = option(4, "Civilians n_c, 2 to 8; one spy comes on top (paper: 4; code: 3)")
    rounds: int = option(2, "Clue rounds, 1 to 5 (paper and code: 2)")
    spy_view: Literal["auto", "blank", "edited", "masked"] = option(
        "auto", "What the spy sees: blank (paper v2), edited (paper v1, code), masked; auto: edited where there is one"
    )
    mask_share: float = option(0.5, "Share of the area hidden with spy_view=masked")
    voter: Literal["observer", "civilian"] = option(
        "observer",
        "One neutral prompt per game (code, paper's appendix) or every civilian from its seat (paper's text)",
    )
    template: str = option("auto", "Wording: auto (the pair's domain), a file of game/templates by its name, or a file")

    def rules(self, n_votes: int) -> GameRules:
        return GameRules(
            n_civilians=self.civilians,
            n_rounds=self.rounds,
            spy_view=self.spy_view,
            voter=self.voter,
            n_votes=n_votes,
            mask_share=self.mask_share,
        )

    def pairs(self, part: Literal["train", "heldout"]) -> LazyPairs:
        """The pairs of a part; without `holdout`, all of them either way. Raises PairSourceError."""
        return load_pairs(
            self.images,
            split=part if self.holdout else None,
            holdout=self.holdout,
            **source_options(vars(self)),
        )
