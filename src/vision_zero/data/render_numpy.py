"""Draw a scene with NumPy alone: one ray a pixel, four at edges, soft shadows, one mirror bounce for metal.

Arithmetic only, no randomness: the same scene has the same bytes. For the look see `scene_light` and the materials
below; camera and positions are those of the other renderer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_zero.data.scene_light import GROUND_ALBEDO, SKY, Light, lights_of, lit_share, rays_to
from vision_zero.data.scenes import COLOURS, Scene, SceneObject
from vision_zero.data.tracing import (
    GROUND,
    NEAREST,
    Floats,
    Hits,
    camera_rays,
    dots,
    nearest_hits,
    normals,
    pixel_centres,
    unit_vectors,
    vector,
)

RUBBER_GLOSS, RUBBER_ROUGHNESS = 0.04, 0.35
METAL_ROUGHNESS, MIRROR_ROUGHNESS = 0.2, 0.05
"""Widths of the lamps' reflections, the alpha of the GGX distribution. A lamp's own width is in the mirror's."""
METAL_MIRROR = 0.6
"""Share of metal's reflection that is sharp; the rest is blurred beyond recognition."""

GROUND_RADIANCE = 0.22
"""What the ground sends back, on the average."""

EDGE_SAMPLES = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
"""Offsets in pixels of the rays of a pixel at an edge: a grid turned, so that steep and flat edges gain alike."""


