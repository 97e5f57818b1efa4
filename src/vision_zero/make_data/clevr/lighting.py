"""Light of a rendered scene: three lamps, a sun, a grey sky, and soft shadows.

Both renderers have these lamps. Here a lamp is a small disc whose light falls off with the square of the distance. The
soft edge of a shadow follows from one ray to the lamp's centre: its distance to the outline of an object, inside or
outside, relative to the width of the cone to the lamp there.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_zero.config.game import beside
from vision_zero.make_data.clevr.ray_tracing import Floats, dots, near_ray, to_object, vector
from vision_zero.make_data.clevr.scenes import Lamps, SceneObject, Vector, unit

LAMPS: dict[str, dict[str, Any]] = beside(__file__)
LAMP_WIDTH = 0.5  # lamps are squares of this side, aimed at the origin
SUN_IRRADIANCE = 0.3
SUN_ANGLE = 60.0  # degrees that the sun spans: soft daylight that leaves the ground below objects dark
GROUND_ALBEDO = 0.7
SKY = 0.1  # radiance of the surroundings, in all directions


@dataclass(frozen=True)
class Light:
    """A lamp at `position`, or the sun if that is None.

    `strength` is the irradiance of a surface that faces it: of the sun as it is, of a lamp at distance 1 in front of
    it. `spread` is a lamp's radius, and the tangent of half the sun's angle.
    """

    position: Vector | None
    direction: Vector
    strength: float
    colour: Vector
    spread: float


@dataclass(frozen=True)
class LightRays:
    """Rays from points to a light: unit `directions` (3, N), `distance` (N,), `irradiance` (N,) facing it, unshaded."""

    directions: Floats
    distance: Floats
    irradiance: Floats


def lights_of(lamps: Lamps) -> tuple[Light, ...]:
    radius = LAMP_WIDTH / math.sqrt(math.pi)
    hung = [
        Light(position, unit(position), LAMPS[name]["watts"] / math.pi, tuple(LAMPS[name]["colour"]), radius)
        for name, position in asdict(lamps).items()
    ]
    return (*hung, Light(None, (0.0, 0.0, 1.0), SUN_IRRADIANCE, (1.0, 1.0, 1.0), math.tan(math.radians(SUN_ANGLE / 2))))


def rays_to(light: Light, points: Floats) -> LightRays:
    if light.position is None:
        n = points.shape[1]
        directions = np.repeat(vector(light.direction), n, axis=1)
        return LightRays(directions, np.full(n, np.inf, np.float32), np.full(n, light.strength, np.float32))
    directions = vector(light.position) - points
    squared = dots(directions, directions)
    distance = np.sqrt(squared)
    directions /= distance
    # The lamp is a flat square: it shines most forwards, and not backwards.
    forwards = dots(directions, vector(light.direction))
    return LightRays(directions, distance, np.float32(light.strength) * np.maximum(forwards, 0) / squared)


def lit_share(
    light: Light, lit: LightRays, points: Floats, objects: Sequence[SceneObject], owners: NDArray[np.int8]
) -> Floats:
    """(N,) the share of the light that reaches each point past `objects`.

    `owners` (N,) are the numbers of the objects that the points lie on. Those cast no shadow on themselves: what turns
    away from the light is dark anyhow.
    """
    share = np.ones(points.shape[1], np.float32)
    # Seen from a lamp, all rays have one origin, and looking for those near an object costs a quarter.
    starts, directions = points, lit.directions
    if light.position is not None:
        starts, directions = vector(light.position), -lit.directions
    for number, one in enumerate(objects):
        # The cone to the sun, which is straight above, is no wider at the middle of an object than from the ground.
        spread = light.spread if light.position is not None else light.spread * one.radius
        near = near_ray(one, starts, directions, spread)
        near = near[owners[near] != number]
        if len(near):
            share[near] *= 1 - _hidden(one, light, points[:, near], lit.directions[:, near], lit.distance[near])
    return share


def _hidden(one: SceneObject, light: Light, points: Floats, directions: Floats, distance: Floats) -> Floats:
    """(N,) the share of the light that an object hides: a ramp over the cone's width where it passes the object."""
    origins = to_object(one, points - vector(one.centre))
    turned = to_object(one, directions)
    inside, along = _PAST[one.shape](one.radius, origins, turned)
    width = np.float32(light.spread) * np.maximum(along, 0)
    if light.position is not None:
        width /= distance
    width = np.maximum(width, np.float32(0.01))
    ramp = np.clip(np.float32(0.5) + np.float32(0.5) * inside / width, 0, 1)
    hidden: Floats = ramp * ramp * (3 - 2 * ramp)
    hidden[(along <= 0) | (along >= distance)] = 0
    return hidden


def _past_sphere(radius: float, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """Distance of rays inside the outline (< 0: outside), and where along them. The other two return the same."""
    along = -dots(origins, directions)
    squared = np.maximum(dots(origins, origins) - along * along, 0)
    return radius - np.sqrt(squared), along


def _past_cube(radius: float, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """The path through the cube shrinks to 0 at its outline, in proportion to the distance to it.

    Along the edge between the faces of axes i and j, the path's length grows by sqrt(1/d_i^2 + 1/d_j^2) per unit.
    """
    inverse = 1 / np.where(np.abs(directions) < 1e-6, np.float32(1e-6), directions)
    middle, half = -origins * inverse, radius * np.abs(inverse)
    enters, leaves = middle - half, middle + half
    enter, leave = enters.max(axis=0), leaves.min(axis=0)
    columns = np.arange(origins.shape[1])
    first, last = inverse[enters.argmax(axis=0), columns], inverse[leaves.argmin(axis=0), columns]
    inside = (leave - enter) / np.sqrt(first * first + last * last)
    return inside, -dots(origins, directions)


def _past_cylinder(radius: float, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """The distance of ray and axis decides at the mantle; where a lid is crossed, the path as for the cube."""
    across = np.maximum(directions[0] * directions[0] + directions[1] * directions[1], np.float32(1e-6))
    middle = -(origins[0] * directions[0] + origins[1] * directions[1]) / across
    from_axis = np.sqrt(np.maximum(origins[0] * origins[0] + origins[1] * origins[1] - across * middle * middle, 0))
    past_mantle = radius - from_axis
    half = np.sqrt(np.maximum(radius * radius - from_axis * from_axis, np.float32(1e-9)) / across)
    steep = 1 / np.where(np.abs(directions[2]) < 1e-6, np.float32(1e-6), directions[2])
    to_lids, half_lids = -origins[2] * steep, radius * np.abs(steep)
    enter = np.maximum(middle - half, to_lids - half_lids)
    leave = np.minimum(middle + half, to_lids + half_lids)
    by_lid_first, by_lid_last = enter > middle - half, leave < middle + half
    mantle, lid = (radius / (half * across)) ** 2, steep * steep
    growth = np.sqrt(np.where(by_lid_first, lid, mantle) + np.where(by_lid_last, lid, mantle))
    past_lid = (leave - enter) / growth
    inside = np.where(by_lid_first | by_lid_last, np.minimum(past_lid, past_mantle), past_mantle)
    outside = np.minimum(past_mantle, (radius - np.abs(origins[2] + middle * directions[2])) * np.sqrt(across))
    inside = np.where(past_mantle < 0, outside, inside)
    return inside, -dots(origins, directions)


_PAST = {"sphere": _past_sphere, "cube": _past_cube, "cylinder": _past_cylinder}
