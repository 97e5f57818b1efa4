"""Drawn scenes: a source of small image pairs without files, whose contents are known exactly.

They serve tests, demonstrations and the tiny model's warm start. A scene is 3 to 6 objects of different colours in
cells of a 4 x 4 grid; at 112 pixels a cell is one image token of Qwen2.5-VL. The edited scene changes the colour and
the shape of two objects in place. Descriptions have the form and the names of CLEVR pairs, so their readers read these
too. As a source of pairs they are `drawn:COUNT`, `drawn:COUNT@FIRST` or `drawn:COUNT@heldout`.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from vision_zero.data.errors import PairSourceError
from vision_zero.data.lazy_pairs import LazyPairs
from vision_zero.types import ImagePair

_COLOURS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _COLOURS.items()}
SHAPES = ("cube", "sphere", "cylinder")
GRID = 4
BACKGROUND = (232, 232, 228)
MIN_OBJECTS, MAX_OBJECTS = 3, 6
N_CHANGED = 2

FIRST_HELDOUT = 1 << 40  # number of the first held-out pair; training counts from 0, or another one below it


@dataclass(frozen=True)
class DrawnObject:
    """One object. `cell` counts the grid's cells row by row from the top left, 0 to 15."""

    colour: str
    shape: str
    cell: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class DrawnScene:
    """Objects of different colours in different cells. Raises ValueError for anything else."""

    objects: tuple[DrawnObject, ...]

    def __post_init__(self) -> None:
        for what in ("colour", "cell"):
            values = [getattr(one, what) for one in self.objects]
            if len(set(values)) != len(values):
                raise ValueError(f"two objects of a drawn scene share a {what}: {values}")


def sample_scene(rng: random.Random, n_objects: int | None = None) -> DrawnScene:
    """A scene of `n_objects` objects, 3 to 6 by default."""
    n_objects = rng.randint(MIN_OBJECTS, MAX_OBJECTS) if n_objects is None else n_objects
    colours = rng.sample(list(COLOURS), n_objects)
    cells = rng.sample(range(GRID * GRID), n_objects)
    pairs = zip(colours, cells, strict=True)
    return DrawnScene(tuple(DrawnObject(colour, rng.choice(SHAPES), cell) for colour, cell in pairs))


def edit_scene(scene: DrawnScene, rng: random.Random) -> DrawnScene:
    """`scene` with two objects in the same cells, but of another colour and another shape.

    New colours are ones that the scene did not have, so colours stay different and a changed object is never mistaken
    for another one of the original.
    """
    if len(scene.objects) < N_CHANGED:
        raise ValueError(f"a scene needs {N_CHANGED} objects to be edited, this one has {len(scene.objects)}")
    taken = {one.colour for one in scene.objects}
    colours = iter(rng.sample([colour for colour in COLOURS if colour not in taken], N_CHANGED))
    objects = list(scene.objects)
    for index in sorted(rng.sample(range(len(objects)), N_CHANGED)):
        shape = rng.choice([shape for shape in SHAPES if shape != objects[index].shape])
        objects[index] = replace(objects[index], colour=next(colours), shape=shape)
    return DrawnScene(tuple(objects))


def draw(scene: DrawnScene, size: int = 112) -> Image.Image:
    """The scene as a square RGB image of `size` pixels a side; nothing in it is random."""
    image = Image.new("RGB", (size, size), BACKGROUND)
    for one in scene.objects:
        row, column = divmod(one.cell, GRID)
        left, right = column * size // GRID, (column + 1) * size // GRID
        top, bottom = row * size // GRID, (row + 1) * size // GRID
        tile = _tile(one.colour, one.shape).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        image.paste(tile, (left, top))
    return image


