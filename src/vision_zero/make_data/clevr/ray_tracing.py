"""Intersections of rays with spheres, cubes and cylinders on the ground, in NumPy.

Arrays of vectors are (3, N), float32, so that each coordinate is contiguous. A ray is origin + t * direction with a
direction of length 1; origins are (3, N), or (3, 1) for one origin of all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vision_zero.make_data.clevr.scenes import Camera, Scene, SceneObject, focal_length

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]
Crossing: TypeAlias = tuple[Floats, Floats]
"""Distances (N,) at which rays enter and leave an object. Rays that miss it have enter > leave."""

GROUND = -1
NEAREST = 1e-3  # nearer hits are the surface that a ray starts from
BEVELS = {"cube": 0.13, "cylinder": 0.05}
"""Width of rounded edges as a share of the radius, in both renderers."""
_EXTENT = {"sphere": 1.0, "cylinder": math.sqrt(2), "cube": math.sqrt(3)}
"""Radius of the sphere around an object that contains it, as a multiple of the object's own."""


@dataclass(frozen=True)
class Hits:
    """First hits of rays (N,): an object's number or GROUND, and the distance."""

    which: NDArray[np.int8]
    distance: Floats


def vector(values: Sequence[float]) -> Floats:
    """Three values as a (3, 1) array."""
    return np.array(values, dtype=np.float32)[:, None]


def dots(a: Floats, b: Floats) -> Floats:
    """(N,) scalar products."""
    product: Floats = a[0] * b[0]
    product += a[1] * b[1]
    product += a[2] * b[2]
    return product


def unit_vectors(a: Floats) -> Floats:
    return np.asarray(a / np.sqrt(dots(a, a)))


def camera_rays(camera: Camera, size: tuple[int, int], x: Floats, y: Floats) -> Floats:
    """Directions (3, N) of the rays through image coordinates (N,)."""
    focal = focal_length(size)
    across, down = (x - size[0] / 2) / focal, (y - size[1] / 2) / focal
    directions = np.empty((3, len(x)), np.float32)
    for axis in range(3):
        directions[axis] = across * camera.right[axis]
        directions[axis] -= down * camera.up[axis]
        directions[axis] += camera.forward[axis]
    directions *= 1 / np.sqrt(1 + across * across + down * down)
    return directions


def pixel_centres(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Image coordinates of all pixels, row by row."""
    width, height = size
    x = np.tile(np.arange(width, dtype=np.float32) + np.float32(0.5), height)
    y = np.repeat(np.arange(height, dtype=np.float32) + np.float32(0.5), width)
    return x, y


def crossing(one: SceneObject, origins: Floats, directions: Floats) -> Crossing:
    return _CROSS[one.shape](one.radius, to_object(one, origins - vector(one.centre)), to_object(one, directions))


def to_object(one: SceneObject, vectors: Floats) -> Floats:
    """Vectors in the object's own frame, without its rotation."""
    return vectors if one.shape != "cube" else _turned(vectors, -one.rotation)


def _turned(vectors: Floats, degrees: float) -> Floats:
    cosine, sine = np.float32(math.cos(math.radians(degrees))), np.float32(math.sin(math.radians(degrees)))
    turned = np.empty_like(vectors)
    turned[0] = cosine * vectors[0] - sine * vectors[1]
    turned[1] = sine * vectors[0] + cosine * vectors[1]
    turned[2] = vectors[2]
    return turned


def _cross_sphere(radius: float, origins: Floats, directions: Floats) -> Crossing:
    middle = -dots(origins, directions)
    under_root = middle * middle - dots(origins, origins) + np.float32(radius**2)
    half = np.sqrt(np.maximum(under_root, 0))
    half[under_root < 0] = -1  # missed: enter > leave
    return middle - half, middle + half


def _cross_slab(radius: float, origin: Floats, direction: Floats) -> Crossing:
    """Crossing with the slab from -radius to radius on one axis, or (3, N) on each."""
    inverse = np.reciprocal(np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction))
    middle, half = -origin * inverse, np.float32(radius) * np.abs(inverse)
    return middle - half, middle + half


