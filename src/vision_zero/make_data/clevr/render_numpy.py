"""Renderer in NumPy: one ray per pixel, four at edges, soft shadows, one mirror bounce for metal.

Nothing is random: the same scene gives the same bytes. Camera, lamps and positions are those of the other renderer.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_zero.make_data.clevr import ray_tracing
from vision_zero.make_data.clevr.lighting import GROUND_ALBEDO, SKY, lights_of, lit_share, rays_to
from vision_zero.make_data.clevr.ray_tracing import GROUND, NEAREST, Floats, Hits, dots, nearest_hits, vector
from vision_zero.make_data.clevr.scenes import COLOURS, Scene, SceneObject

RUBBER_GLOSS, RUBBER_ROUGHNESS = 0.04, 0.35
METAL_ROUGHNESS, MIRROR_ROUGHNESS = 0.2, 0.05
"""Widths of the lamps' reflections, the alpha of the GGX distribution. A lamp's own width is in the mirror's."""
METAL_MIRROR = 0.6  # share of metal's reflection that is sharp; the rest is blurred beyond recognition
GROUND_RADIANCE = 0.22  # mean radiance of the ground
EDGE_SAMPLES = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
"""Offsets in pixels of the rays of a pixel at an edge: a rotated grid, equally good for steep and flat edges."""