def _tile(colour: str, shape: str) -> Image.Image:
    """One object on the background, drawn four times as large as needed at 112 pixels, for smooth edges."""
    tile = Image.new("RGB", (112, 112), BACKGROUND)
    pen = ImageDraw.Draw(tile)
    main = COLOURS[colour]
    light, dark = (tuple(round(part + (shade - part) * 0.4) for part in main) for shade in (255, 0))
    if shape == "sphere":
        pen.ellipse((14, 14, 98, 98), fill=main, outline=dark, width=4)
        pen.ellipse((32, 28, 56, 52), fill=light)
    elif shape == "cube":
        pen.polygon([(12, 38), (34, 14), (100, 14), (78, 38)], fill=light)
        pen.polygon([(78, 38), (100, 14), (100, 76), (78, 100)], fill=dark)
        pen.rectangle((12, 38, 78, 100), fill=main)
    else:
        pen.rectangle((30, 22, 82, 92), fill=main)
        pen.rectangle((68, 22, 82, 92), fill=dark)
        pen.ellipse((30, 80, 82, 104), fill=main)
        pen.ellipse((30, 10, 82, 34), fill=light, outline=dark, width=4)
    return tile


def scene_objects(scene: DrawnScene, size: int = 112) -> list[dict[str, Any]]:
    """The objects as CLEVR describes them. A drawing has one size and no material: `large` and `rubber`."""
    step = size / GRID
    return [
        {
            "color": one.colour,
            "shape": one.shape,
            "size": "large",
            "material": "rubber",
            "cell": one.cell,
            "pixel_coords": [round((one.cell % GRID + 0.5) * step, 1), round((one.cell // GRID + 0.5) * step, 1), 0],
        }
        for one in scene.objects
    ]


def comparison(original: DrawnScene, edited: DrawnScene, size: int = 112) -> dict[str, Any]:
    """Contents of NAME_comparison.json of the official sets: the original scene and the changed objects."""
    before, after = scene_objects(original, size), scene_objects(edited, size)
    return {
        "original_scene": {"objects": before},
        "modification": {"replaced_objects": replaced_objects(before, after)},
    }


def replaced_objects(originals: Sequence[Any], replacements: Sequence[Any]) -> list[dict[str, Any]]:
    """The JSON of those objects that differ, by their position."""
    pairs = enumerate(zip(originals, replacements, strict=True))
    return [{"index": index, "original": one, "replacement": new} for index, (one, new) in pairs if one != new]


@dataclass(frozen=True)
class DrawnImage:
    scene: DrawnScene
    name: str
    size: int = 112

    def open(self) -> Image.Image:
        return draw(self.scene, self.size)


def scenes_of(seed: int) -> tuple[DrawnScene, DrawnScene]:
    rng = random.Random(f"vision-zero/drawn/{seed}")
    scene = sample_scene(rng)
    return scene, edit_scene(scene, rng)


def drawn_pair(seed: int, size: int = 112) -> ImagePair:
    scene, edited = scenes_of(seed)
    return ImagePair(
        id=f"drawn-{seed}",
        image=DrawnImage(scene, f"drawing {seed}, original", size),
        edited=DrawnImage(edited, f"drawing {seed}, modified", size),
        domain="scenes",
        meta=comparison(scene, edited, size),
    )


def drawn_pairs(seeds: Sequence[int], size: int = 112) -> list[ImagePair]:
    return [drawn_pair(seed, size) for seed in seeds]


def is_drawn(source: object) -> bool:
    return isinstance(source, str) and source.startswith("drawn:")


def is_heldout(source: str) -> bool:
    return is_drawn(source) and source.endswith("@heldout")


def read_drawn(source: str) -> LazyPairs:
    """The pairs of a source `drawn:...`. Raises PairSourceError for others, and for numbers of held-out ones."""
    match = re.fullmatch(r"drawn:([1-9]\d{0,8})(?:@(\d{1,12}|heldout))?", source)
    if match is None:
        raise PairSourceError(
            f"{source}: drawings are drawn:COUNT, drawn:COUNT@FIRST or drawn:COUNT@heldout, as drawn:2000@10000"
        )
    first = FIRST_HELDOUT if match[2] == "heldout" else int(match[2] or 0)  # 12 digits end before the held-out ones
    return LazyPairs("drawings", drawn_pair, range(first, first + int(match[1])))
