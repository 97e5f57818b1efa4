"""Regions of a photograph, found without a model: areas of one colour, the subject, the background, with soft edges.

Areas are found by Felzenszwalb and Huttenlocher's graph segmentation (IJCV 2004) on a small copy, drawn exactly by
GrabCut (Rother et al., SIGGRAPH 2004), and a guided filter (He et al., PAMI 2013) lets their edges follow the image's:
fur and leaves get an opacity between 0 and 1, not a staircase.

The same pixels give the same regions on any machine with the same OpenCV: its random numbers are seeded at each call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""[height, width, 3], RGB."""

Mask = NDArray[np.bool_]
Alpha = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are not part of it."""

AREA_SIDE = 128  # longest side of the copy that is segmented into areas, in a loop of Python over its edges
CUT_SIDE = 288  # longest side of the copy that GrabCut works on
AREA_SCALE = 90.0  # k of Felzenszwalb's rule, in units of CIELAB: larger gives larger areas
MIN_AREA = 0.015  # least share of the image of an area: smaller ones are merged into a neighbour
ALIKE = 9.0  # in CIELAB: neighbours whose mean colours are nearer are merged, as in a clear sky that fades


@dataclass(frozen=True)
class Region:
    """Part of an image. `alpha` [height, width] is 1 inside, 0 outside and between at soft edges."""

    alpha: Alpha
    edge_contrast: float
    """Colour gradient that 85% of its outline exceed, over the image's mean: above 1, the outline is a real edge."""

    @property
    def mask(self) -> Mask:
        return self.alpha > 0.5

    @property
    def share(self) -> float:
        return float(self.mask.mean())

    @property
    def box(self) -> Box:
        return box_of(self.mask)

    @property
    def borders(self) -> frozenset[str]:
        """The image's borders that it touches: left, top, right, bottom."""
        mask = self.mask
        sides = {"left": mask[:, 0], "top": mask[0], "right": mask[:, -1], "bottom": mask[-1]}
        return frozenset(name for name, side in sides.items() if side.mean() > 0.01)


def box_of(mask: Mask) -> Box:
    """The smallest box around the True pixels. Raises ValueError if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shrink(image: Pixels, longest: int) -> Pixels:
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image.copy()
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def resized(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The image, or an opacity, at another [height, width]."""
    return np.asarray(cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA))


