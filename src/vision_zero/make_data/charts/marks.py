"""The marks of a chart, by kind: bars, lines, areas, slices, points; their value axes, and the numbers on both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.ticker import MaxNLocator

from vision_zero.make_data.charts.sources import ZERO_BASED, Kind
from vision_zero.make_data.charts.styles import Style, contrast
from vision_zero.make_data.charts.tables import ChartTable
from vision_zero.make_data.charts.text_layout import Pen
from vision_zero.make_data.maker import Rejected

MAX_MARKED_POINTS = 16  # rows up to which a line shows a marker at each
SLICE_LABEL_RADIUS = 1.1
MIN_SLICE_WITH_NUMBER = 0.06
MAX_EMPTY = 0.4  # share of a tick step: an axis that would reach further beyond its values ends at them


@dataclass(frozen=True)
class Marks:
    """Marks of one table on `axes`. `points` is the size of the chart's text, which scales the marks."""

    axes: Any
    table: ChartTable
    kind: Kind
    style: Style
    points: float

    @property
    def colours(self) -> list[str]:
        """One for each series, or each slice of a pie."""
        n = len(self.table.rows) if self.kind == "pie" else len(self.table.series)
        palette = self.style.palette.colours
        return [palette[i % len(palette)] for i in range(n)]

    @property
    def line_look(self) -> dict[str, Any]:
        marker = self.style.theme.marker if len(self.table.rows) <= MAX_MARKED_POINTS else ""
        return {"linewidth": self.style.theme.line_width, "marker": marker, "markersize": 0.5 * self.points}

    @property
    def edge(self) -> str:
        return self.style.theme.ink if self.style.theme.bar_edge else "none"

    @property
    def bar_width(self) -> float:
        """Width of a bar, in units of rows."""
        share, n = self.style.theme.bar_share, len(self.table.series)
        return share if self.kind != "grouped" else max(share, 0.76) / n

    @property
    def stack(self) -> list[Sequence[float]]:
        """Heights of the rows below each series, and above the last, if the series are stacked."""
        heights: list[Sequence[float]] = [[0.0] * len(self.table.rows)]
        for column in self.table.values:
            heights.append([below + value for below, value in zip(heights[-1], column, strict=True)])
        return heights

    def bar_centre(self, row: int, s: int) -> float:
        return row if self.kind != "grouped" else row + (s - (len(self.table.series) - 1) / 2) * self.bar_width

    def write(self, pen: Pen, x: float, y: float, text: str, colour: str, **look: Any) -> Any:
        """Text among the marks, centred on (x, y) unless `look` says otherwise."""
        look = {"ha": "center", "va": "center", **look}
        return self.axes.text(x, y, text, fontproperties=pen.font, color=colour, **look)


def draw_marks(marks: Marks) -> None:
    {"line": _lines, "area": _areas, "scatter": _points, "pie": _slices}.get(marks.kind, _bars)(marks)


def _bars(marks: Marks) -> None:
    rows = range(len(marks.table.rows))
    for s, (column, colour) in enumerate(zip(marks.table.values, marks.colours, strict=True)):
        look = {"color": colour, "edgecolor": marks.edge, "linewidth": 0.8, "zorder": 3}
        if marks.kind == "horizontal":
            marks.axes.barh(rows, column, height=marks.bar_width, **look)
            continue
        centres = [marks.bar_centre(row, s) for row in rows]
        base = marks.stack[s if marks.kind == "stacked" else 0]
        marks.axes.bar(centres, column, width=marks.bar_width, bottom=base, **look)


def _lines(marks: Marks) -> None:
    for column, colour in zip(marks.table.values, marks.colours, strict=True):
        look = {**marks.line_look, "color": colour, "solid_joinstyle": "round", "zorder": 3}
        marks.axes.plot(range(len(column)), column, **look)


def _areas(marks: Marks) -> None:
    rows = range(len(marks.table.rows))
    if len(marks.table.series) == 1:
        (column,), (colour,) = marks.table.values, marks.colours
        marks.axes.fill_between(rows, column, color=colour, alpha=0.4, linewidth=0, zorder=2)
        marks.axes.plot(rows, column, color=colour, linewidth=marks.style.theme.line_width, zorder=3)
        return
    for (base, upper), colour in zip(pairwise(marks.stack), marks.colours, strict=True):
        marks.axes.fill_between(rows, base, upper, color=colour, linewidth=0, zorder=2)
        marks.axes.plot(rows, upper, color=marks.style.theme.panel, linewidth=0.8, zorder=2.5)


def _points(marks: Marks) -> None:
    x, y = marks.table.values
    look = {"color": marks.style.palette.colours[0], "edgecolors": marks.style.theme.panel, "linewidths": 0.7}
    marks.axes.scatter(x, y, s=(0.95 * marks.points) ** 2, alpha=0.9, zorder=3, **look)


def _slices(marks: Marks) -> None:
    theme = marks.style.theme
    wedge = {
        "edgecolor": theme.ink if theme.bar_edge else theme.paper,
        "linewidth": 1.2,
        "width": 0.46 if theme.donut else 1.0,
    }
    colours = marks.colours
    marks.axes.pie(marks.table.values[0], colors=colours, startangle=90, counterclock=False, wedgeprops=wedge)


