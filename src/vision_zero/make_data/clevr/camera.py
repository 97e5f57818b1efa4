"""Camera of the rendered scenes, for both renderers: projects points of the world into the image.

It looks at the origin through a 35 mm lens on a 32 mm sensor, as CLEVR's does. The world has z up and the ground at
z = 0. Image coordinates are continuous, x to the right and y down from the top left corner, so the pixel in column i
covers i to i + 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Vector = tuple[float, float, float]

FOCAL = 35 / 32  # focal length in widths of the sensor, which spans the longer side of the image
POSITION: Vector = (7.4811, -6.5076, 5.3437)


@dataclass(frozen=True)
class Camera:
    """A camera at `position` that looks at the origin. Raises ValueError for one that looks straight down or up."""

    position: Vector = POSITION

    def __post_init__(self) -> None:
        if math.hypot(self.position[0], self.position[1]) < 1e-3:
            raise ValueError(f"the camera must not stand above the origin, as it does at {self.position}")

    @property
    def forward(self) -> Vector:
        return unit(scaled(self.position, -1.0))

    @property
    def right(self) -> Vector:
        x, y, _ = self.forward
        return unit((y, -x, 0.0))

    @property
    def up(self) -> Vector:
        return cross(self.right, self.forward)

    def project(self, point: Vector, size: tuple[int, int]) -> Vector:
        """(x, y, depth) of a point in an image of `size` (width, height). Depth is along the line of sight."""
        difference = minus(point, self.position)
        depth = dot(difference, self.forward)
        focal = focal_length(size)
        x = size[0] / 2 + focal * dot(difference, self.right) / depth
        y = size[1] / 2 - focal * dot(difference, self.up) / depth
        return x, y, depth

    def directions(self) -> Mapping[str, Vector]:
        """CLEVR's six directions, unit vectors: those of the image, laid on the ground, and up and down."""
        right, forward = self.right, self.forward
        behind = unit((forward[0], forward[1], 0.0))
        return {
            "right": right,
            "behind": behind,
            "above": (0.0, 0.0, 1.0),
            "below": (0.0, 0.0, -1.0),
            "left": scaled(right, -1.0),
            "front": scaled(behind, -1.0),
        }


def focal_length(size: tuple[int, int]) -> float:
    """Focal length in pixels."""
    return FOCAL * max(size)


def dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scaled(a: Vector, factor: float) -> Vector:
    # Adding 0.0 turns -0.0 into 0.0, which reads better in JSON.
    return a[0] * factor + 0.0, a[1] * factor + 0.0, a[2] * factor + 0.0


def unit(a: Vector) -> Vector:
    return scaled(a, 1 / math.sqrt(dot(a, a)))
