"""CLEVR's JSON of a scene, by hand, and back again."""

import json
import random

import pytest

from tests.make_data.clevr.scene_from_json import scene_from_json
from vision_zero.make_data.clevr.scenes import (
    Camera,
    Scene,
    SceneObject,
    SceneRules,
    comparison_json,
    edit_scene,
    relationships,
    sample_scene,
    scene_json,
)

SIZE = (320, 240)


def sphere(colour: str, x: float, y: float) -> SceneObject:
    return SceneObject("sphere", "small", "metal", colour, x, y, 0.0)


# Seen from +x: y grows to the right, and what has the smaller x is behind.
SCENE = Scene((sphere("red", 0.0, 0.0), sphere("blue", 1.0, 2.0), sphere("cyan", -1.0, 0.1)), Camera((10.0, 0.0, 5.0)))


def test_relationships_by_hand() -> None:
    """Cyan is 0.1 to the right of red, less than the 0.2 that count, and behind it."""
    assert relationships(SCENE) == {
        "right": [[1], [], [1]],
        "left": [[], [0, 2], []],
        "behind": [[2], [0, 2], []],
        "front": [[1], [], [0, 1]],
    }


def test_an_object_in_clevrs_words() -> None:
    described = scene_json(SCENE, SIZE, "one.png", 3, (10, 11, 12))
    assert described["image_filename"] == "one.png"
    assert described["image_index"] == 3
    red = described["objects"][0]
    # 0.35 above the origin, at which the camera looks from a distance of sqrt(125): cos = 10 / sqrt(125).
    row = 120 - 350 * 0.35 * (10 / 125**0.5) / (125**0.5 - 0.35 * 5 / 125**0.5)
    assert red == {
        "shape": "sphere",
        "size": "small",
        "material": "metal",
        "color": "red",
        "3d_coords": [0.0, 0.0, 0.35],
        "rotation": 0.0,
        "pixel_coords": [160, round(row), pytest.approx(125**0.5 - 0.35 * 5 / 125**0.5)],
    }
    assert set(described["directions"]) == {"left", "right", "front", "behind", "above", "below"}


def test_a_scene_comes_back_from_its_json() -> None:
    scene = sample_scene(random.Random(1), SceneRules())
    described = scene_json(scene, SIZE, "one.png", 0, [0] * len(scene.objects))
    assert scene_from_json(json.loads(json.dumps(described))) == scene


def test_the_log_names_what_changed() -> None:
    edited, changed = edit_scene(SCENE, random.Random(0), SceneRules(), 2, ("colour", "shape"))
    before, after = (scene_json(one, SIZE, "", 0, (1, 1, 1)) for one in (SCENE, edited))
    log = comparison_json(before, after)["modification"]["replaced_objects"]
    assert [one["index"] for one in log] == list(changed)
    for one in log:
        assert one["original"] == before["objects"][one["index"]]
        assert one["replacement"] == after["objects"][one["index"]]
        assert one["original"]["pixel_coords"] == one["replacement"]["pixel_coords"]
