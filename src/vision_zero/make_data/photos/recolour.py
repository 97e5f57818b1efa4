"""Edits of photographs without a model: recolour an object or the background (others: `move`).

An edit takes pixels and a generator and returns the edited pixels with an instruction in words, or raises Rejected if
the photograph has no region for it. The caller checks how much changed; regions above `max_share` are not tried.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_zero.config.game import beside
from vision_zero.make_data.maker import Rejected
from vision_zero.make_data.photos import segmentation
from vision_zero.make_data.photos.segmentation import Alpha, Box, Mask, Pixels, Region, lab, resized

MIN_OBJECT, MAX_OBJECT = 0.03, 0.5  # share of the image
MIN_CONTRAST, MIN_CONTRAST_BEHIND = 0.9, 0.6
"""Least `edge_contrast` of an object and of a background: an outline through a clear sky has none."""
MIN_BACKGROUND = 0.08  # least share of the image
ALIKE_BEHIND = 15.0  # in CIELAB: areas of a background whose mean colours are nearer are merged, wherever they are
MIN_HUE_STEP = 55  # least degrees between the hue of a region and the one it is painted in


@dataclass(frozen=True)
class Colour:
    """A colour to paint with: hue in degrees, saturation 0..1, and the least median value of a painted region."""

    name: str
    hue: float
    saturation: float
    value: float


COLOURS = tuple(Colour(name, *values) for name, values in beside(__file__).items())


@dataclass(frozen=True)
class Edit:
    """An edited image [height, width, 3], the instruction in words and the box that it names."""

    kind: str
    pixels: Pixels
    instruction: str
    box: Box
    notes: Mapping[str, Any] = field(default_factory=dict)


def recolour_object(pixels: Pixels, rng: random.Random, max_share: float) -> Edit:
    """Paint the subject, or an area of one colour, in another hue; light and shade stay. Raises Rejected."""
    region = next(objects(pixels, rng, max_share), None)
    return _recoloured("recolour_object", "region", pixels, region, rng, "no object stands out")


def recolour_background(pixels: Pixels, rng: random.Random, max_share: float) -> Edit:
    """Paint what lies behind the subject; if that is too much, the largest area at the border. Raises Rejected."""
    region = background(pixels, rng, max_share)
    return _recoloured("recolour_background", "background", pixels, region, rng, "no background is told from the rest")


def _recoloured(kind: str, noun: str, pixels: Pixels, region: Region | None, rng: random.Random, missing: str) -> Edit:
    if region is None:
        raise Rejected(missing)
    colour = other_colour(pixels, region.mask, rng)
    words = f"recolour the {colour_name(pixels, region.mask)} {noun} {place(region.box, pixels)} to {colour.name}"
    return Edit(kind, painted(pixels, region.alpha, colour), words, region.box, {"colour": colour.name})


def objects(pixels: Pixels, rng: random.Random, max_share: float) -> Iterator[Region]:
    """Regions with a clear outline, in random order; the subject of the photograph is first in half of the cases."""
    largest = min(MAX_OBJECT, max_share)
    label_map = segmentation.areas(pixels)
    shares = np.bincount(label_map.ravel()) / label_map.size
    labels: list[int | None] = [int(label) for label in np.flatnonzero((shares > MIN_OBJECT) & (shares < largest))]
    rng.shuffle(labels)
    labels.insert(0 if rng.random() < 0.5 else len(labels), None)
    for label in labels:
        region = segmentation.subject(pixels) if label is None else segmentation.exact(pixels, label_map == label)
        if region is not None and MIN_OBJECT <= region.share <= largest and region.edge_contrast >= MIN_CONTRAST:
            yield region


def background(pixels: Pixels, rng: random.Random, max_share: float) -> Region | None:
    """All but the subject; if that exceeds `max_share`, all areas of one colour at the border: the sky, the grass."""
    front = segmentation.subject(pixels)
    if front is not None and (front.edge_contrast < MIN_CONTRAST or front.share < MIN_OBJECT):
        front = None
    if front is not None and MIN_BACKGROUND <= 1 - front.share <= max_share:
        return Region(1 - front.alpha, front.edge_contrast)
    label_map = segmentation.areas(pixels)
    colours = segmentation.mean_colours(label_map, lab(resized(pixels, label_map.shape)))
    behind = np.ones(label_map.shape, bool) if front is None else resized(front.alpha, label_map.shape) < 0.5
    shares = np.bincount(label_map.ravel()) / label_map.size
    border = np.unique(np.concatenate([label_map[0], label_map[:, 0], label_map[:, -1], label_map[-1]])).tolist()
    for label in sorted(border, key=lambda one: -shares[one] * rng.uniform(0.5, 1)):
        alike = np.flatnonzero(np.linalg.norm(colours - colours[label], axis=1) < ALIKE_BEHIND)
        rough = np.isin(label_map, alike) & behind
        if not MIN_BACKGROUND <= rough.mean() <= max_share:
            continue
        region = segmentation.exact(pixels, rough, least_part=0.05)
        if region is None or region.edge_contrast < MIN_CONTRAST_BEHIND:
            continue
        if front is not None:
            region = replace(region, alpha=region.alpha * (1 - front.alpha))
        if MIN_BACKGROUND <= region.share <= max_share:
            return region
    return None


def painted(pixels: Pixels, alpha: Alpha, colour: Colour) -> Pixels:
    """`pixels` in the colour where `alpha` is 1. Hue is replaced, saturation evened out, value kept or lifted."""
    hsv = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    inside = alpha > 0.5
    saturation, value = hsv[..., 1], hsv[..., 2]
    typical = float(np.median(saturation[inside]))
    light = float(np.median(value[inside]))
    hsv[..., 0] = colour.hue
    hsv[..., 1] = colour.saturation * np.clip(0.65 + 0.35 * saturation / (typical + 0.05), 0.5, 1.25)
    # A power keeps black black and white white; below 0.45 it would show the noise of what is nearly black.
    power = max(0.45, np.log(colour.value) / np.log(min(light, 0.99))) if light < colour.value else 1.0
    hsv[..., 2] = np.power(value, power)
    np.clip(hsv, 0, (360, 1, 1), out=hsv)
    paint = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    return blended(pixels, paint, alpha)


def blended(below: Pixels, above: NDArray[Any], alpha: Alpha) -> Pixels:
    mixed = below + alpha[..., None] * (above.astype(np.float32) - below)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def other_colour(pixels: Pixels, mask: Mask, rng: random.Random) -> Colour:
    """A random colour whose hue is far from the region's, or any if the region is nearly grey."""
    hue, saturation, _ = _median_hsv(pixels, mask)
    far = [one for one in COLOURS if saturation < 0.2 or abs((one.hue - hue + 180) % 360 - 180) >= MIN_HUE_STEP]
    return rng.choice(far)


