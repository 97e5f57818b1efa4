"""Classical edits: what they change, what they leave, how it is told in words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.data.image_files import ImageFile
from vision_zero.make_data.maker import Rejected, changed_pixels, changed_share
from vision_zero.make_data.photos.edits import (
    COLOURS,
    MIN_HUE_STEP,
    Colour,
    Edit,
    blended,
    colour_name,
    cut_out,
    mirror,
    other_colour,
    painted,
    paste,
    place,
    recolour_background,
    recolour_object,
)
from vision_zero.make_data.photos.segmentation import Pixels, subject

PHOTOS = Path(__file__).resolve().parents[3] / "data" / "photos"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    cv2.setNumThreads(0)


def photo(name: str) -> Pixels:
    return np.array(ImageFile(PHOTOS / f"{name}.jpg").open(), np.uint8)


def uniform(height: int = 120, width: int = 160, colour: tuple[int, int, int] = (90, 90, 90)) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def attempt(edit: Callable[[random.Random], Edit], tries: int = 20) -> Edit:
    """The first attempt that is not rejected."""
    for seed in range(tries):
        try:
            return edit(random.Random(f"test/{seed}"))
        except Rejected:
            pass
    raise AssertionError(f"{tries} attempts were rejected")


def test_changed_share_by_hand() -> None:
    before, after = uniform(10, 10), uniform(10, 10)
    after[0, 0] += 25  # not more than 25
    after[0, 1, 2] += 26  # one channel is enough
    after[1, :5] -= 40
    assert changed_share(before, after) == pytest.approx(6 / 100)


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from([0.0, 0.5, 1.0]))
def test_blending(below: int, above: int, opacity: float) -> None:
    mixed = blended(
        np.full((1, 1, 3), below, np.uint8), np.full((1, 1, 3), above, np.uint8), np.full((1, 1), opacity, np.float32)
    )
    assert abs(int(mixed[0, 0, 0]) - (below * (1 - opacity) + above * opacity)) <= 0.5


@pytest.mark.parametrize("colour", COLOURS, ids=lambda one: one.name)
@pytest.mark.parametrize("grey", [10, 90, 240])
def test_paint_has_the_colour_that_it_is_called(colour: Colour, grey: int) -> None:
    pixels = uniform(colour=(grey, grey, grey))
    alpha = np.zeros(pixels.shape[:2], np.float32)
    alpha[20:60, 20:60] = 1
    result = painted(pixels, alpha, colour)
    inside = alpha == 1
    assert np.array_equal(result[~inside], pixels[~inside])
    hue = cv2.cvtColor(result[inside][:1].reshape(1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0, 0, 0]
    assert abs((hue - colour.hue + 180) % 360 - 180) < 8
    if grey >= 90:
        assert colour_name(result, inside) == colour.name
        assert changed_pixels(pixels, result)[inside].all()


def test_a_new_colour_is_far_from_the_old_one() -> None:
    red = uniform(colour=(200, 40, 40))
    everywhere = np.ones(red.shape[:2], bool)
    drawn = {other_colour(red, everywhere, random.Random(seed)).hue for seed in range(60)}
    assert drawn == {one.hue for one in COLOURS if abs((one.hue + 180) % 360 - 180) >= MIN_HUE_STEP}
    grey = uniform()
    assert len({other_colour(grey, everywhere, random.Random(seed)).name for seed in range(100)}) == len(COLOURS)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((200, 30, 30), "red"),
        ((30, 60, 200), "blue"),
        ((245, 245, 245), "white"),
        ((120, 120, 122), "grey"),
        ((20, 20, 20), "black"),
        ((110, 70, 40), "brown"),
        ((40, 140, 50), "green"),
        ((105, 115, 50), "green"),  # grass
        ((230, 200, 50), "yellow"),
    ],
)
def test_names_of_colours(colour: tuple[int, int, int], name: str) -> None:
    pixels = uniform(colour=colour)
    assert colour_name(pixels, np.ones(pixels.shape[:2], bool)) == name


def test_places_in_words() -> None:
    pixels = uniform(90, 90)
    assert place((0, 0, 10, 10), pixels) == "at the top left"
    assert place((40, 40, 50, 50), pixels) == "in the middle"
    assert place((80, 35, 90, 55), pixels) == "at the right"
    assert place((0, 60, 90, 90), pixels) == "at the bottom"


def test_recolouring_the_parrot() -> None:
    pixels = photo("scarlet_macaw")
    edit = attempt(lambda rng: recolour_object(pixels, rng, 0.6))
    assert edit.kind == "recolour_object"
    assert edit.instruction.endswith(f"to {edit.notes['colour']}")
    assert changed_share(pixels, edit.pixels) > 0.02
    left, top, right, bottom = edit.box
    outside = changed_pixels(pixels, edit.pixels)
    outside[max(0, top - 8) : bottom + 8, max(0, left - 8) : right + 8] = False
    assert not outside.any()


def test_the_background_is_not_the_subject() -> None:
    """The hedgehog stays brown in grass of another colour."""
    pixels = photo("hedgehog")
    front = subject(pixels)
    assert front is not None
    edit = attempt(lambda rng: recolour_background(pixels, rng, 0.6), tries=5)
    changed = changed_pixels(pixels, edit.pixels)
    assert 0.08 < changed.mean() <= 0.65
    assert changed[front.alpha == 1].mean() < 0.05


@pytest.mark.parametrize("same", [True, False])
def test_pasting_changes_the_box_alone(same: bool) -> None:
    pixels = photo("panda")
    source = pixels if same else photo("pig")
    edit = attempt(lambda rng: paste(pixels, source, rng, same=same), tries=40)
    left, top, right, bottom = edit.box
    assert 0 <= left < right <= pixels.shape[1]
    assert 0 <= top < bottom <= pixels.shape[0]
    outside = np.ones(pixels.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert np.array_equal(edit.pixels[outside], pixels[outside])
    assert 0.01 < changed_share(pixels, edit.pixels) < 0.25
    assert ("copy" in edit.instruction) == same


@pytest.mark.parametrize("name", ["scarlet_macaw", "pig", "sheep", "hedgehog", "cat"])
def test_a_cut_out_reaches_no_border_but_the_lower_one(name: str) -> None:
    pixels = photo(name)
    piece = cut_out(pixels)
    if name in {"pig", "sheep", "hedgehog"}:
        assert piece is not None
    if piece is not None:
        left, top, right, bottom = piece.box
        assert 0 < left < right < pixels.shape[1]
        assert 0 < top < bottom <= pixels.shape[0]
        assert bottom >= pixels.shape[0] - 1 or not piece.reaches_below
        assert piece.pixels.shape[:2] == piece.alpha.shape == (bottom - top, right - left)


def test_mirroring_changes_the_box_alone_and_turns_its_middle_round() -> None:
    pixels = photo("pig")
    edit = attempt(lambda rng: mirror(pixels, rng, 0.6), tries=5)
    left, top, right, bottom = edit.box
    outside = np.ones(pixels.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert np.array_equal(edit.pixels[outside], pixels[outside])
    inside, turned = edit.pixels[top:bottom, left:right], pixels[top:bottom, left:right][:, ::-1]
    core = (slice(12, -12), slice(12, -12))
    # The light may be shifted smoothly, so that it goes on across the border.
    assert np.abs(inside[core].astype(int) - turned[core]).mean() < 8
    assert np.corrcoef(inside[core].ravel(), turned[core].ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda pixels, rng: recolour_object(pixels, rng, 0.6), "no object"),
        (lambda pixels, rng: recolour_background(pixels, rng, 0.6), "no background"),
        (lambda pixels, rng: paste(pixels, pixels, rng, same=True), "nothing can be cut"),
        (lambda pixels, rng: mirror(pixels, rng, 0.6), "no region can be mirrored"),
    ],
)
def test_an_empty_photograph_offers_nothing(edit: Callable[..., Edit], reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        edit(uniform(), random.Random(0))
