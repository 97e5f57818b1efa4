"""The NumPy renderer: the same bytes every time, every look its own, shadows and mirrors where they belong."""

import hashlib
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vision_zero.make_data.clevr.lighting import Light, lights_of, lit_share, rays_to
from vision_zero.make_data.clevr.ray_tracing import crossing, object_mask, unit_vectors, vector
from vision_zero.make_data.clevr.render_numpy import render
from vision_zero.make_data.clevr.scenes import (
    COLOURS,
    MATERIALS,
    SHAPES,
    Camera,
    Lamps,
    Scene,
    SceneObject,
    SceneRules,
    sample_scene,
)

ROOT = Path(__file__).resolve().parents[3]
SIZE = (320, 240)
SPHERE = SceneObject("sphere", "large", "rubber", "red", 0.0, 0.0, 0.0)
PROGRAM = """
import hashlib, random
from vision_zero.make_data.clevr.render_numpy import render
from vision_zero.make_data.clevr.scenes import SceneRules, sample_scene
print(hashlib.sha256(render(sample_scene(random.Random(1), SceneRules()), (320, 240)).tobytes()).hexdigest())
"""


def pixels(*objects: SceneObject, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.asarray(render(Scene(objects), size)).astype(int)


def test_the_same_scene_has_the_same_bytes_in_every_process() -> None:
    here = hashlib.sha256(render(sample_scene(random.Random(1), SceneRules()), SIZE).tobytes()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize("size", [(320, 240), (64, 96), (200, 200)])
def test_size(size: tuple[int, int]) -> None:
    image = render(Scene((SPHERE,)), size)
    assert image.size == size
    assert image.mode == "RGB"


def test_every_colour_shape_and_material_has_its_own_look() -> None:
    looks = {
        (colour, shape, material): pixels(
            replace(SPHERE, colour=colour, shape=shape, material=material), size=(80, 60)
        ).tobytes()
        for colour in COLOURS
        for shape in SHAPES
        for material in MATERIALS
    }
    assert len(set(looks.values())) == len(looks) == 48


@pytest.mark.parametrize("colour", COLOURS)
def test_rubber_has_the_colour_it_is_said_to_have(colour: str) -> None:
    """The order of the channels, where they differ by much, is the colour's own."""
    one = replace(SPHERE, colour=colour)
    shown = pixels(one)[object_mask(Scene((one,)), SIZE) == 0].mean(axis=0)
    for a in range(3):
        for b in range(3):
            if COLOURS[colour][a] > COLOURS[colour][b] + 40:
                assert shown[a] > shown[b] + 10
    if colour == "gray":
        assert np.ptp(shown) < 12  # lamps are tinted a little


def test_far_from_an_edited_object_nothing_changes() -> None:
    other = replace(SPHERE, colour="blue", x=-2.0, y=2.0)
    before, after = pixels(SPHERE, other), pixels(replace(SPHERE, shape="cube", colour="green"), other)
    changed = np.abs(before - after).max(axis=2) > 0
    x, y, _ = Camera().project(SPHERE.centre, SIZE)
    rows, columns = np.nonzero(changed)
    assert 500 < changed.sum() < 20_000
    assert changed[:30].sum() == 0  # a sharp shadow ends, a soft one fades
    assert np.hypot(rows - y, columns - x)[np.abs(before - after).max(axis=2)[changed] > 60].max() < 45


def test_an_object_darkens_the_ground_beside_it_and_not_far_away() -> None:
    empty, shown = pixels(), pixels(SPHERE)
    ground = object_mask(Scene((SPHERE,)), SIZE) < 0
    darker = (empty - shown).max(axis=2) * ground
    assert darker.max() > 40
    assert (empty - shown).min(axis=2)[ground][: 320 * 10].min() >= -1  # nothing gets lighter at the top
    x, y, _ = Camera().project((0.0, 0.0, 0.0), SIZE)
    rows, columns = np.nonzero(darker > 30)
    assert np.hypot(rows - y, columns - x).max() < 80


def test_metal_mirrors_its_neighbour_and_rubber_does_not() -> None:
    """A red neighbour reddens a grey metal sphere more than a grey rubber one."""

    def reddened(material: str) -> float:
        grey = replace(SPHERE, colour="gray", material=material, y=-0.9, x=-0.9)
        means = []
        for colour in ("red", "gray"):
            red = replace(SPHERE, colour=colour, x=0.9, y=0.9)
            seen = pixels(grey, red)[object_mask(Scene((grey, red)), SIZE) == 0]
            means.append(seen[:, 0] - seen[:, 1:].mean(axis=1))
        return float((means[0] - means[1]).max())

    assert reddened("metal") > 20 > reddened("rubber")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_lamp_is_hidden_behind_an_object_half_at_its_outline_and_free_beside_it(shape: str) -> None:
    """A lamp straight above: on the ground, all is dark within the radius and all light beyond the soft edge."""
    lamp = Light((0.0, 0.0, 50.0), (0.0, 0.0, 1.0), 100.0, (1.0, 1.0, 1.0), 0.5)
    one = replace(SPHERE, shape=shape)
    # Where rays that touch the object's outline meet the ground: at the height of a sphere's middle, a lid's edge.
    outline = 0.7 * 50 / (50 - (0.7 if shape == "sphere" else 1.4))
    points = np.array([[0.3, outline, outline + 0.2, 3.0], [0.0] * 4, [0.0] * 4], np.float32)
    share = lit_share(lamp, rays_to(lamp, points), points, [one], np.full(points.shape[1], -1, np.int8))
    assert share[0] == 0
    assert share[1] == pytest.approx(0.5, abs=0.08)
    assert share[2:].tolist() == [1, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_shadows_agree_with_many_rays(shape: str) -> None:
    """A slanting lamp, against the share of 400 points of it that are seen: on the average and at every point."""
    lamp = Light((6.0, -3.0, 5.0), (0.717, -0.359, 0.598), 100.0, (1.0, 1.0, 1.0), 0.28)
    one = replace(SPHERE, shape=shape, rotation=20.0)
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-4, 1, 400), rng.uniform(-1, 2.5, 400), np.zeros(400)]).astype(np.float32)
    outside = np.hypot(points[0], points[1]) > 1.0
    points = points[:, outside]
    share = lit_share(lamp, rays_to(lamp, points), points, [one], np.full(points.shape[1], -1, np.int8))
    seen = np.zeros(points.shape[1])
    side = np.cross(lamp.direction, [0, 0, 1])
    side /= np.linalg.norm(side)
    up = np.cross(side, lamp.direction)
    n = 400
    for k in range(n):  # a sunflower of points on the disc
        radius, angle = lamp.spread * np.sqrt((k + 0.5) / n), k * 2.399963
        target = np.array(lamp.position) + radius * (np.cos(angle) * side + np.sin(angle) * up)
        enter, leave = crossing(one, points, unit_vectors(vector(target) - points))
        seen += ~((enter < leave) & (leave > 0))
    assert abs(share - seen / n).mean() < 0.02
    assert abs(share - seen / n).max() < 0.3


def test_lights_shine_down_on_the_scene() -> None:
    points = np.zeros((3, 1), np.float32)
    for light in lights_of(Lamps()):
        lit = rays_to(light, points)
        assert lit.directions[2, 0] > 0.3
        assert lit.irradiance[0] > 0