def _cross_cube(radius: float, origins: Floats, directions: Floats) -> Crossing:
    enter, leave = _cross_slab(radius, origins, directions)
    return enter.max(axis=0), leave.min(axis=0)


def _cross_cylinder(radius: float, origins: Floats, directions: Floats) -> Crossing:
    """Crossing with the mantle of an upright cylinder and the slab between its lids."""
    across = np.maximum(directions[0] * directions[0] + directions[1] * directions[1], np.float32(1e-12))
    middle = -(origins[0] * directions[0] + origins[1] * directions[1]) / across
    from_axis = origins[0] * origins[0] + origins[1] * origins[1] - np.float32(radius**2)
    under_root = middle * middle - from_axis / across
    half = np.sqrt(np.maximum(under_root, 0))
    first, last = _cross_slab(radius, origins[2], directions[2])
    enter, leave = np.maximum(middle - half, first), np.minimum(middle + half, last)
    leave[under_root < 0] = -np.inf
    return enter, leave


_CROSS = {"sphere": _cross_sphere, "cube": _cross_cube, "cylinder": _cross_cylinder}


def normals(one: SceneObject, points: Floats) -> Floats:
    """Outward normals at points on the surface; those of cubes and cylinders bend towards rounded edges.

    Edges on the ground are not rounded: their normals would point down into the dark.
    """
    local = points - vector(one.centre)
    if one.shape == "sphere":
        return local / np.float32(one.radius)
    flat = np.float32(one.radius * (1 - BEVELS[one.shape]))
    local[2] = np.maximum(local[2], 0)
    if one.shape == "cube":
        local = to_object(one, local)
        beyond = np.copysign(np.maximum(np.abs(local) - flat, np.float32(1e-6)), local)
        return unit_vectors(_turned(beyond, one.rotation))
    from_axis = np.maximum(np.sqrt(local[0] * local[0] + local[1] * local[1]), np.float32(1e-6))
    outward = np.maximum(from_axis - flat, np.float32(1e-6)) / from_axis
    upward = np.maximum(local[2] - flat, np.float32(1e-6))
    return unit_vectors(np.stack([local[0] * outward, local[1] * outward, upward]))


def near_ray(one: SceneObject, origins: Floats, directions: Floats, spread: float = 0.0) -> Indices:
    """Indices of rays that may come within `spread` of an object, by the sphere around it."""
    to_centre = vector(one.centre) - origins
    along = dots(to_centre, directions)
    bound = one.radius * _EXTENT[one.shape] + spread
    distance = dots(to_centre, to_centre) - along * along
    return np.flatnonzero((distance < bound * bound) & (along > -bound))


def nearest_hits(scene: Scene, origins: Floats, directions: Floats) -> Hits:
    """First hit of each ray. Rays without a hit, not even of the ground, have distance infinity."""
    down = directions[2]
    with np.errstate(divide="ignore"):
        ground = np.where(down < 0, -origins[2] / np.minimum(down, 0), np.float32(np.inf))
    hits = Hits(np.full(directions.shape[1], GROUND, np.int8), ground.astype(np.float32))
    for number, one in enumerate(scene.objects):
        near = near_ray(one, origins, directions)
        some_origins = origins if origins.shape[1] == 1 else origins[:, near]
        enter, leave = crossing(one, some_origins, directions[:, near])
        nearer = (enter < leave) & (enter > NEAREST) & (enter < hits.distance[near])
        hits.which[near[nearer]] = number
        hits.distance[near[nearer]] = enter[nearer]
    return hits


def object_mask(scene: Scene, size: tuple[int, int]) -> NDArray[np.int8]:
    """(height, width): number of the object at the centre of each pixel, or GROUND."""
    x, y = pixel_centres(size)
    directions = camera_rays(scene.camera, size, x, y)
    return nearest_hits(scene, vector(scene.camera.position), directions).which.reshape(size[1], size[0])


def pixels_of_objects(mask: NDArray[np.int8], n_objects: int) -> tuple[int, ...]:
    return tuple(np.bincount(mask.ravel() + 1, minlength=n_objects + 1)[1:].tolist())
