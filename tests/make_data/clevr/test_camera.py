"""The camera: CLEVR's published directions, points whose place in the image is known, and there and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.make_data.clevr.ray_tracing import camera_rays
from vision_zero.make_data.clevr.scenes import Camera, dot, focal_length, minus, unit

SIZE = (320, 240)
COORDINATE = st.floats(-3, 3)


def test_directions_are_those_of_clevr() -> None:
    """The unmoved camera's, as in the scene files of CLEVR's validation set."""
    directions = Camera().directions()
    assert directions["right"] == pytest.approx((0.6563, 0.7545, 0), abs=1e-3)
    assert directions["behind"] == pytest.approx((-0.7545, 0.6563, 0), abs=1e-3)
    for one, other in (("left", "right"), ("front", "behind"), ("above", "below")):
        assert directions[one] == tuple(-value for value in directions[other])


def test_places_by_hand() -> None:
    camera = Camera((10.0, 0.0, 0.0))
    assert camera.project((0.0, 0.0, 0.0), SIZE) == pytest.approx((160, 120, 10))
    # Seen from +x, +y is to the right; 350 pixels is the focal length of 320 pixels.
    assert camera.project((0.0, 1.0, 0.0), SIZE) == pytest.approx((195, 120, 10))
    assert camera.project((5.0, 0.0, 1.0), SIZE) == pytest.approx((160, 50, 5))


def test_the_longer_side_sets_the_focal_length() -> None:
    assert focal_length((320, 240)) == focal_length((240, 320)) == focal_length((320, 320)) == 350


@given(st.tuples(COORDINATE, COORDINATE, st.floats(0, 2)))
def test_a_ray_through_a_points_pixel_meets_the_point(point: tuple[float, float, float]) -> None:
    camera = Camera()
    x, y, _ = camera.project(point, SIZE)
    ray = camera_rays(camera, SIZE, np.array([x], np.float32), np.array([y], np.float32))[:, 0]
    assert math.hypot(*ray) == pytest.approx(1, abs=1e-6)
    towards = unit(minus(point, camera.position))
    assert dot(towards, tuple(float(value) for value in ray)) == pytest.approx(1, abs=1e-6)


def test_a_camera_above_the_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="above the origin"):
        Camera((0.0, 0.0, 5.0))
