"""Layout of text in a chart: wrapping, shortening, turning, and the check that no text is clipped or overlaps.

All sizes are pixels, measured with the renderer that draws. Text that no layout fits raises `Rejected`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.text import Text

from vision_zero.make_data.maker import Rejected

ANGLES = (30, 45, 90)  # degrees by which labels under an axis may be turned; the first that fits is taken
Corners = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Pen:
    """Measures text in one font as `renderer` would draw it."""

    renderer: Any
    font: FontProperties

    def width(self, text: str) -> float:
        lines = text.split("\n")
        return max(float(self.renderer.get_text_width_height_descent(line, self.font, False)[0]) for line in lines)

    @property
    def line(self) -> float:
        """Height of a line of text with its distance to the next."""
        return 1.25 * float(self.font.get_size_in_points()) * float(self.renderer.dpi) / 72


def wrap(text: str, width: float, lines: int, pen: Pen) -> str | None:
    """`text` in at most `lines` lines of whole words, each at most `width` wide; None if it does not fit."""
    wrapped: list[str] = []
    for word in text.split():
        longer = f"{wrapped[-1]} {word}" if wrapped else word
        if wrapped and pen.width(longer) <= width:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    fits = len(wrapped) <= lines and all(pen.width(line) <= width for line in wrapped)
    return "\n".join(wrapped) if fits else None


def fit(text: str, width: float, lines: int, pen: Pen) -> str:
    """`text` wrapped into at most `lines` lines; if necessary its beginning, with an ellipsis."""
    words = text.split()
    whole = range(len(words) - 1, 0, -1) if lines > 1 else ()  # as many whole words as go in
    for attempt in (text, *(" ".join(words[:n]) + " …" for n in whole)):
        wrapped = wrap(attempt, width, lines, pen)
        if wrapped is not None:
            return wrapped
    kept = text
    while kept and pen.width(kept.rstrip() + "…") > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def fit_all(texts: Sequence[str], width: float, lines: int, pen: Pen) -> list[str]:
    """`fit` for names that must stay different. Raises Rejected if two become equal."""
    fitted = [fit(text, width, lines, pen) for text in texts]
    if len(set(fitted)) < len(fitted):
        raise Rejected("shortened labels are equal")
    return fitted


def arrange(labels: Sequence[str], slot: float, height: float, pen: Pen, *, timed: bool) -> tuple[list[str], int]:
    """Labels under an axis and their angle. There is one every `slot` pixels, at most `height` high; some may be empty.

    In this order: as they are, wrapped, every second (third, ...) if they are times, turned and shortened. Swapped
    labels are arranged alike. Raises Rejected if nothing fits.
    """
    gap = 0.5 * pen.line
    widest = max(map(pen.width, labels))
    if widest <= slot - gap:
        return list(labels), 0
    if timed:
        for step in range(2, max(3, (len(labels) + 1) // 2)):
            if widest <= step * slot - gap:
                return [label if i % step == 0 else "" for i, label in enumerate(labels)], 0
    else:
        wrapped = [wrap(label, slot - gap, 3, pen) for label in labels]
        if all(one is not None for one in wrapped):
            return [one or "" for one in wrapped], 0
    for angle in ANGLES:
        sine = math.sin(math.radians(angle))
        if slot * sine >= 1.05 * pen.line:
            return fit_all(labels, height / sine, 1, pen), angle
    raise Rejected("row labels do not fit")


def shown_texts(figure: Figure) -> list[Text]:
    """All visible, non-empty texts; of ticks only those within their axis."""
    outside: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-6 * (high - low)
            for tick in axis.get_major_ticks():
                if not (axes.axison and low - slack <= tick.get_loc() <= high + slack):
                    outside |= {id(tick.label1), id(tick.label2)}
    texts: Iterable[Text] = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and id(text) not in outside]


def corners(text: Text, renderer: Any) -> Corners:
    angle = text.get_rotation() % 360
    box = text.get_window_extent(renderer)
    if angle % 90 == 0:
        return ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))
    text.set_rotation(0)
    flat = text.get_window_extent(renderer)
    text.set_rotation(angle)
    # The box round a turned rectangle has the rectangle's own middle.
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    half_width, half_height = flat.width / 2, flat.height / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    offsets = [(a * half_width, b * half_height) for a, b in signs]
    return tuple((x + dx * cosine - dy * sine, y + dx * sine + dy * cosine) for dx, dy in offsets)


def overlap(one: Corners, other: Corners) -> bool:
    """True if two rectangles overlap, by the separating axis theorem."""
    for rectangle in (one, other):
        for (x0, y0), (x1, y1) in ((rectangle[0], rectangle[1]), (rectangle[1], rectangle[2])):
            dx, dy = x1 - x0, y1 - y0
            first = [x * dx + y * dy for x, y in one]
            second = [x * dx + y * dy for x, y in other]
            slack = 0.5 * math.hypot(dx, dy)  # half a pixel, for antialiasing
            if max(first) <= min(second) + slack or max(second) <= min(first) + slack:
                return False
    return True


def check_texts(figure: Figure, renderer: Any) -> None:
    """Raises Rejected for a text that is clipped by the canvas or overlaps another."""
    width, height = figure.bbox.width, figure.bbox.height
    texts = shown_texts(figure)
    placed = [corners(text, renderer) for text in texts]
    for rectangle in placed:
        if not all(0 <= x <= width and 0 <= y <= height for x, y in rectangle):
            raise Rejected("a text is clipped")
    if any(overlap(one, other) for one, other in combinations(placed, 2)):
        raise Rejected("two texts overlap")


def check_letters(texts: Iterable[str], font: FontProperties) -> None:
    """Raises Rejected for a letter that the font does not have."""
    glyphs = get_font(str(font.get_file())).get_charmap()
    if any(ord(letter) not in glyphs for letter in set().union(*texts)):
        raise Rejected("letters that the font lacks")
