"""Drawn scenes: the same seed draws the same, an edit changes two objects and nothing else, files are read back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.drawn_files import changed_objects, write_pairs
from tiny_vlm import scripted
from vision_zero.data.drawn_scenes import (
    COLOURS,
    GRID,
    SHAPES,
    DrawnObject,
    DrawnScene,
    draw,
    drawn_pair,
    edit_scene,
    sample_scene,
    scenes_of,
)
from vision_zero.data.pairs import load_pairs, open_pair


@given(st.integers(0, 2**32))
def test_an_edit_changes_colour_and_shape_of_exactly_two_objects_in_place(seed: int) -> None:
    original, edited = scenes_of(seed)
    assert 3 <= len(original.objects) <= 6
    assert [one.cell for one in original.objects] == [one.cell for one in edited.objects]
    changed = changed_objects(original, edited)
    assert len(changed) == 2
    for index in changed:
        before, after = original.objects[index], edited.objects[index]
        assert before.colour != after.colour
        assert before.shape != after.shape
    for scene in (original, edited):
        assert len({one.colour for one in scene.objects}) == len(scene.objects)


def test_the_same_seed_draws_the_same_pixels() -> None:
    assert drawn_pair(3).image.open().tobytes() == drawn_pair(3).image.open().tobytes()
    assert drawn_pair(3).image.open().tobytes() != drawn_pair(4).image.open().tobytes()


def test_each_object_stays_in_its_cell() -> None:
    """One cell is one image token only if nothing is drawn across its border."""
    scene = DrawnScene((DrawnObject("red", "cube", 5),))
    empty, drawn = draw(DrawnScene(())), draw(scene)
    different = [
        cell
        for cell in range(GRID * GRID)
        if (box := (cell % GRID * 28, cell // GRID * 28, cell % GRID * 28 + 28, cell // GRID * 28 + 28))
        and drawn.crop(box).tobytes() != empty.crop(box).tobytes()
    ]
    assert different == [5]


def test_every_colour_and_shape_looks_different() -> None:
    tiles = {draw(DrawnScene((DrawnObject(colour, shape, 0),))).tobytes() for colour in COLOURS for shape in SHAPES}
    assert len(tiles) == len(COLOURS) * len(SHAPES)


def test_two_objects_may_not_share_a_colour_or_a_cell() -> None:
    with pytest.raises(ValueError, match="share a colour"):
        DrawnScene((DrawnObject("red", "cube", 0), DrawnObject("red", "sphere", 1)))
    with pytest.raises(ValueError, match="share a cell"):
        DrawnScene((DrawnObject("red", "cube", 0), DrawnObject("blue", "sphere", 0)))


def test_a_scene_of_one_object_cannot_be_edited() -> None:
    with pytest.raises(ValueError, match="needs 2 objects"):
        edit_scene(sample_scene(random.Random(0), 1), random.Random(0))


def test_written_pairs_are_read_back_with_their_scenes(tmp_path) -> None:
    write_pairs(tmp_path, n=3, seed=40)
    pairs = load_pairs(tmp_path, scenes=tmp_path / "scenes")
    assert [pair.id for pair in pairs] == ["drawn_000", "drawn_001", "drawn_002"]
    for number, pair in enumerate(pairs):
        in_memory = drawn_pair(40 + number)
        assert pair.domain == in_memory.domain == "scenes"
        assert dict(pair.meta) == in_memory.meta
        assert [image.tobytes() for image in open_pair(pair)] == [image.tobytes() for image in open_pair(in_memory)]


def test_scripted_players_speak_of_the_same_colours_and_shapes() -> None:
    assert set(scripted.COLOURS) == set(COLOURS)
    assert set(scripted.SHAPES) == set(SHAPES)
