"""Paste a cut-out of the same or another photograph where it fits, with soft edges."""

import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_zero.make_data.maker import Rejected
from vision_zero.make_data.photos.recolour import Edit, blended, place
from vision_zero.make_data.photos.segmentation import Alpha, Box, Pixels, disc, lab, subject

MIN_SHARE, MAX_SHARE = 0.04, 0.2
"""Share of the image that a pasted cut-out covers."""

MIN_SUBJECT, MAX_SUBJECT = 0.03, 0.4
"""Share of its own image that a cut-out covers."""

MIN_CONTRAST = 1.2
"""Stricter than for recolouring: a wrong outline shows in another place."""

MIN_FILL = 0.35
"""Least share of its box that a cut-out fills: less is a net of branches."""

MAX_ENLARGED = 1.4

FOOT = (0.72, 0.98)
"""Range of a cut-out's lower edge, as a share of the image's height: most photographs have their ground there."""

N_PLACES = 60


@dataclass(frozen=True)
class CutOut:
    """Pixels with opacity `alpha`, cut out of an image at `box`.

    `reaches_below`: it touches the lower border of its image. `surroundings`, `image`: mean CIELAB colours.
    """

    pixels: Pixels
    alpha: Alpha
    box: Box
    reaches_below: bool
    surroundings: NDArray[np.float32]
    image: NDArray[np.float32]


def cut_out(pixels: Pixels) -> CutOut | None:
    """The subject of a photograph, if it reaches none of the image's borders but the lower one."""
    region = subject(pixels)
    if region is None or not MIN_SUBJECT <= region.share <= MAX_SUBJECT or region.edge_contrast < MIN_CONTRAST:
        return None
    left, top, right, bottom = region.box
    if not region.borders <= {"bottom"} or region.mask.sum() < MIN_FILL * (right - left) * (bottom - top):
        return None
    colours, mask = lab(pixels), region.mask.astype(np.uint8)
    near = cv2.dilate(mask, disc(max(3, round(0.03 * max(mask.shape))))) > 0
    return CutOut(
        pixels[top:bottom, left:right],
        # A pixel that is half of the old background would be a bright or dark rim on the new one.
        np.clip((region.alpha[top:bottom, left:right] - 0.35) / 0.65, 0, 1),
        region.box,
        "bottom" in region.borders,
        colours[near & (region.alpha < 0.05)].mean(axis=0),
        colours.mean(axis=(0, 1)),
    )


def paste(pixels: Pixels, source: Pixels, rng: random.Random, *, same: bool) -> Edit:
    """Lay a cut-out of `source` on `pixels`, scaled, perhaps mirrored. `same`: both are one photograph.

    Of many random places the best hides least of the subject and has colours like the cut-out's surroundings: a sheep
    comes on the grass. Raises Rejected.
    """
    piece = cut_out(source)
    if piece is None:
        raise Rejected("nothing can be cut out whole")
    height, width = pixels.shape[:2]
    share = rng.uniform(MIN_SHARE, MAX_SHARE)
    factor = (share * height * width / float(piece.alpha.sum())) ** 0.5
    factor = min(factor, MAX_ENLARGED, 0.85 * width / piece.alpha.shape[1], 0.85 * height / piece.alpha.shape[0])
    size = (max(8, round(piece.alpha.shape[1] * factor)), max(8, round(piece.alpha.shape[0] * factor)))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    colours: NDArray[Any] = cv2.resize(_matched(piece, pixels), size, interpolation=interpolation)
    alpha: NDArray[Any] = cv2.resize(piece.alpha, size, interpolation=cv2.INTER_AREA)
    mirrored = rng.random() < 0.5
    if mirrored:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    left, top = _best_place(pixels, piece, alpha, rng, same)
    box = (left, top, left + size[0], top + size[1])
    layer, opacity = pixels.copy(), np.zeros((height, width), np.float32)
    layer[top : box[3], left : box[2]] = colours
    opacity[top : box[3], left : box[2]] = alpha
    to = place(box, pixels)
    words = f"copy what is {place(piece.box, source)}, and paste it {to}" if same else f"add something {to}"
    notes = {"mirrored": mirrored, "source_box": list(piece.box)}
    return Edit("paste", blended(pixels, layer, opacity), words, box, notes)


def _matched(piece: CutOut, pixels: Pixels) -> Pixels:
    """The cut-out's colours, moved part of the way to the mean colour of its new photograph."""
    shift = (lab(pixels).mean(axis=(0, 1)) - piece.image) * np.array([0.35, 0.25, 0.25], np.float32)
    moved = cv2.cvtColor((lab(piece.pixels) + shift).astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(np.rint(moved * 255), 0, 255), np.uint8)


def _best_place(pixels: Pixels, piece: CutOut, alpha: NDArray[Any], rng: random.Random, same: bool) -> tuple[int, int]:
    """(left, top) of the pasted box."""
    height, width = pixels.shape[:2]
    h, w = alpha.shape
    front = subject(pixels)
    hidden = np.zeros((height, width), np.float32) if front is None else front.alpha
    colours = cv2.blur(lab(pixels), (5, 5))
    best, best_cost = None, np.inf
    for _ in range(N_PLACES):
        left = rng.randint(0, width - w)
        foot = height if piece.reaches_below else round(height * rng.uniform(*FOOT))
        top = min(max(0, foot - h), height - h)
        inside = (slice(top, top + h), slice(left, left + w))
        if same and _overlap((left, top, left + w, top + h), piece.box) > 0.1:
            continue
        covers = float((hidden[inside] * alpha).sum() / alpha.sum())
        step = colours[inside][alpha > 0.5] - piece.surroundings
        cost = float(np.linalg.norm(step, axis=1).mean()) + 60 * covers
        if cost < best_cost:
            best, best_cost = (left, top), cost
    if best is None:
        raise Rejected("no place for the cut-out")
    return best


def _overlap(one: Box, other: Box) -> float:
    """Share of the first box that the second covers."""
    across = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    return across * down / ((one[2] - one[0]) * (one[3] - one[1]))
