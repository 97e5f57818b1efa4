"""The maker of CLEVR pairs: a scene by CLEVR's rules, an edit in place, both drawn by either renderer.

python -m vision_zero.make_data clevr --out my/scenes --n 2000
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_zero.make_data.clevr import render_numpy
from vision_zero.make_data.clevr.ray_tracing import object_mask, pixels_of_objects
from vision_zero.make_data.clevr.render_blender import BLENDER_PYTHON, BlenderOptions, open_blender
from vision_zero.make_data.clevr.scene_json import comparison_json, scene_json
from vision_zero.make_data.clevr.scenes import ATTRIBUTES, Scene, SceneRules, edit_scene, sample_scene
from vision_zero.make_data.maker import MadePair, Make, MakingError, Rejected
from vision_zero.types import Domain

Render = Callable[[Scene, tuple[int, int]], Image.Image]
Renderer = Literal["numpy", "blender"]

SIZE = (320, 240)
MOST_PIXELS = 4096
RENDERERS: tuple[Renderer, ...] = ("numpy", "blender")


@dataclass(frozen=True)
class ClevrMaker:
    """Options of CLEVR pairs. Raises MakingError for ones that do not fit together."""

    size: tuple[int, int] = SIZE
    rules: SceneRules = field(default_factory=SceneRules)
    n_edited: int = 2
    attributes: tuple[str, ...] = ("colour", "shape")
    """What of an edited object changes, each to another value."""
    min_pixels: int = 200
    """Of every object, in both images, in an image of 320 x 240; in other sizes in proportion (CLEVR: 200)."""
    edit_share: tuple[float, float] = (0.0, 1.0)
    """The size of the edit: least and largest share of the pixels that show an edited object in either image."""
    renderer: Renderer = "numpy"
    blender: BlenderOptions = field(default_factory=BlenderOptions)
    domain: Domain = "scenes"
    name: str = "clevr"
    max_attempts: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.n_edited <= self.rules.min_objects:
            raise MakingError(
                f"--edited {self.n_edited}: must be from 1 to the least number of objects, {self.rules.min_objects}"
            )
        unknown = [name for name in self.attributes if name not in ATTRIBUTES]
        if unknown or not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise MakingError(f"--attributes {self.attributes}: some of {', '.join(ATTRIBUTES)}, each once")
        if max(self.size) > MOST_PIXELS:
            raise MakingError(f"--size {self.size[0]}x{self.size[1]}: at most {MOST_PIXELS} pixels wide and high")
        if self.min_pixels < 1:
            raise MakingError(f"--min_pixels {self.min_pixels}: must be at least 1, or objects would not be seen")
        if not 0 <= self.edit_share[0] < self.edit_share[1] <= 1:
            raise MakingError(f"--edit_share {self.edit_share}: two shares from 0 to 1, the smaller first")

    @property
    def least_pixels(self) -> float:
        """`min_pixels` in an image of this size."""
        return self.min_pixels * self.size[0] * self.size[1] / (SIZE[0] * SIZE[1])

    @contextmanager
    def open(self) -> Iterator[Make]:
        """Makes pairs; with Blender, from one process of it. Raises BlenderError if it does not start."""
        if self.renderer == "numpy":
            yield lambda rng, number: self._make(render_numpy.render, rng, number)
            return
        with open_blender(self.blender) as blender:
            yield lambda rng, number: self._make(blender.render, rng, number)

    def _make(self, render: Render, rng: random.Random, number: int) -> MadePair:
        scene = sample_scene(rng, self.rules)
        edited, changed = edit_scene(scene, rng, self.rules, self.n_edited, self.attributes)
        masks = [object_mask(one, self.size) for one in (scene, edited)]
        for which, mask in zip(("original", "edited"), masks, strict=True):
            if min(pixels_of_objects(mask, len(scene.objects))) < self.least_pixels:
                raise Rejected(f"an object is hidden in the {which} scene")
        self._check_share(masks, changed)
        documents = [
            scene_json(
                one,
                self.size,
                f"{self.name}_{number:06d}_{part}.png",
                number,
                pixels_of_objects(mask, len(one.objects)),
            )
            for one, mask, part in zip((scene, edited), masks, ("original", "modified"), strict=True)
        ]
        comparison = comparison_json(*documents)
        return MadePair(
            render(scene, self.size), render(edited, self.size), comparison, {"scenes/comparison": comparison}
        )

    def _check_share(self, masks: Sequence[NDArray[np.int8]], changed: Sequence[int]) -> None:
        shown = np.isin(masks[0], changed) | np.isin(masks[1], changed)
        least, most = self.edit_share
        if shown.mean() < least:
            raise Rejected("the edit is too small")
        if shown.mean() > most:
            raise Rejected("the edit is too large")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of CLEVR pairs."""
    rules = SceneRules()
    add = parser.add_argument
    add(
        "--objects",
        nargs=2,
        type=int,
        default=[rules.min_objects, rules.max_objects],
        metavar=("MIN", "MAX"),
        help="objects of a scene (default: %(default)s, the paper's)",
    )
    add(
        "--edited",
        type=int,
        default=ClevrMaker.n_edited,
        help="objects that change (default: %(default)s, the paper's)",
    )
    add(
        "--attributes",
        nargs="+",
        choices=list(ATTRIBUTES),
        default=list(ClevrMaker.attributes),
        help="what of them changes (default: colour and shape, the paper's)",
    )
    add(
        "--edit_share",
        nargs=2,
        type=float,
        default=list(ClevrMaker.edit_share),
        metavar=("MIN", "MAX"),
        help="share of the pixels that show a changed object in either image (default: %(default)s)",
    )
    add(
        "--min_pixels",
        type=int,
        default=ClevrMaker.min_pixels,
        help="pixels of every object that are seen, of 320x240 (default: %(default)s, CLEVR's)",
    )
    add("--gap", type=float, default=rules.gap, help="least room between two objects (default: %(default)s, CLEVR's)")
    add(
        "--margin",
        type=float,
        default=rules.margin,
        help="least distance along left-right and front-behind (default: %(default)s, CLEVR's)",
    )
    add(
        "--camera_jitter",
        type=float,
        default=rules.camera_jitter,
        help="most that the camera moves along each axis (default: %(default)s, CLEVR's)",
    )
    add(
        "--lamp_jitter",
        type=float,
        default=rules.lamp_jitter,
        help="most that each lamp moves along each axis (default: %(default)s, CLEVR's)",
    )
    add("--renderer", choices=RENDERERS, default=ClevrMaker.renderer, help="who draws (default: %(default)s)")
    _add_blender_arguments(parser)