def render(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """The RGB image of `size` (width, height)."""
    eye = vector(scene.camera.position)
    x, y = ray_tracing.pixel_centres(size)
    directions = ray_tracing.camera_rays(scene.camera, size, x, y)
    hits = nearest_hits(scene, eye, directions)
    seen = _radiance(scene, eye, directions, hits)
    edges = _edges(hits.which.reshape(size[1], size[0]))
    if len(edges):
        across = np.concatenate([x[edges] + np.float32(dx) for dx, _ in EDGE_SAMPLES])
        down = np.concatenate([y[edges] + np.float32(dy) for _, dy in EDGE_SAMPLES])
        directions = ray_tracing.camera_rays(scene.camera, size, across, down)
        samples = _radiance(scene, eye, directions, nearest_hits(scene, eye, directions))
        # Clipped before the mean, as a highlight on an edge would otherwise make whole pixels white.
        seen[:, edges] = np.minimum(samples, 1).reshape(3, len(EDGE_SAMPLES), -1).mean(axis=1)
    return Image.fromarray(_encode(seen).T.reshape(size[1], size[0], 3))


def _edges(which: NDArray[np.int8]) -> NDArray[np.intp]:
    """Pixels whose neighbour to the right or below shows another object, and these neighbours."""
    edge = np.zeros(which.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        different = which[a] != which[b]
        edge[a] |= different
        edge[b] |= different
    return np.flatnonzero(edge)


def _radiance(scene: Scene, origins: Floats, directions: Floats, hits: Hits, *, bounce: bool = True) -> Floats:
    """(3, N) linear radiance along rays (3, N) from their hits."""
    seen = np.full(directions.shape, SKY, np.float32)
    ground = np.flatnonzero((hits.which == GROUND) & np.isfinite(hits.distance))
    if len(ground):
        seen[:, ground] = _ground(scene, _points(origins, directions, hits, ground))
    objects = np.flatnonzero(hits.which != GROUND)
    if len(objects):
        points = _points(origins, directions, hits, objects)
        which = hits.which[objects]
        seen[:, objects] = _surfaces(scene, which, points, directions[:, objects], bounce)
    return seen


def _points(origins: Floats, directions: Floats, hits: Hits, some: NDArray[np.intp]) -> Floats:
    starts = origins if origins.shape[1] == 1 else origins[:, some]
    return np.asarray(starts + directions[:, some] * hits.distance[some])


def _ground(scene: Scene, points: Floats) -> Floats:
    nobody = np.full(points.shape[1], GROUND, np.int8)
    light = np.full(points.shape, SKY * np.pi, np.float32)
    for one in lights_of(scene.lamps):
        lit = rays_to(one, points)
        irradiance = lit.irradiance * lit.directions[2] * lit_share(one, lit, points, scene.objects, nobody)
        light += vector(one.colour) * irradiance
    light *= GROUND_ALBEDO / np.pi
    return light


def _surfaces(scene: Scene, which: NDArray[np.int8], points: Floats, directions: Floats, bounce: bool) -> Floats:
    """Radiance from points (3, N) on the objects `which` (N,), back along `directions`."""
    normal = np.empty_like(points)
    for number, one in enumerate(scene.objects):
        some = np.flatnonzero(which == number)
        normal[:, some] = ray_tracing.normals(one, points[:, some])
    looks = _looks(scene.objects)[:, which]
    seen = np.float32(np.pi) * np.repeat(_blurred_surroundings(normal[2])[None], 3, axis=0)
    gloss = np.zeros(points.shape, np.float32)
    for light in lights_of(scene.lamps):
        lit = rays_to(light, points)
        facing = np.maximum(dots(normal, lit.directions), 0)
        arriving = lit.irradiance * facing * lit_share(light, lit, points, scene.objects, which)
        seen += vector(light.colour) * arriving
        if light.position is not None:
            gloss += vector(light.colour) * (arriving * _gloss(looks, normal, lit.directions, directions))
    seen /= np.pi
    metal = np.flatnonzero(looks[_METAL])
    if len(metal):
        seen[:, metal] = _mirrored(scene, points[:, metal], normal[:, metal], directions[:, metal], bounce)
    # A metal's colour is also that of its highlights.
    seen += np.where(looks[_METAL] > 0, gloss, 0)
    seen *= looks[:3]
    seen += np.where(looks[_METAL] > 0, 0, gloss)
    return seen


def _mirrored(scene: Scene, points: Floats, normal: Floats, directions: Floats, bounce: bool) -> Floats:
    """Reflection in colourless metal, without the lamps themselves."""
    away = directions - 2 * dots(directions, normal) * normal
    blurred = np.repeat(_blurred_surroundings(away[2])[None], 3, axis=0)
    if not bounce:
        return blurred
    starts = points + np.float32(NEAREST) * normal
    reflected = _radiance(scene, starts, away, nearest_hits(scene, starts, away), bounce=False)
    reflected *= METAL_MIRROR
    reflected += (1 - METAL_MIRROR) * blurred
    return reflected


_METAL, _WIDE, _WIDTH, _SHARP = 3, 4, 5, 6
"""Rows of `_looks` after the three of the colour."""


def _looks(objects: Sequence[SceneObject]) -> Floats:
    """(7, objects): colour; 1 for metal; share and roughness of the wide highlight; share of the sharp one."""
    looks = np.empty((7, len(objects)), np.float32)
    for number, one in enumerate(objects):
        looks[:3, number] = [channel / 255 for channel in COLOURS[one.colour]]
        if one.material == "rubber":
            looks[3:, number] = 0, RUBBER_GLOSS, RUBBER_ROUGHNESS, 0
        elif one.shape == "sphere":
            looks[3:, number] = 1, 1 - METAL_MIRROR, METAL_ROUGHNESS, METAL_MIRROR
        else:  # a sharp highlight on an edge one pixel wide would be a row of dots
            looks[3:, number] = 1, 1, METAL_ROUGHNESS, 0
    return looks


def _gloss(looks: Floats, normal: Floats, to_light: Floats, directions: Floats) -> Floats:
    """Specular reflection of a light towards the eye: GGX distributions with Kelemen's visibility term."""
    halfway = ray_tracing.unit_vectors(to_light - directions)
    slant = np.maximum(dots(to_light, halfway), np.float32(0.1))
    squared = np.maximum(dots(normal, halfway), 0) ** 2
    mirror = np.full_like(squared, MIRROR_ROUGHNESS)
    density = looks[_WIDE] * _ggx(squared, looks[_WIDTH]) + looks[_SHARP] * _ggx(squared, mirror)
    return np.asarray(density / (4 * slant * slant))


def _ggx(squared: Floats, roughness: Floats) -> Floats:
    """Density of facets halfway between light and eye, by the squared cosine of their angle to the normal."""
    alpha = roughness * roughness
    return np.asarray(alpha / (np.float32(np.pi) * (squared * (alpha - 1) + 1) ** 2))


def _blurred_surroundings(up: Floats) -> Floats:
    """Ambient light of matt and very rough surfaces: ground and sky, mixed by the upward component of the normal."""
    ground = np.float32(GROUND_RADIANCE)
    return ground + (np.float32(SKY) - ground) * (0.5 + 0.5 * up)


def _encode(linear: Floats) -> NDArray[np.uint8]:
    """sRGB bytes of linear light, by table: 4096 steps are finer than a byte's except in the very dark."""
    steps = np.clip(linear * np.float32(4095) + np.float32(0.5), 0, 4095).astype(np.uint16)
    return _SRGB[steps]


_LINEAR = np.arange(4096) / 4095
_CURVE = np.where(_LINEAR <= 0.0031308, 12.92 * _LINEAR, 1.055 * _LINEAR ** (1 / 2.4) - 0.055)
_SRGB = np.round(_CURVE * 255).astype(np.uint8)
