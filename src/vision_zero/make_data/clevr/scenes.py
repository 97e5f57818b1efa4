"""CLEVR scenes: objects at random places by CLEVR's rules, and edits of them in place.

Rules and numbers are those of CLEVR's generator: positions uniform on a square of 6 x 6, 0.25 between objects, 0.4
along each of the four directions (so that "left of" is never a matter of taste), camera and lamps moved by chance.
One thing is stricter here: a cube of half side r reaches r * sqrt(2) from its centre and is given that room.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from vision_zero.config.game import beside
from vision_zero.make_data.clevr.camera import POSITION, Camera, Vector, dot, minus
from vision_zero.make_data.maker import Rejected

_TABLES = beside(__file__)
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _TABLES["colours"].items()}
SIZES: dict[str, float] = _TABLES["sizes"]
SHAPES, MATERIALS = ("cube", "sphere", "cylinder"), ("rubber", "metal")
ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES), "material": MATERIALS}

HALF_GROUND = 3.0
"""Objects stand at x and y in -3..3."""


@dataclass(frozen=True)
class SceneObject:
    """An object on the ground. `rotation` is in degrees about the vertical. All shapes are 2 x radius wide and high."""

    shape: str
    size: str
    material: str
    colour: str
    x: float
    y: float
    rotation: float

    @property
    def radius(self) -> float:
        """Radius of a sphere or a cylinder; half the side of a cube."""
        return SIZES[self.size]

    @property
    def centre(self) -> Vector:
        return self.x, self.y, self.radius

    @property
    def reach(self) -> float:
        """Largest distance of its outline from its centre on the ground, whatever its rotation."""
        return self.radius * math.sqrt(2) if self.shape == "cube" else self.radius


@dataclass(frozen=True)
class Lamps:
    """Positions of the three lamps; all of them point at the origin."""

    key: Vector = (6.4467, -2.9052, 4.2584)
    fill: Vector = (-4.6711, -4.0136, 3.0112)
    back: Vector = (-1.1685, 2.646, 5.8157)


@dataclass(frozen=True)
class Scene:
    objects: tuple[SceneObject, ...]
    camera: Camera = field(default_factory=Camera)
    lamps: Lamps = Lamps()


@dataclass(frozen=True)
class SceneRules:
    """Rules of random scenes, in CLEVR's units (a large object: 1.4). Raises ValueError if no scene can keep them."""

    min_objects: int = 4
    max_objects: int = 6
    gap: float = 0.25
    """Least distance between two objects on the ground."""
    margin: float = 0.4
    """Least distance between two centres along left-right and along front-behind."""
    camera_jitter: float = 0.5
    """Most that the camera moves along each axis."""
    lamp_jitter: float = 1.0
    """Most that each lamp moves along each axis."""
    tries: int = 50
    """Places tried for one object before the scene is given up."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects:
            raise ValueError(f"the number of objects must go from 1 up, got {self.min_objects} to {self.max_objects}")
        for name in ("gap", "margin", "camera_jitter", "lamp_jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, got {self.tries}")
        # Nearer than this to the ground a lamp or the camera would stand among the objects.
        lowest = min(height for _, _, height in astuple(Lamps()))
        if self.lamp_jitter > lowest - 2 * max(SIZES.values()) or self.camera_jitter > POSITION[2] / 2:
            raise ValueError(
                f"too much jitter: camera {self.camera_jitter} (at most {POSITION[2] / 2:.2f}), "
                f"lamps {self.lamp_jitter} (at most {lowest - 2 * max(SIZES.values()):.2f})"
            )


def sample_scene(rng: random.Random, rules: SceneRules) -> Scene:
    """A scene that follows the rules. Raises Rejected if an object found no place in `rules.tries` tries."""
    camera = Camera(_jittered(POSITION, rules.camera_jitter, rng))
    lamps = Lamps(*(_jittered(lamp, rules.lamp_jitter, rng) for lamp in astuple(Lamps())))
    directions = camera.directions()
    axes = (directions["right"], directions["behind"])
    objects: list[SceneObject] = []
    for _ in range(rng.randint(rules.min_objects, rules.max_objects)):
        objects.append(_placed(rng, objects, axes, rules))
    return Scene(tuple(objects), camera, lamps)


def _jittered(position: Vector, jitter: float, rng: random.Random) -> Vector:
    x, y, z = (one + rng.uniform(-jitter, jitter) for one in position)
    return x, y, z


def _placed(
    rng: random.Random, others: Sequence[SceneObject], axes: Sequence[Vector], rules: SceneRules
) -> SceneObject:
    one = SceneObject(
        shape=rng.choice(SHAPES),
        size=rng.choice(tuple(SIZES)),
        material=rng.choice(MATERIALS),
        colour=rng.choice(tuple(COLOURS)),
        x=0.0,
        y=0.0,
        rotation=rng.uniform(0.0, 360.0),
    )
    for _ in range(rules.tries):
        one = replace(one, x=rng.uniform(-HALF_GROUND, HALF_GROUND), y=rng.uniform(-HALF_GROUND, HALF_GROUND))
        if all(_apart(one, other, axes, rules) for other in others):
            return one
    raise Rejected("no room for an object")


def _apart(one: SceneObject, other: SceneObject, axes: Sequence[Vector], rules: SceneRules) -> bool:
    between = minus((one.x, one.y, 0.0), (other.x, other.y, 0.0))
    return _clear(one, other, rules.gap) and all(abs(dot(between, axis)) >= rules.margin for axis in axes)


def _clear(one: SceneObject, other: SceneObject, gap: float) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) - one.reach - other.reach >= gap


def edit_scene(
    scene: Scene, rng: random.Random, rules: SceneRules, n_edited: int, attributes: Sequence[str]
) -> tuple[Scene, tuple[int, ...]]:
    """`scene` with other values of each of `attributes` for `n_edited` of its objects, and their numbers, ascending.

    Positions, camera and lamps stay. Raises Rejected if a new shape or size has no room or if the edit only swaps
    objects that differ in nothing else, and ValueError for a scene of too few objects.
    """
    if len(scene.objects) < n_edited:
        raise ValueError(f"{n_edited} objects cannot be edited in a scene of {len(scene.objects)}")
    edited = list(scene.objects)
    chosen = tuple(sorted(rng.sample(range(len(edited)), n_edited)))
    for index in chosen:
        for attribute in attributes:
            old = getattr(edited[index], attribute)
            new = rng.choice([value for value in ATTRIBUTES[attribute] if value != old])
            changes: dict[str, Any] = {attribute: new}
            edited[index] = replace(edited[index], **changes)
    for index in chosen:
        others = (other for number, other in enumerate(edited) if number != index)
        if not all(_clear(edited[index], other, rules.gap) for other in others):
            raise Rejected("no room for an edited object")
    # Said in words, such an edited scene is the original: no clue about what is there could tell them apart.
    if sorted(map(_in_words, edited)) == sorted(map(_in_words, scene.objects)):
        raise Rejected("the edit swaps two objects")
    return replace(scene, objects=tuple(edited)), chosen


def _in_words(one: SceneObject) -> tuple[str, ...]:
    return tuple(getattr(one, attribute) for attribute in ATTRIBUTES)
