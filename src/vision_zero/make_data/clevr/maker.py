"""Maker of CLEVR pairs: a scene by CLEVR's rules and an edit of some objects, drawn by one of two renderers."""

import argparse
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vision_zero.config.game import add_options, beside
from vision_zero.make_data.clevr import render_numpy, scenes
from vision_zero.make_data.clevr.ray_tracing import object_mask, pixels_of_objects
from vision_zero.make_data.clevr.render_blender import BLENDER_PYTHON, BlenderOptions, open_blender
from vision_zero.make_data.clevr.scenes import ATTRIBUTES, Scene, SceneRules
from vision_zero.make_data.maker import EditedPair, Make, Maker, MakerError, Rejected, check_share, option_values
from vision_zero.types import Domain

Render = Callable[[Scene, tuple[int, int]], Image.Image]
Renderer = Literal["numpy", "blender"]

SIZE = (320, 240)
MOST_PIXELS = 4096
RENDERERS: tuple[Renderer, ...] = get_args(Renderer)


@dataclass(frozen=True)
class ClevrMaker(Maker):
    """Maker of CLEVR pairs. Raises MakerError for options that do not fit together."""

    size: tuple[int, int] = SIZE
    rules: SceneRules = field(default_factory=SceneRules)
    n_edited: int = 2
    attributes: tuple[str, ...] = ("colour", "shape")  # of an edited object, that change to another value each
    min_pixels: int = 200  # of every object that are seen in both images, at 320 x 240; else in proportion (CLEVR: 200)
    edit_share: tuple[float, float] = (0.0, 1.0)  # bounds of the share of pixels that show an edited object in either
    renderer: Renderer = "numpy"
    blender: BlenderOptions = field(default_factory=BlenderOptions)
    domain: Domain = "scenes"
    name: str = "clevr"
    default_n = 2000  # the paper's
    max_attempts: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.n_edited <= self.rules.min_objects:
            most = f"the least number of objects, {self.rules.min_objects}"
            raise MakerError(f"--edited {self.n_edited}: must be from 1 to {most}")
        unknown = [name for name in self.attributes if name not in ATTRIBUTES]
        if unknown or not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise MakerError(f"--attributes {self.attributes}: some of {', '.join(ATTRIBUTES)}, each once")
        if max(self.size) > MOST_PIXELS:
            raise MakerError(f"--size {self.size[0]}x{self.size[1]}: at most {MOST_PIXELS} pixels wide and high")
        if self.min_pixels < 1:
            raise MakerError(f"--min_pixels {self.min_pixels}: must be at least 1, or objects would not be seen")
        if not 0 <= self.edit_share[0] < self.edit_share[1] <= 1:
            raise MakerError(f"--edit_share {self.edit_share}: two shares from 0 to 1, the smaller first")

    @property
    def least_pixels(self) -> float:
        return self.min_pixels * self.size[0] * self.size[1] / (SIZE[0] * SIZE[1])

    @contextmanager
    def open(self) -> Iterator[Make]:
        """Yield the function that makes pairs. With Blender, raises MakerError if it does not start."""
        with nullcontext(render_numpy) if self.renderer == "numpy" else open_blender(self.blender) as renderer:
            yield lambda rng, number: self._make(renderer.render, rng, number)

    def _make(self, render: Render, rng: random.Random, number: int) -> EditedPair:
        scene = scenes.sample_scene(rng, self.rules)
        edited, changed = scenes.edit_scene(scene, rng, self.rules, self.n_edited, self.attributes)
        masks = [object_mask(one, self.size) for one in (scene, edited)]
        visible = [pixels_of_objects(mask, len(scene.objects)) for mask in masks]
        for which, pixels in zip(("original", "edited"), visible, strict=True):
            if min(pixels) < self.least_pixels:
                raise Rejected(f"an object is hidden in the {which} scene")
        shown = np.isin(masks[0], changed) | np.isin(masks[1], changed)
        check_share(shown.mean(), self.edit_share, "the edit is too small", "the edit is too large")
        comparison = scenes.comparison_json(
            scenes.scene_json(scene, self.size, f"{self.name}_{number:06d}_original.png", number, visible[0]),
            scenes.scene_json(edited, self.size, f"{self.name}_{number:06d}_modified.png", number, visible[1]),
        )
        images = (render(scene, self.size), render(edited, self.size))
        return EditedPair(*images, comparison, {"scenes/comparison": comparison})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = {**vars(ClevrMaker), **vars(SceneRules), **vars(BlenderOptions), "edited": ClevrMaker.n_edited}
    defaults |= {"objects": (SceneRules.min_objects, SceneRules.max_objects), "blender_python": BLENDER_PYTHON}
    defaults |= {"blender_threads": BlenderOptions.threads, "blender_timeout": BlenderOptions.image_seconds}
    add_options(parser, beside(__file__), defaults, attributes=ATTRIBUTES, renderer=RENDERERS)


def from_arguments(args: argparse.Namespace) -> ClevrMaker:
    """The maker of parsed options. Raises MakerError."""
    try:
        rules = SceneRules(*args.objects, **option_values(args, "gap", "margin", "camera_jitter", "lamp_jitter"))
        threads, seconds = args.blender_threads, args.blender_timeout
        blender = BlenderOptions(args.blender_python, args.samples, threads, image_seconds=seconds)
    except ValueError as error:
        raise MakerError(str(error)) from error
    others = option_values(args, "size", "attributes", "min_pixels", "edit_share", "renderer")
    return ClevrMaker(rules=rules, n_edited=args.edited, blender=blender, **others)