def write_numbers(marks: Marks, pen: Pen, *, needed: bool) -> None:
    """Write values on bars if all of them fit. Raises Rejected if they are `needed` and do not fit."""
    values = [value for column in marks.table.values for value in column]
    decimals, unit = label_decimals(values), marks.table.units[0]
    texts = [[number_text(value, unit, decimals) for value in column] for column in marks.table.values]
    inverse = marks.axes.transData.transform
    pixels_per_row = abs(inverse((1, 1))[0] - inverse((0, 0))[0])
    if marks.kind != "horizontal":
        slot = (0.96 if marks.kind == "bar" else marks.bar_width) * pixels_per_row
        if max(pen.width(text) for column in texts for text in column) > slot - 1:
            if needed:
                raise Rejected("numbers on bars do not fit")
            return
    if marks.kind == "stacked":
        _number_stacks(marks, pen, texts)
        return
    look = {"textcoords": "offset points", "fontproperties": pen.font, "color": marks.style.theme.ink, "zorder": 4}
    for s, column in enumerate(marks.table.values):
        for row, value in enumerate(column):
            away = 0.3 * marks.points * (1 if value >= 0 else -1)
            across = marks.kind == "horizontal"
            at = (value, row) if across else (marks.bar_centre(row, s), value)
            offset = (away, 0) if across else (0, away)
            ha = ("left" if value >= 0 else "right") if across else "center"
            va = "center" if across else ("bottom" if value >= 0 else "top")
            marks.axes.annotate(texts[s][row], at, offset, ha=ha, va=va, **look)


def _number_stacks(marks: Marks, pen: Pen, texts: Sequence[Sequence[str]]) -> None:
    """Write numbers in the middle of every segment that is high enough."""
    inverse = marks.axes.transData.transform
    pixels_per_unit = abs(inverse((0, 1))[1] - inverse((0, 0))[1])
    for s, column in enumerate(marks.table.values):
        base, colour = marks.stack[s], on_colour(marks.colours[s])
        for row, value in enumerate(column):
            if value * pixels_per_unit >= 1.15 * pen.line:
                marks.write(pen, row, base[row] + value / 2, texts[s][row], colour, zorder=4)


def name_slices(marks: Marks, pen: Pen, names: Sequence[str]) -> list[Any]:
    """Write shares inside a pie's slices, and `names` around it, unless a legend has them. Returns all texts."""
    written = []
    values = marks.table.values[0]
    total, done = sum(values), 0.0
    for i, value in enumerate(values):
        angle = math.radians(90 - 360 * (done + value / 2) / total)
        done += value
        x, y = math.cos(angle), math.sin(angle)
        if value / total >= MIN_SLICE_WITH_NUMBER:
            middle = 0.77 if marks.style.theme.donut else 0.66
            share, colour = f"{100 * value / total:.0f}%", on_colour(marks.colours[i])
            written.append(marks.write(pen, middle * x, middle * y, share, colour))
        if names:
            ha = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
            va = "center" if abs(y) < 0.8 else "bottom" if y > 0 else "top"
            x, y, ink = SLICE_LABEL_RADIUS * x, SLICE_LABEL_RADIUS * y, marks.style.theme.ink
            written.append(marks.write(pen, x, y, names[i], ink, ha=ha, va=va, linespacing=1.05))
    return written


def on_colour(colour: str) -> str:
    """White, or nearly black, whichever reads better on a hex colour."""
    return "#ffffff" if contrast(colour, "#ffffff") >= 3 else "#1a1a1a"


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int


def axis_values(table: ChartTable, kind: Kind) -> list[float]:
    """Values that the value axis (of a scatter chart: y) must contain; of stacks, their heights."""
    if kind == "scatter":
        return list(table.values[1])
    if kind == "stacked" or (kind == "area" and len(table.series) > 1):
        return [sum(row) for row in zip(*table.values, strict=True)]
    return [value for column in table.values for value in column]


def scale_for(values: Sequence[float], kind: Kind, room_for_numbers: bool) -> Scale:
    """Limits and ticks of an axis. Lengths start at zero, and so do lines that come near it."""
    low, high = min(values), max(values)
    if kind in ZERO_BASED or (kind == "line" and 0 <= low <= 0.4 * high):
        low, high = min(0.0, low), max(0.0, high)
    share = 0.04 if not room_for_numbers else 0.14 if kind == "horizontal" else 0.08
    pad = share * (high - low)
    low = low - pad if low != 0 else low
    high = high + pad if high != 0 else high
    found = [float(tick) for tick in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    step = found[1] - found[0]
    slack = 1e-9 * step
    ticks = [tick for tick in found if low - step + slack < tick < high + step - slack]
    first = low if low - ticks[0] > MAX_EMPTY * step else ticks[0]
    last = high if ticks[-1] - high > MAX_EMPTY * step else ticks[-1]
    decimals = next((d for d in range(7) if abs(step - round(step, d)) < 1e-9 * step), 7)
    return Scale(first, last, tuple(tick for tick in ticks if first <= tick <= last), decimals)


def number_text(value: float, unit: str, decimals: int) -> str:
    """`1,200`, `12.5%`, `$3`, with a true minus sign; other units are written elsewhere."""
    digits = f"{abs(value):,.{decimals}f}"
    sign = "−" if value < 0 and any(digit in "123456789" for digit in digits) else ""
    if unit.startswith("%"):
        return f"{sign}{digits}%"
    return f"{sign}{unit}{digits}" if unit in ("$", "£", "€") else f"{sign}{digits}"


def label_decimals(values: Sequence[float]) -> int:
    """Decimals of numbers on marks: three digits of the largest, none for whole numbers."""
    if all(value == round(value) for value in values):
        return 0
    largest = max(map(abs, values))
    return 0 if largest >= 100 else 1 if largest >= 10 else 2
