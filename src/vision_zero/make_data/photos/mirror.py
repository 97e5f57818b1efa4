"""Mirror a part of a photograph where its borders still fit."""

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_zero.make_data.maker import Rejected
from vision_zero.make_data.photos.recolour import Edit, blended, place
from vision_zero.make_data.photos.segmentation import Alpha, Box, Pixels, lab, shrink, smooth

N_BOXES = 300

MIN_MIRRORED, MAX_SEAM = 0.06, 18.0
"""Bounds of a mirrored box: share of the image that looks different, and the step in CIELAB along its borders."""


def mirror(pixels: Pixels, rng: random.Random, max_share: float) -> Edit:
    """Mirror a box left to right, the one of many whose borders fit best afterwards. Raises Rejected."""
    left, top, right, bottom = box = _box_to_mirror(pixels, rng, max_share)
    layer = pixels.astype(np.float32)
    layer[top:bottom, left:right] = layer[top:bottom, left:right][:, ::-1].copy()
    alpha = _box_alpha(pixels, box)
    edited = blended(pixels, layer + _step_at_border(pixels, layer, alpha), alpha)
    return Edit("mirror", edited, f"flip the region {place(box, pixels)} horizontally", box)


def _box_to_mirror(pixels: Pixels, rng: random.Random, max_share: float) -> Box:
    """The best of N_BOXES random boxes: a large change inside and a small step in colour along its borders."""
    small = smooth(lab(shrink(pixels, 160)), 1.0)
    height, width = small.shape[:2]
    best, best_score = None, 0.0
    for _ in range(N_BOXES):
        w, h = round(width * rng.uniform(0.25, 0.8)), round(height * rng.uniform(0.3, 1))
        if w * h > max_share * 1.2 * width * height:
            continue
        left, top = rng.randint(0, width - w), rng.randint(0, height - h)
        crop = small[top : top + h, left : left + w]
        step = np.linalg.norm(crop - crop[:, ::-1], axis=2)
        inner = float((step[:, w // 6 : w - w // 6] > 12).mean())
        sides = (left > 0 or left + w < width, step[:, :2]), (top > 0, step[:2]), (top + h < height, step[-2:])
        seams = [side.ravel() for is_seam, side in sides if is_seam]
        # The worst places of a seam are what is seen.
        seam = float(np.quantile(np.concatenate(seams), 0.95)) if seams else 0.0
        moved = inner * w * h / (width * height)
        score = moved / (seam + 3) ** 2
        if moved > MIN_MIRRORED and seam < MAX_SEAM and score > best_score:
            best, best_score = (left, top, left + w, top + h), score
    if best is None:
        raise Rejected("no region can be mirrored without a seam")
    factors = (pixels.shape[1] / width, pixels.shape[0] / height) * 2
    left, top, right, bottom = (round(side * factor) for side, factor in zip(best, factors, strict=True))
    return left, top, right, bottom


def _step_at_border(pixels: Pixels, layer: NDArray[np.float32], alpha: Alpha) -> NDArray[np.float32]:
    """Correction of the layer that removes the step in colour at its border: the step there, smoothed inwards."""
    border = ((alpha > 0) & (alpha < 1)).astype(np.float32)
    sigma = 0.06 * max(alpha.shape)
    weight = smooth(border, sigma)[..., None]
    step = smooth((pixels - layer) * border[..., None], sigma)
    return np.asarray(step / (weight + 0.02), np.float32)


def _box_alpha(pixels: Pixels, box: Box) -> Alpha:
    """1 in the box, falling to 0 towards its borders, but not towards the image's own."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    ramp = max(2.0, 0.03 * max(height, width))
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5

    def fade(at: NDArray[Any], low: int, high: int, end: int) -> NDArray[Any]:
        rise = (at - low) / ramp if low > 0 else np.full_like(at, 1)
        fall = (high - at) / ramp if high < end else np.full_like(at, 1)
        return np.asarray(np.clip(np.minimum(rise, fall), 0, 1))

    alpha = np.minimum.outer(fade(y, top, bottom, height), fade(x, left, right, width))
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = True
    return np.asarray(alpha * inside, np.float32)
