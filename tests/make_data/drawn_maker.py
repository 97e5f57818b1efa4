"""A small real maker of drawn scenes: what the frame of `vision_zero.make_data` is tested with.

    python -m tests.make_data.drawn_maker drawn --out DIR --n 6

Its options make it reject, give up, fail, wait, or be killed at one pair.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.drawn_files import changed_objects
from vision_zero.data.drawn_scenes import comparison, draw, edit_scene, sample_scene
from vision_zero.make_data import __main__ as make_data
from vision_zero.make_data.maker import EditedPair, Make, Maker, MakerError, Rejected
from vision_zero.types import Domain


@dataclass(frozen=True)
class DrawnMaker(Maker):
    size: int
    trouble: str
    at: int
    seconds: float
    closed: Path | None
    domain: Domain = "scenes"
    name: str = "drawn"
    max_attempts: int = 8
    default_n: int = 3

    @contextmanager
    def open(self) -> Iterator[Make]:
        if self.trouble == "closed door":
            raise MakerError("no renderer here; install one")
        try:
            yield self.make
        finally:
            if self.closed is not None:
                (self.closed / f"closed-{os.getpid()}").touch()

    def summary(self) -> Mapping[str, Any]:
        return {"objects": "4 to 6"}

    def make(self, rng: random.Random, number: int) -> EditedPair:
        time.sleep(self.seconds)
        scene = sample_scene(rng)
        if len(scene.objects) == 3 or (self.trouble == "reject" and number == self.at):
            raise Rejected("three objects")
        edited = edit_scene(scene, rng)
        meta: dict[str, Any] = {"changed": changed_objects(scene, edited), "threads": os.environ["OMP_NUM_THREADS"]}
        if number == self.at:
            if self.trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble == "exit":
                os._exit(3)
            if self.trouble == "fail":
                raise EOFError("a mistake of the maker")
            if self.trouble == "nan":
                meta["share"] = float("nan")
        documents = {"scenes/comparison": comparison(scene, edited, self.size)}
        if number == self.at and self.trouble == "document":
            documents = {"../outside": {}}
        grey = number == self.at and self.trouble == "grey"
        original = draw(scene, self.size)
        return EditedPair(original.convert("L") if grey else original, draw(edited, self.size), meta, documents)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trouble", default="none")
    parser.add_argument("--at", type=int, default=-1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--closed", type=Path)


def from_arguments(args: argparse.Namespace) -> Maker:
    return DrawnMaker(56 if args.size is None else args.size[0], args.trouble, args.at, args.seconds, args.closed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(make_data.main(domains={"drawn": "tests.make_data.drawn_maker"}))