def _add_blender_arguments(parser: argparse.ArgumentParser) -> None:
    options = BlenderOptions()
    parser.add_argument(
        "--blender_python",
        type=Path,
        default=BLENDER_PYTHON,
        help="Blender's Python (default: .venv-blender of `bash setup.sh --blender`)",
    )
    parser.add_argument(
        "--samples", type=int, default=options.samples, help="Blender's rays per pixel (default: %(default)s)"
    )
    parser.add_argument(
        "--blender_threads",
        type=int,
        default=options.threads,
        help="threads of each worker's Blender, 0 for all cores (default: %(default)s)",
    )
    parser.add_argument(
        "--blender_timeout",
        type=float,
        default=options.image_seconds,
        help="seconds that Blender may take for an image (default: %(default)s)",
    )


def from_arguments(args: argparse.Namespace) -> ClevrMaker:
    """The maker of parsed options and the frame's `args.size`. Raises MakingError."""
    try:
        rules = SceneRules(
            min_objects=args.objects[0],
            max_objects=args.objects[1],
            gap=args.gap,
            margin=args.margin,
            camera_jitter=args.camera_jitter,
            lamp_jitter=args.lamp_jitter,
        )
        blender = BlenderOptions(
            python=args.blender_python,
            samples=args.samples,
            threads=args.blender_threads,
            image_seconds=args.blender_timeout,
        )
    except ValueError as error:
        raise MakingError(str(error)) from error
    return ClevrMaker(
        size=args.size or SIZE,
        rules=rules,
        n_edited=args.edited,
        attributes=tuple(args.attributes),
        min_pixels=args.min_pixels,
        edit_share=(args.edit_share[0], args.edit_share[1]),
        renderer=args.renderer,
        blender=blender,
    )
