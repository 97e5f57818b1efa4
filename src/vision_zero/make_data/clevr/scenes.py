"""CLEVR scenes: objects at random places by CLEVR's rules, edits of them in place, and both as JSON in CLEVR's format.

Rules and numbers are those of CLEVR's generator: positions uniform on a square of 6 x 6, 0.25 between objects, 0.4
along each of the four directions (so that "left of" is never a matter of taste), camera and lamps moved by chance.
One thing is stricter here: a cube of half side r reaches r * sqrt(2) from its centre and is given that room.

The camera looks at the origin through a 35 mm lens on a 32 mm sensor, as CLEVR's does. The world has z up and the
ground at z = 0. Image coordinates are continuous, x to the right and y down from the top left corner, so the pixel in
column i covers i to i + 1.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from operator import attrgetter
from typing import Any

from vision_zero.config.game import beside
from vision_zero.data.drawn_scenes import replaced_objects
from vision_zero.make_data.maker import Rejected

Vector = tuple[float, float, float]

FOCAL = 35 / 32  # focal length in widths of the sensor, which spans the longer side of the image
POSITION: Vector = (7.4811, -6.5076, 5.3437)

_TABLES = beside(__file__)
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _TABLES["colours"].items()}
SIZES: dict[str, float] = _TABLES["sizes"]
SHAPES, MATERIALS = ("cube", "sphere", "cylinder"), ("rubber", "metal")
ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES), "material": MATERIALS}

HALF_GROUND = 3.0  # objects stand at x and y in -3..3
RELATION_EPSILON = 0.2
"""Least distance of two related objects (CLEVR). A larger margin of the scene relates every two objects."""
GROUND_DIRECTIONS = ("right", "behind", "front", "left")


@dataclass(frozen=True)
class Camera:
    """A camera at `position` that looks at the origin. Raises ValueError for one that looks straight down or up."""

    position: Vector = POSITION

    def __post_init__(self) -> None:
        if math.hypot(self.position[0], self.position[1]) < 1e-3:
            raise ValueError(f"the camera must not stand above the origin, as it does at {self.position}")

    @property
    def forward(self) -> Vector:
        return unit(scaled(self.position, -1.0))

    @property
    def right(self) -> Vector:
        x, y, _ = self.forward
        return unit((y, -x, 0.0))

    @property
    def up(self) -> Vector:
        return cross(self.right, self.forward)

    def project(self, point: Vector, size: tuple[int, int]) -> Vector:
        """(x, y, depth) of a point in an image of `size` (width, height). Depth is along the line of sight."""
        difference = minus(point, self.position)
        depth = dot(difference, self.forward)
        focal = focal_length(size)
        x = size[0] / 2 + focal * dot(difference, self.right) / depth
        y = size[1] / 2 - focal * dot(difference, self.up) / depth
        return x, y, depth

    def directions(self) -> Mapping[str, Vector]:
        """CLEVR's six directions, unit vectors: those of the image, laid on the ground, and up and down."""
        right, forward = self.right, self.forward
        behind = unit((forward[0], forward[1], 0.0))
        return {
            "right": right,
            "behind": behind,
            "above": (0.0, 0.0, 1.0),
            "below": (0.0, 0.0, -1.0),
            "left": scaled(right, -1.0),
            "front": scaled(behind, -1.0),
        }


def focal_length(size: tuple[int, int]) -> float:
    """Focal length in pixels."""
    return FOCAL * max(size)


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
    gap: float = 0.25  # least distance between two objects on the ground
    margin: float = 0.4  # least distance between two centres along left-right and along front-behind
    camera_jitter: float = 0.5  # most that the camera moves along each axis
    lamp_jitter: float = 1.0  # most that each lamp moves along each axis
    tries: int = 50  # places tried for one object before the scene is given up

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
    axes = [camera.directions()[name] for name in ("right", "behind")]
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
    in_words = attrgetter(*ATTRIBUTES)
    if sorted(map(in_words, edited)) == sorted(map(in_words, scene.objects)):
        raise Rejected("the edit swaps two objects")
    return replace(scene, objects=tuple(edited)), chosen


def scene_json(
    scene: Scene, size: tuple[int, int], image_filename: str, image_index: int, visible_pixels: Sequence[int]
) -> dict[str, Any]:
    """CLEVR's description of one image of `size` (width, height)."""
    return {
        "split": "",
        "image_index": image_index,
        "image_filename": image_filename,
        "objects": [object_json(one, scene.camera, size) for one in scene.objects],
        "directions": {name: list(vector) for name, vector in scene.camera.directions().items()},
        "relationships": relationships(scene),
        "camera": list(scene.camera.position),
        "lamps": {name: list(position) for name, position in asdict(scene.lamps).items()},
        "visible_pixels": list(visible_pixels),
    }


def object_json(one: SceneObject, camera: Camera, size: tuple[int, int]) -> dict[str, Any]:
    """`pixel_coords` are the column and the row of the object's centre, and its depth."""
    x, y, depth = camera.project(one.centre, size)
    return {
        "shape": one.shape,
        "size": one.size,
        "material": one.material,
        "color": one.colour,
        "3d_coords": list(one.centre),
        "rotation": one.rotation,
        "pixel_coords": [round(x), round(y), depth],
    }


def relationships(scene: Scene) -> dict[str, list[list[int]]]:
    """Related objects by direction and object: `["left"][0]` are those left of object 0."""
    directions = scene.camera.directions()
    centres = list(enumerate(one.centre for one in scene.objects))

    def related(one: int, here: Vector, way: Vector) -> list[int]:
        return [other for other, there in centres if other != one and dot(minus(there, here), way) > RELATION_EPSILON]

    return {name: [related(*centre, directions[name]) for centre in centres] for name in GROUND_DIRECTIONS}


def comparison_json(original: Mapping[str, Any], modified: Mapping[str, Any]) -> dict[str, Any]:
    """NAME_comparison.json of the official sets: both scenes, and the objects that differ, by their position."""
    replaced = replaced_objects(original["objects"], modified["objects"])
    scenes = {"original_scene": dict(original), "modified_scene": dict(modified)}
    return {**scenes, "modification": {"replaced_objects": replaced}}


def dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scaled(a: Vector, factor: float) -> Vector:
    # Adding 0.0 turns -0.0 into 0.0, which reads better in JSON.
    return a[0] * factor + 0.0, a[1] * factor + 0.0, a[2] * factor + 0.0


def unit(a: Vector) -> Vector:
    return scaled(a, 1 / math.sqrt(dot(a, a)))
