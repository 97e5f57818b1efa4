"""Options of the game and its images, and what commands have in common. Imports without torch: `--help` is quick."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vision_zero.data.pairs import LazyPairs, load_pairs, source_options
from vision_zero.types import GameRules

Precision = Literal["auto", "float32", "bfloat16", "float16"]


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


def size(text: str) -> tuple[int, int]:
    """(320, 240) of "320x240", for argparse."""
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) >= 16 and int(height) >= 16):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT of at least 16x16, as 320x240, got {text!r}")
    return int(width), int(height)


TYPES: dict[str, Callable[[str], Any]] = {"text": str, "int": int, "float": float, "path": Path, "size": size}
TYPES |= {"positive": at_least(1), "from 0": at_least(0), "from 16": at_least(16)}


def beside(module: str, name: str = "") -> Any:
    """What the YAML file beside a module (its `__file__`) holds that has its name, or another."""
    return yaml.safe_load(Path(module).with_name(f"{name or Path(module).stem}.yaml").read_text("utf-8"))


LONG: dict[str, str] = beside(__file__)  # meanings that do not fit in the line of their option
# Options of every command that opens a source.
READING = {
    "--pair_by": {"type": "text", "metavar": "BEFORE,AFTER", "help": LONG["pair_by"]},
    "--split": {"type": "text", "metavar": "NAME", "help": LONG["split"]},
}


def add_options(
    parser: argparse._ActionsContainer,
    options: Mapping[str, Mapping[str, Any] | None],
    defaults: Mapping[str, Any] | None = None,
    **choices: Iterable[Any],
) -> None:
    """Add options of a YAML file: by name, arguments of `add_argument`, with `type` one of TYPES; none: of READING.

    What has no default there has that of `defaults`, if any, and without a type that of its default. A `…` in a help
    is "default: %(default)s".
    """
    for flag, said in options.items():
        words, name = dict(said or READING[flag]), flag.removeprefix("--")
        words |= {key: tuple(value) for key, value in words.items() if isinstance(value, list)}  # names of two values
        default = words.get("default", (defaults or {}).get(name))
        if "action" not in words:
            first = default[0] if isinstance(default, (list, tuple)) else default
            words["type"] = TYPES[words["type"]] if "type" in words else str if first is None else type(first)
            words |= {"default": list(default) if isinstance(default, tuple) else default, "choices": choices.get(name)}
        parser.add_argument(flag, **words | {"help": words["help"].replace("…", "default: %(default)s")})


@dataclass
class GameConfig:
    """Images and rules."""

    images: list[str] = option_list("Image sources, mixed: folders, manifests, data sets; see docs/data.md")
    scenes_dir: str | None = option(None, "Scene descriptions (NAME_comparison.json) of a folder of edited pairs")
    columns: list[str] = option_list("Column names of a data set: the image and, if there is one, its edited version")
    pair_by: str | None = option(None, LONG["pair_by"])
    split: str | None = option(None, LONG["split"])
    holdout: float = option(0.0, "Share of the pairs kept out of training (the split depends on the pairs alone)")
    failed_edits: float = option(0.0, LONG["failed_edits"])
    on_bad_image: Literal["stop", "skip"] = option("stop", LONG["on_bad_image"])
    min_pixels: int | None = option(None, LONG["min_pixels"])
    max_pixels: int | None = option(None, "Images are reduced to at most this many pixels (paper: 320x240 for CLEVR)")
    civilians: int = option(4, "Civilians n_c, 2 to 8; one spy comes on top (paper: 4; code: 3)")
    rounds: int = option(2, "Clue rounds, 1 to 5 (paper and code: 2)")
    spy_view: Literal["auto", "blank", "edited", "masked"] = option("auto", LONG["spy_view"])
    mask_share: float = option(0.5, "Share of the area hidden with spy_view=masked")
    voter: Literal["observer", "civilian"] = option("observer", LONG["voter"])
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
            self.images, split=part if self.holdout else None, holdout=self.holdout, **source_options(vars(self))
        )
