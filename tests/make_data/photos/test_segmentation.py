"""Regions of drawn images whose truth is known, and the rules of segmentation on numbers worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vision_zero.make_data.photos.segmentation import (
    AREA_SIDE,
    Mask,
    Pixels,
    Region,
    _merge,
    areas,
    box_of,
    exact,
    grab_cut,
    shrink,
    subject,
    tidy,
)

HEIGHT, WIDTH = 180, 240


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    cv2.setNumThreads(0)


def disc(radius: int = 45) -> Mask:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((y - 100) ** 2 + (x - 120) ** 2 < radius**2)


def drawn(noise: float = 6) -> Pixels:
    """A red disc before green ground and a blue sky."""
    rng = np.random.default_rng(0)
    picture: NDArray[np.float64] = np.empty((HEIGHT, WIDTH, 3))
    picture[:90], picture[90:] = (120, 160, 220), (70, 130, 60)
    picture[disc()] = (190, 60, 50)
    return np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)


def agreement(found: Mask, truth: Mask) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())


def test_areas_are_the_three_that_were_drawn() -> None:
    labels = areas(drawn())
    assert max(labels.shape) == AREA_SIDE
    truth = cv2.resize(disc().astype(np.uint8), labels.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    disc_label = int(np.bincount(labels[truth]).argmax())
    assert agreement(labels == disc_label, truth) > 0.8  # a rim of mixed colours is an area of its own
    sky, ground = labels[2, 2], labels[-3, 2]
    assert len({int(sky), int(ground), disc_label}) == 3


def test_subject_is_the_disc() -> None:
    found = subject(drawn())
    assert found is not None
    assert agreement(found.mask, disc()) > 0.95
    assert found.edge_contrast > 3
    assert found.borders == frozenset()
    assert found.box == pytest.approx((76, 56, 165, 145), abs=3)


def test_a_rough_mask_is_moved_to_the_edge() -> None:
    found = exact(drawn(), disc(39))
    assert found is not None
    assert agreement(found.mask, disc()) > 0.95 > agreement(disc(39), disc()) + 0.1
    assert 0 <= found.alpha.min() <= found.alpha.max() <= 1
    assert exact(drawn(), np.zeros((HEIGHT, WIDTH), bool)) is None


def test_the_same_pixels_give_the_same_region_whatever_was_drawn_before() -> None:
    first = subject(drawn())
    cv2.setRNGSeed(123)
    second = subject(drawn())
    assert first is not None
    assert second is not None
    assert np.array_equal(first.alpha, second.alpha)


def test_merging_by_hand() -> None:
    """Five pixels in a row. With k = 2: 1 <= 0 + 2/1 joins, then 1 <= min(1 + 2/2, 0 + 2/1) joins; 5 never."""
    edges = [(0, 1, 1.0), (1, 2, 1.0), (3, 4, 1.0), (2, 3, 5.0)]
    roots = _merge(edges, 5, scale=2.0, min_size=1)
    assert roots[0] == roots[1] == roots[2] != roots[3] == roots[4]
    # A scale of 10 lets the heavy edge pass: 5 <= min(1 + 10/3, 1 + 10/2) is false, 20: 5 <= 1 + 20/3 is true.
    assert len(set(_merge(edges, 5, scale=10.0, min_size=1))) == 2
    assert len(set(_merge(edges, 5, scale=20.0, min_size=1))) == 1
    # Areas below the least size join their neighbour whatever the edge.
    assert len(set(_merge(edges, 5, scale=2.0, min_size=3))) == 1


def test_grab_cut_of_one_kind_only_is_left_as_it_is() -> None:
    picture = drawn()
    for value, inside in ((cv2.GC_BGD, False), (cv2.GC_PR_BGD, False), (cv2.GC_FGD, True), (cv2.GC_PR_FGD, True)):
        assert (grab_cut(picture, np.full((HEIGHT, WIDTH), value, np.uint8), 1) == inside).all()


def test_tidy_keeps_the_largest_part_and_fills_small_holes() -> None:
    mask = disc()
    mask[98:102, 118:122] = False
    mask[5:15, 5:15] = True
    tidied = tidy(mask)
    assert tidied[100, 120]
    assert not tidied[10, 10]
    assert agreement(tidied, disc()) > 0.98
    assert not tidy(np.zeros((20, 20), bool)).any()


def test_box_borders_and_share() -> None:
    alpha = np.zeros((10, 20), np.float32)
    alpha[4:10, 3:7] = 1
    region = Region(alpha, 1.0)
    assert region.box == (3, 4, 7, 10)
    assert region.borders == {"bottom"}
    assert region.share == pytest.approx(24 / 200)
    with pytest.raises(ValueError, match="no box"):
        box_of(np.zeros((3, 3), bool))


def test_shrink_keeps_the_ratio_and_never_enlarges() -> None:
    assert shrink(drawn(), 120).shape == (90, 120, 3)
    assert shrink(drawn(), 1000).shape == (HEIGHT, WIDTH, 3)