def render(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """The RGB image of `size` (width, height)."""
    lights = lights_of(scene.lamps)
    eye = vector(scene.camera.position)
    x, y = pixel_centres(size)
    directions = camera_rays(scene.camera, size, x, y)
    hits = nearest_hits(scene, eye, directions)
    seen = _radiance(scene, lights, eye, directions, hits)
    edges = _edges(hits.which.reshape(size[1], size[0]))
    if len(edges):
        across = np.concatenate([x[edges] + np.float32(dx) for dx, _ in EDGE_SAMPLES])
        down = np.concatenate([y[edges] + np.float32(dy) for _, dy in EDGE_SAMPLES])
        directions = camera_rays(scene.camera, size, across, down)
        samples = _radiance(scene, lights, eye, directions, nearest_hits(scene, eye, directions))
        # Clipped before the mean, as a highlight on an edge would otherwise make whole pixels white.
        seen[:, edges] = np.minimum(samples, 1).reshape(3, len(EDGE_SAMPLES), -1).mean(axis=1)
    return Image.fromarray(_encode(seen).T.reshape(size[1], size[0], 3))


def _edges(which: NDArray[np.int8]) -> NDArray[np.intp]:
    """Pixels whose neighbour to the right or below shows something else, and these neighbours."""
    edge = np.zeros(which.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        different = which[a] != which[b]
        edge[a] |= different
        edge[b] |= different
    return np.flatnonzero(edge)


def _radiance(
    scene: Scene, lights: Sequence[Light], origins: Floats, directions: Floats, hits: Hits, *, bounce: bool = True
) -> Floats:
    """(3, N) linear light that comes back along rays (3, N) from what they hit."""
    seen = np.full(directions.shape, SKY, np.float32)
    ground = np.flatnonzero((hits.which == GROUND) & np.isfinite(hits.distance))
    if len(ground):
        points = _points(origins, directions, hits, ground)
        seen[:, ground] = _ground(points, lights, scene.objects)
    for number, one in enumerate(scene.objects):
        some = np.flatnonzero(hits.which == number)
        if len(some):
            points = _points(origins, directions, hits, some)
            others = (*scene.objects[:number], *scene.objects[number + 1 :])
            seen[:, some] = _surface(one, others, scene, lights, points, directions[:, some], bounce=bounce)
    return seen


def _points(origins: Floats, directions: Floats, hits: Hits, some: NDArray[np.intp]) -> Floats:
    starts = origins if origins.shape[1] == 1 else origins[:, some]
    points: Floats = starts + directions[:, some] * hits.distance[some]
    return points


def _ground(points: Floats, lights: Sequence[Light], objects: Sequence[SceneObject]) -> Floats:
    light = np.full(points.shape, SKY * np.pi, np.float32)
    for one in lights:
        lit = rays_to(one, points)
        irradiance = lit.irradiance * lit.directions[2] * lit_share(one, lit, points, objects)
        light += vector(one.colour) * irradiance
    light *= GROUND_ALBEDO / np.pi
    return light


def _surface(
    one: SceneObject,
    others: Sequence[SceneObject],
    scene: Scene,
    lights: Sequence[Light],
    points: Floats,
    directions: Floats,
    *,
    bounce: bool,
) -> Floats:
    """Light from an object's surface at `points` back along `directions`."""
    colour = vector([channel / 255 for channel in COLOURS[one.colour]])
    normal = normals(one, points)
    diffuse: Floats = np.float32(np.pi) * np.repeat(_blurred_surroundings(normal[2])[None], 3, axis=0)
    gloss = np.zeros(points.shape, np.float32)
    for light in lights:
        lit = rays_to(light, points)
        facing = np.maximum(dots(normal, lit.directions), 0)
        arriving = lit.irradiance * facing * lit_share(light, lit, points, others)
        diffuse += vector(light.colour) * arriving
        if light.position is not None:
            gloss += vector(light.colour) * (arriving * _gloss(one, normal, lit.directions, directions))
    if one.material == "rubber":
        matt: Floats = colour * diffuse / np.float32(np.pi) + gloss
        return matt
    mirrored = directions - 2 * dots(directions, normal) * normal
    blurred = _blurred_surroundings(mirrored[2])
    if not bounce:
        return colour * (blurred + gloss)
    starts = points + np.float32(NEAREST) * normal
    hits = nearest_hits(scene, starts, mirrored)
    reflected = _radiance(scene, lights, starts, mirrored, hits, bounce=False)
    metal: Floats = colour * (np.float32(METAL_MIRROR) * reflected + np.float32(1 - METAL_MIRROR) * blurred + gloss)
    return metal


def _gloss(one: SceneObject, normal: Floats, to_light: Floats, directions: Floats) -> Floats:
    """How strongly a light is thrown towards the eye, by GGX distributions with Kelemen's visibility term."""
    halfway = unit_vectors(to_light - directions)
    slant = np.maximum(dots(to_light, halfway), np.float32(0.1))
    squared = np.maximum(dots(normal, halfway), 0) ** 2
    if one.material == "rubber":
        density = RUBBER_GLOSS * _ggx(squared, RUBBER_ROUGHNESS)
    elif one.shape != "sphere":  # a sharp highlight on an edge one pixel wide is a row of dots
        density = _ggx(squared, METAL_ROUGHNESS)
    else:
        density = METAL_MIRROR * _ggx(squared, MIRROR_ROUGHNESS) + (1 - METAL_MIRROR) * _ggx(squared, METAL_ROUGHNESS)
    thrown: Floats = density / (4 * slant * slant)
    return thrown


def _ggx(squared: Floats, roughness: float) -> Floats:
    """The density of facets halfway between light and eye, by the squared cosine of their angle to the normal."""
    alpha = np.float32(roughness**2)
    density: Floats = alpha / (np.float32(np.pi) * (squared * (alpha - 1) + 1) ** 2)
    return density


def _blurred_surroundings(up: Floats) -> Floats:
    """What a very rough mirror sees, and a matt surface: ground below, sky above, mixed by how far up it looks."""
    ground = np.float32(GROUND_RADIANCE)
    return ground + (np.float32(SKY) - ground) * (0.5 + 0.5 * up)


def _encode(linear: Floats) -> NDArray[np.uint8]:
    """sRGB bytes of linear light, by table: 4096 steps are finer than a byte's except in the very dark."""
    steps = np.clip(linear * np.float32(4095) + np.float32(0.5), 0, 4095).astype(np.uint16)
    return _SRGB[steps]


def _srgb_table() -> NDArray[np.uint8]:
    linear = np.arange(4096) / 4095
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


_SRGB = _srgb_table()