def colour_name(pixels: Pixels, mask: Mask) -> str:
    hue, saturation, value = _median_hsv(pixels, mask)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "grey"
    if 10 <= hue < 45 and value < 0.55:
        return "brown"
    if 62 <= hue < 160:
        return "green"  # grass and leaves are nearer to yellow than to the green that is painted with
    return min(COLOURS, key=lambda one: abs((one.hue - hue + 180) % 360 - 180)).name


def _median_hsv(pixels: Pixels, mask: Mask) -> tuple[float, float, float]:
    # The median of each channel: a median hue alone would be wrong around red, where it wraps.
    colour = np.median(pixels[mask], axis=0).astype(np.float32).reshape(1, 1, 3) / 255
    hue, saturation, value = cv2.cvtColor(colour, cv2.COLOR_RGB2HSV)[0, 0].tolist()
    return hue, saturation, value


def place(box: Box, pixels: Pixels) -> str:
    """Position of a box's centre in words: "at the top left", "in the middle"."""
    height, width = pixels.shape[:2]
    across = ("left", "", "right")[min(2, int(3 * (box[0] + box[2]) / 2 / width))]
    down = ("top", "", "bottom")[min(2, int(3 * (box[1] + box[3]) / 2 / height))]
    words = " ".join(word for word in (down, across) if word)
    return f"at the {words}" if words else "in the middle"
