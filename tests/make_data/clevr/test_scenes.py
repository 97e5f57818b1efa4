"""Scenes and edits: by the rules, from the generator alone, and refused with a reason where there is no room."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_vlm import scripted
from vision_zero.make_data.clevr.scenes import (
    ATTRIBUTES,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    SceneRules,
    edit_scene,
    sample_scene,
)
from vision_zero.make_data.maker import Rejected

RED_CUBE = SceneObject("cube", "large", "rubber", "red", 0.0, 0.0, 30.0)
RULES = SceneRules()
SEEDS = st.integers(0, 2**32)


def sampled(seed: int, rules: SceneRules = RULES) -> Scene:
    """The first scene that is not rejected."""
    for attempt in range(1000):
        try:
            return sample_scene(random.Random(f"{seed}/{attempt}"), rules)
        except Rejected:
            pass
    raise AssertionError("no scene in 1000 attempts")


@given(SEEDS)
def test_the_generator_alone_decides(seed: int) -> None:
    assert sampled(seed) == sampled(seed)


@given(SEEDS)
def test_camera_and_lamps_stay_within_their_jitter(seed: int) -> None:
    scene, unmoved = sampled(seed), Scene(())
    assert max(abs(a - b) for a, b in zip(scene.camera.position, unmoved.camera.position, strict=True)) <= 0.5
    for lamp in ("key", "fill", "back"):
        moved, there = getattr(scene.lamps, lamp), getattr(unmoved.lamps, lamp)
        assert 0 < max(abs(a - b) for a, b in zip(moved, there, strict=True)) <= 1


def test_without_jitter_nothing_moves() -> None:
    scene = sampled(0, SceneRules(camera_jitter=0, lamp_jitter=0))
    assert scene.camera == Scene(()).camera
    assert scene.lamps == Scene(()).lamps


@pytest.mark.parametrize("attributes", [("colour",), ("shape", "colour"), ("size",), tuple(ATTRIBUTES)])
@given(seed=SEEDS)
def test_an_edit_changes_what_it_is_told_to_and_nothing_else(attributes: tuple[str, ...], seed: int) -> None:
    rules = SceneRules(min_objects=3)
    scene = sampled(seed, rules)
    try:
        edited, changed = edit_scene(scene, random.Random(seed), rules, 3, attributes)
    except Rejected:
        return
    assert len(changed) == 3
    assert replace(edited, objects=scene.objects) == scene
    for index, (before, after) in enumerate(zip(scene.objects, edited.objects, strict=True)):
        different = {name for name in vars(before) if getattr(before, name) != getattr(after, name)}
        assert different == (set(attributes) if index in changed else set())


def test_a_cube_that_has_no_room_where_a_sphere_had_is_rejected() -> None:
    """Two large spheres 1.7 apart have a gap of 0.3; a cube reaches 0.29 further."""
    spheres = tuple(
        replace(RED_CUBE, shape="sphere", colour=colour, x=x) for colour, x in (("red", 0.0), ("blue", 1.7))
    )
    reasons = set()
    for seed in range(50):
        try:
            edited, _ = edit_scene(Scene(spheres), random.Random(seed), SceneRules(), 2, ("shape",))
            assert {one.shape for one in edited.objects} == {"cylinder"}
        except Rejected as rejected:
            reasons.add(str(rejected))
    assert reasons == {"no room for an edited object"}


def test_a_swap_is_no_edit() -> None:
    two = Scene((RED_CUBE, replace(RED_CUBE, size="small", x=2.0, y=2.0)))
    with pytest.raises(Rejected, match="swaps"):
        edit_scene(two, random.Random(0), SceneRules(), 2, ("size",))


def test_too_many_objects_find_no_room() -> None:
    with pytest.raises(Rejected, match="no room"):
        sample_scene(random.Random(0), SceneRules(min_objects=40, max_objects=40))


def test_too_few_objects_cannot_be_edited() -> None:
    with pytest.raises(ValueError, match="2 objects cannot be edited in a scene of 1"):
        edit_scene(Scene((RED_CUBE,)), random.Random(0), SceneRules(), 2, ("colour",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_objects": 0}, "0 to 6"),
        ({"min_objects": 7}, "7 to 6"),
        ({"gap": -1.0}, "gap must be"),
        ({"margin": float("nan")}, "margin must be"),
        ({"tries": 0}, "tries"),
        ({"lamp_jitter": 2.0}, "too much jitter"),
        ({"camera_jitter": 4.0}, "too much jitter"),
    ],
)
def test_rules_that_no_scene_can_follow_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneRules(**options)


def test_scripted_players_speak_of_the_same_colours_and_shapes() -> None:
    assert set(scripted.COLOURS) == set(COLOURS)
    assert set(scripted.SHAPES) == set(SHAPES)