def lab(image: Pixels) -> NDArray[np.float32]:
    """CIELAB: lightness 0..100, two colour axes of about -100..100; distances are nearly perceptual."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def smooth(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def areas(image: Pixels) -> NDArray[np.int32]:
    """Labels 0, 1, ... [height, width] of areas of one colour, at most AREA_SIDE pixels a side."""
    small = smooth(lab(shrink(image, AREA_SIDE)), 0.8)
    height, width = small.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    ends = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    ends += [(index[:-1, :-1], index[1:, 1:]), (index[1:, :-1], index[:-1, 1:])]
    first = np.concatenate([one.ravel() for one, _ in ends])
    second = np.concatenate([other.ravel() for _, other in ends])
    flat = small.reshape(-1, 3)
    weights = np.linalg.norm(flat[first] - flat[second], axis=1)
    order = np.argsort(weights, kind="stable")
    edges = zip(first[order].tolist(), second[order].tolist(), weights[order].tolist(), strict=True)
    roots = _merge(list(edges), height * width, AREA_SCALE, round(MIN_AREA * height * width))
    labels = np.unique(roots, return_inverse=True)[1].reshape(height, width)
    while (pair := _most_alike(labels, small)) is not None:
        labels[labels == pair[1]] = pair[0]
    return np.unique(labels, return_inverse=True)[1].reshape(height, width).astype(np.int32)


def mean_colours(labels: NDArray[Any], colours: NDArray[np.float32]) -> NDArray[np.float64]:
    """[largest label + 1, 3]: the mean colour of each area; NaN for a label that no pixel has."""
    flat = labels.ravel()
    counts = np.bincount(flat).astype(float)
    counts[counts == 0] = np.nan
    return np.stack([np.bincount(flat, channel.ravel()) / counts for channel in np.moveaxis(colours, 2, 0)], axis=1)


def _most_alike(labels: NDArray[Any], colours: NDArray[np.float32]) -> tuple[int, int] | None:
    """The two neighbouring areas that are nearest in colour, if they are nearer than ALIKE."""
    beside = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    pairs = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1) for one, other in beside])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    if not len(pairs):
        return None
    means = mean_colours(labels, colours)
    distances = np.linalg.norm(means[pairs[:, 0]] - means[pairs[:, 1]], axis=1)
    nearest = int(distances.argmin())
    return (int(pairs[nearest, 0]), int(pairs[nearest, 1])) if distances[nearest] < ALIKE else None


def _merge(edges: Sequence[tuple[int, int, float]], n: int, scale: float, min_size: int) -> list[int]:
    """The root of each of `n` pixels, edges (pixel, pixel, weight) given in order of their weight.

    Two areas are one if the edge between them is not heavier than within both: w <= min(Int(A) + k / |A|, ...).
    """
    parent, size, inner = list(range(n)), [1] * n, [0.0] * n

    def root(pixel: int) -> int:
        while parent[pixel] != pixel:
            parent[pixel] = parent[parent[pixel]]
            pixel = parent[pixel]
        return pixel

    for small_areas in (False, True):
        for one, other, weight in edges:
            a, b = root(one), root(other)
            if a == b:
                continue
            if small_areas:
                together = min(size[a], size[b]) < min_size
            else:
                together = weight <= min(inner[a] + scale / size[a], inner[b] + scale / size[b])
            if together:
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
                inner[a] = max(inner[a], inner[b], weight)
    return [root(pixel) for pixel in range(n)]


def grab_cut(image: Pixels, guess: NDArray[np.uint8], iterations: int) -> Mask:
    """GrabCut from a guess [height, width] of cv2.GC_* values. A guess of one kind is returned as it is."""
    if not (guess & 1).any() or (guess & 1).all():
        return (guess & 1).astype(bool)
    mask = guess.copy()
    cv2.setRNGSeed(0)  # its colour models begin with k-means, which draws from OpenCV's own generator
    cv2.grabCut(image, mask, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)
    return (mask & 1).astype(bool)


def exact(image: Pixels, rough: Mask, least_part: float = 1.0) -> Region | None:
    """Refine a rough mask of any size: its outline is moved to the image's edges, its holes are filled.

    Parts smaller than `least_part` of the largest are dropped. None if nothing is left.
    """
    small = shrink(image, CUT_SIDE)
    height, width = small.shape[:2]
    resized = cv2.resize(rough.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    band = disc(max(2, round(0.02 * max(height, width))))
    padded = resized.astype(np.uint8)
    sure = cv2.erode(padded, band, borderType=cv2.BORDER_REPLICATE)
    near = cv2.dilate(padded, band)
    guess = np.full((height, width), cv2.GC_BGD, np.uint8)
    guess[near > 0] = cv2.GC_PR_BGD
    guess[resized] = cv2.GC_PR_FGD
    guess[sure > 0] = cv2.GC_FGD
    return with_soft_edges(image, small, tidy(grab_cut(small, guess, 2), least_part))


def subject(image: Pixels) -> Region | None:
    """The foreground in the middle of the image; None if nothing stands out.

    GrabCut begins with an ellipse in the middle as the likely foreground and a frame as the background; the frame is
    open below, where a subject may reach the border. The last results are cached: attempts at a pair ask again.
    """
    return _subject(image.tobytes(), image.shape)


@lru_cache(maxsize=16)
def _subject(data: bytes, shape: tuple[int, ...]) -> Region | None:
    image = np.frombuffer(data, np.uint8).reshape(shape)
    small = shrink(image, CUT_SIDE)
    height, width = small.shape[:2]
    guess = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(guess, (width // 2, round(height * 0.55)), (width // 4, height // 3), 0, 0, 360, cv2.GC_PR_FGD, -1)
    margin = max(2, round(0.03 * min(height, width)))
    guess[:margin] = guess[:, :margin] = guess[:, -margin:] = cv2.GC_BGD
    return with_soft_edges(image, small, tidy(grab_cut(small, guess, 5)))


def tidy(mask: Mask, least_part: float = 1.0) -> Mask:
    """The largest connected part, and others of `least_part` of its size, without threads and small holes."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc(max(1, round(0.008 * max(mask.shape)))))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    parts = [int(sizes.argmax())] if least_part >= 1 else np.flatnonzero(sizes >= least_part * sizes.max()).tolist()
    kept = np.isin(labels, [part + 1 for part in parts])
    _, hole_labels, hole_stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    small_holes = np.flatnonzero(hole_stats[:, cv2.CC_STAT_AREA] < 0.01 * mask.size)
    return kept | np.isin(hole_labels, small_holes[small_holes > 0])


def with_soft_edges(image: Pixels, small: Pixels, mask: Mask) -> Region | None:
    """`mask` of the `small` copy at the image's own size, its edge fitted to the image's by a guided filter."""
    if not mask.any():
        return None
    height, width = image.shape[:2]
    rough = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    window = (2 * max(2, round(0.006 * max(height, width))) + 1,) * 2
    mean_guide, mean_rough = cv2.blur(guide, window), cv2.blur(rough, window)
    slope = cv2.blur(guide * rough, window) - mean_guide * mean_rough
    slope /= cv2.blur(guide * guide, window) - mean_guide**2 + 1e-3
    offset = mean_rough - slope * mean_guide
    fitted = cv2.blur(slope, window) * guide + cv2.blur(offset, window)
    alpha = np.clip((fitted - 0.15) / 0.7, 0, 1).astype(np.float32)
    return Region(alpha, _edge_contrast(small, mask)) if (alpha > 0.5).any() else None


def _edge_contrast(small: Pixels, mask: Mask) -> float:
    colours = smooth(lab(small), 1.0)
    across, down = (cv2.Sobel(colours, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    gradient = np.sqrt((across**2 + down**2).sum(axis=2))
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, disc(1)) > 0
    if not outline.any():
        return 0.0
    near = cv2.dilate(gradient, disc(1))  # an outline may be a pixel beside its edge
    return float(np.quantile(near[outline], 0.15) / (gradient.mean() + 1e-6))


def disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
