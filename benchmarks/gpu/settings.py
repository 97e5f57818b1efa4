"""Options that all checks have in common, on the command line and as one object. No torch."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Settings:
    games: int = 16
    players: int = 5
    rounds: int = 2
    votes: int = 8
    clue_tokens: int = 32
    vote_tokens: int = 128
    width: int = 320
    height: int = 240
    micro_batch: int = 4
    rank: int = 32

    HELP = {  # noqa: RUF012  (no field)
        "games": "games per step (paper: 128 over 8 GPUs)",
        "players": "with the spy",
        "rounds": "clue rounds",
        "votes": "votes per game, G",
        "clue_tokens": "sampled tokens of every clue, exactly (training allows up to 512)",
        "vote_tokens": "sampled tokens of every vote, exactly (training allows up to 512)",
        "width": "of the images, pixels",
        "height": "of the images, pixels",
        "micro_batch": "rows per forward and backward, as in run_scripts/",
        "rank": "of the LoRA adapters, as in run_scripts/run_lora_1gpu.sh",
    }

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        for one in fields(cls):
            name = "--" + one.name.replace("_", "-")
            parser.add_argument(name, type=int, default=one.default, help=cls.HELP[one.name])

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})

    def flags(self) -> list[str]:
        return [part for name, value in asdict(self).items() for part in ("--" + name.replace("_", "-"), str(value))]

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def line(self) -> dict[str, Any]:
        return asdict(self)
