"""Edits of photographs without a model: recolour an object or the background, paste a cut-out where it fits, with soft
edges, or mirror a box whose borders fit.

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

MIN_SHARE, MAX_SHARE = 0.04, 0.2  # of the image that a pasted cut-out covers
MIN_SUBJECT, MAX_SUBJECT = 0.03, 0.4  # share of its own image that a cut-out covers
MIN_CONTRAST_PASTED = 1.2  # stricter than for recolouring: a wrong outline shows in another place
MIN_FILL = 0.35  # least share of its box that a cut-out fills: less is a net of branches
MAX_ENLARGED = 1.4
FOOT = (0.72, 0.98)  # share of the height at which its lower edge is: most photographs have their ground there
N_PLACES = 60

N_BOXES = 300
MIN_MIRRORED, MAX_SEAM = 0.06, 18.0
"""Bounds of a mirrored box: share of the image that looks different, and the step in CIELAB along its borders."""


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
    region = segmentation.subject(pixels)
    if region is None or not MIN_SUBJECT <= region.share <= MAX_SUBJECT or region.edge_contrast < MIN_CONTRAST_PASTED:
        return None
    left, top, right, bottom = region.box
    if not region.borders <= {"bottom"} or region.mask.sum() < MIN_FILL * (right - left) * (bottom - top):
        return None
    colours, mask = lab(pixels), region.mask.astype(np.uint8)
    near = cv2.dilate(mask, segmentation.disc(max(3, round(0.03 * max(mask.shape))))) > 0
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
    front = segmentation.subject(pixels)
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
    small = segmentation.smooth(lab(segmentation.shrink(pixels, 160)), 1.0)
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
    weight = segmentation.smooth(border, sigma)[..., None]
    step = segmentation.smooth((pixels - layer) * border[..., None], sigma)
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
