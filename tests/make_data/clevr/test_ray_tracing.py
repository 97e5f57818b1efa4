"""Rays and shapes: crossings by hand, hits that lie on surfaces, pixel counts against another way of counting."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.make_data.clevr.clevr_rules import wrong_counts
from vision_zero.make_data.clevr.ray_tracing import (
    GROUND,
    crossing,
    near_ray,
    nearest_hits,
    normals,
    object_mask,
    pixels_of_objects,
    unit_vectors,
    vector,
)
from vision_zero.make_data.clevr.scenes import SHAPES, Scene, SceneObject, SceneRules, sample_scene, scene_json
from vision_zero.make_data.maker import Rejected

CUBE = SceneObject("cube", "large", "rubber", "red", 1.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_straight_through_the_middle(shape: str) -> None:
    one = replace(CUBE, shape=shape)
    for origin, direction in (((-4, 0, 0.7), (1, 0, 0)), ((1, 0, 5.7), (0, 0, -1)), ((1, 5, 0.7), (0, -1, 0))):
        enter, leave = crossing(one, vector(origin), vector(direction))
        assert enter[0] == pytest.approx(4.3, abs=1e-5)
        assert leave[0] == pytest.approx(5.7, abs=1e-5)


def test_a_turned_cube_is_met_at_its_corner() -> None:
    enter, _ = crossing(replace(CUBE, rotation=45.0), vector((-4, 0, 0.7)), vector((1, 0, 0)))
    assert enter[0] == pytest.approx(5 - 0.7 * math.sqrt(2), abs=1e-3)
    turned, _ = crossing(replace(CUBE, rotation=30.0), vector((-4, 0, 0.7)), vector((1, 0, 0)))
    assert turned[0] == pytest.approx(5 - 0.7 / math.cos(math.radians(30)), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_misses(shape: str) -> None:
    one = replace(CUBE, shape=shape)
    for origin, direction in (((-4, 0.71, 0.7), (1, 0, 0)), ((-4, 0, 1.41), (1, 0, 0)), ((1.71, 0, 5), (0, 0, -1))):
        enter, leave = crossing(one, vector(origin), vector(direction))
        assert enter[0] > leave[0]


@settings(max_examples=30)
@given(st.sampled_from(SHAPES), st.floats(0, 360), st.integers(0, 1000))
def test_hits_are_on_the_surface_and_normals_look_back(shape: str, rotation: float, seed: int) -> None:
    one = replace(CUBE, shape=shape, rotation=rotation)
    rng = np.random.default_rng(seed)
    origins = unit_vectors(rng.normal(size=(3, 500)).astype(np.float32)) * 3 + vector(one.centre)
    directions = unit_vectors(vector(one.centre) + rng.uniform(-1, 1, (3, 500)).astype(np.float32) - origins)
    enter, leave = crossing(one, origins, directions)
    height = origins[2] + enter * directions[2]
    # Nothing is asked of the side that stands on the ground.
    met = np.flatnonzero((enter < leave) & (height > 0.01))
    assert len(met) > 100
    points = origins[:, met] + enter[met] * directions[:, met]
    x, y, z = points - vector(one.centre)
    turn = math.radians(rotation)
    across, along = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    from_centre = {
        "sphere": np.sqrt(x * x + y * y + z * z),
        "cylinder": np.maximum(np.hypot(x, y), np.abs(z)),
        "cube": np.max(np.abs([across, along, z]), axis=0),
    }[shape]
    assert from_centre == pytest.approx(np.full(len(met), 0.7), abs=1e-4)
    normal = normals(one, points)
    assert np.linalg.norm(normal, axis=0) == pytest.approx(np.ones(len(met)), abs=1e-4)
    # Rounded edges let a normal lean over by 45 degrees; it never looks away by more than that.
    assert (normal * directions[:, met]).sum(axis=0).max() < math.sin(math.radians(46))
    # Everything that meets it is near it.
    assert set(met) <= set(near_ray(one, origins, directions))


def test_the_nearer_object_is_seen_and_the_ground_behind() -> None:
    scene = Scene((replace(CUBE, x=2.0), CUBE))
    origins = np.repeat(vector((-4, 0, 0.7)), 3, axis=1)
    directions = unit_vectors(np.array([[1, 0, 0], [0, 0, -1], [0, 0, 1]], np.float32).T)
    hits = nearest_hits(scene, origins, directions)
    assert hits.which.tolist() == [1, GROUND, GROUND]
    assert hits.distance.tolist() == pytest.approx([4.3, 0.7, math.inf])


def test_pixels_agree_with_another_way_of_counting() -> None:
    n_scenes = 0
    for seed in range(100):
        try:
            scene = sample_scene(random.Random(seed), SceneRules())
        except Rejected:
            continue
        counts = pixels_of_objects(object_mask(scene, (320, 240)), len(scene.objects))
        assert sum(counts) > 0
        assert not wrong_counts(scene_json(scene, (320, 240), "", 0, counts))
        n_scenes += 1
        if n_scenes == 3:
            break
    assert n_scenes == 3


def test_counts_by_hand() -> None:
    mask = np.array([[-1, 0, 0], [2, 2, 2]], np.int8)
    assert pixels_of_objects(mask, 4) == (2, 0, 3, 0)
