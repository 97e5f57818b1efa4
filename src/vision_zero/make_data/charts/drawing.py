"""Draw a table as a chart: marks, axes, title and legend, placed by the style and the space.

Charts of one call have the same axes, limits and layout, so that an edited table's chart differs by the edit alone.
matplotlib's Agg draws on a `Figure` with default settings: no pyplot, no user's configuration.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox
from PIL import Image

from vision_zero.make_data.charts import marks
from vision_zero.make_data.charts.marks import Scale
from vision_zero.make_data.charts.sources import Kind
from vision_zero.make_data.charts.styles import LEGEND, Style, font_properties
from vision_zero.make_data.charts.tables import ChartTable
from vision_zero.make_data.charts.text_layout import Pen, arrange, check_letters, check_texts, fit, fit_all
from vision_zero.make_data.maker import Rejected

DPI = 100
NUMBERED: frozenset[Kind] = frozenset({"bar", "grouped", "horizontal"})
"""Kinds with numbers beyond the ends of marks, for which the axis leaves room."""
UNTOLD = frozenset({"", "characteristic", "entity"})
"""Uninformative names of rows, as in ChartQA's tables; they are not written at the axis."""
MIN_PLOT = (0.35, 0.3)  # least share of the canvas's width and height for the marks


class DrawnChart:
    """One chart: its figure, drawn by `finish` once the place of the axes is known, and then its image."""

    def __init__(
        self, table: ChartTable, kind: Kind, style: Style, size: tuple[int, int], x_scale: Scale, y_scale: Scale
    ) -> None:
        self.table, self.kind, self.style, self.theme = table, kind, style, style.theme
        self.x_scale, self.y_scale = x_scale, y_scale
        self.width, self.height = size
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=self.theme.paper)
        self.canvas = FigureCanvasAgg(self.figure)
        self.renderer: Any = self.canvas.get_renderer()
        # Text grows with the canvas, slower than it: 9 px at 320 x 240, 13 px at 640 x 480, 15 px at 960 x 720.
        pixels = max(9.0, min(5.0 + 0.0145 * (self.width * self.height) ** 0.5, 22.0))
        self.points = pixels * 72 / DPI
        self.pad = 0.9 * pixels
        self.pen = Pen(self.renderer, font_properties(style.font, self.points))
        self.small = Pen(self.renderer, font_properties(style.font, 0.9 * self.points))
        self.axes = self.figure.add_axes((0.1, 0.1, 0.8, 0.8), facecolor=self.theme.panel)
        self.marks = marks.Marks(self.axes, table, kind, style, self.points)
        top = self._draw_title(self.height - self.pad)
        self.room = self._draw_legend(self.pad, self.pad, self.width - self.pad, top)
        marks.draw_marks(self.marks)
        self._dress_axes()

    @property
    def image(self) -> Image.Image:
        return Image.frombytes("RGBA", (self.width, self.height), bytes(self.canvas.buffer_rgba())).convert("RGB")

    def finish(self, place: Bbox) -> None:
        """Draw it with the axes at `place`. Raises Rejected."""
        self._set_place(place)
        names = self._label_rows(place)
        if self.kind == "pie":
            marks.name_slices(self.marks, self.small, names)
        elif self.theme.numbers and self.kind in (*NUMBERED, "stacked"):
            marks.write_numbers(self.marks, self.small, needed=self._numbers_replace_axis())
        self.canvas.draw()
        check_texts(self.figure, self.renderer)

    def _draw_title(self, top: float) -> float:
        """Draw the title and, if the theme has it there, the unit below. Returns the height that is left."""
        pen = Pen(self.renderer, font_properties(self.style.font, 1.18 * self.points, bold=self.theme.title_bold))
        centred = self.theme.title_place == "center"
        x, align = (0.5, "center") if centred else (self.pad / self.width, "left")
        room = self.width - 2 * self.pad
        if self.table.title:
            text = fit(self.table.title, room, 2, pen)
            self._text(x, top, text, pen, self.theme.ink, ha=align, va="top")
            top -= pen.line * len(text.split("\n")) + 0.15 * pen.line
        unit = self._unit()
        if self.theme.unit_above and unit and self.kind not in ("pie", "scatter"):
            text = fit(unit, room, 1, self.small)
            self._text(x, top, text, self.small, self.theme.ink, ha=align, va="top", alpha=0.75)
            top -= self.small.line + 0.15 * pen.line
        return top - 0.35 * pen.line

    def _unit(self) -> str:
        """Unit of the values; empty if every number shows its own."""
        unit = self.table.units[0]
        return "" if unit in ("%", "$", "£", "€") or len(set(self.table.units)) > 1 else unit

    def _legend_names(self) -> list[str]:
        if self.kind == "pie":
            return [] if self.theme.legend == "top" else list(self.table.rows)
        return [] if self.kind == "scatter" or len(self.table.series) == 1 else list(self.table.series)

    def _draw_legend(self, left: float, bottom: float, right: float, top: float) -> Bbox:
        """Draw the legend at its side of the free rectangle. Returns the rest of it."""
        names = self._legend_names()
        if not names:
            return Bbox.from_extents(left, bottom, right, top)
        place, width = self.theme.legend, right - left
        handle, gap = 1.6 * self.points * DPI / 72, 1.2 * self.points * DPI / 72
        if place == "right":
            texts = fit_all(names, 0.24 * width, 2, self.small)
            n_columns = 1
        else:
            texts = fit_all(names, 0.85 * width, 1, self.small)
            item = max(map(self.small.width, texts)) + handle + 2 * gap
            n_columns = max(1, min(len(texts), int(width / item)))
        anchor = {"right": (right, top), "top": (left, top), "bottom": ((left + right) / 2, bottom)}[place]
        where = {"right": "upper right", "top": "upper left", "bottom": "lower center"}[place]
        if place == "top" and self.theme.title_place == "center":
            anchor, where = ((left + right) / 2, top), "upper center"
        handles: list[Any] = [Patch(facecolor=colour, edgecolor=self.marks.edge) for colour in self.marks.colours]
        if self.kind == "line":
            handles = [Line2D([], [], color=colour, **self.marks.line_look) for colour in self.marks.colours]
        legend = self.figure.legend(
            handles,
            texts,
            loc=where,
            bbox_to_anchor=(anchor[0] / self.width, anchor[1] / self.height),
            prop=self.small.font,
            labelcolor=self.theme.ink,
            ncols=n_columns,
            handlelength=1.6 if self.kind == "line" else 1.0,
            **LEGEND,
        )
        box = legend.get_window_extent(self.renderer)
        if place == "right":
            right -= box.width + self.pad
        elif place == "top":
            top -= box.height + 0.6 * self.pad
        else:
            bottom += box.height + 0.8 * self.pad
        return Bbox.from_extents(left, bottom, right, top)

    def _text(self, x: float, y: float, text: str, pen: Pen, colour: str, **place: Any) -> None:
        """Text on the canvas, x as a share of the width, y in pixels."""
        self.figure.text(x, y / self.height, text, fontproperties=pen.font, color=colour, linespacing=1.15, **place)

    def _dress_axes(self) -> None:
        """Draw frame, grid, limits and ticks. Labels of rows follow when the space is known."""
        axes, theme = self.axes, self.theme
        if self.kind == "pie":
            axes.set(aspect="equal", xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
            axes.axis("off")
            return
        across = self.kind == "horizontal"
        # Beside horizontal bars stands their baseline, wherever they start from, or the whole frame.
        shown = ("left",) if across and len(theme.spines) < 4 else theme.spines
        for name, spine in axes.spines.items():
            spine.set(visible=name in shown, color=theme.ink, linewidth=0.8)
        value_axis, row_axis = (axes.xaxis, axes.yaxis) if across else (axes.yaxis, axes.xaxis)
        self._set_scale(value_axis, self.y_scale, self.table.units[1 if self.kind == "scatter" else 0])
        look = {"length": 0.25 * self.points if theme.ticks else 0, "width": 0.8, "pad": 0.42 * self.points}
        axes.tick_params(which="both", direction=theme.ticks or "out", colors=theme.ink, **look)
        # The first label of the row axis stands beside the lowest of the value axis, and must not touch it.
        axes.tick_params(axis="x", pad=(0.42 if across else 0.75) * self.points)
        axes.set_axisbelow(True)
        if theme.grid:
            grid: dict[str, Any] = {"color": theme.faint, "linestyle": theme.grid_dash, "linewidth": 0.9, "zorder": 0}
            value_axis.grid(True, **grid)
            if theme.grid == "both" and self.kind in ("line", "area", "scatter"):
                row_axis.grid(True, **grid)
        if self.kind == "scatter":
            self._set_scale(axes.xaxis, self.x_scale, self.table.units[0])
            self._name_axis(axes.set_xlabel, 0)
            self._name_axis(axes.set_ylabel, 1)
            return
        n_rows = len(self.table.rows)
        row_axis.set_ticks(range(n_rows))
        low, high = {"line": (-0.25, n_rows - 0.75), "area": (0, n_rows - 1)}.get(self.kind, (-0.6, n_rows - 0.4))
        (axes.set_ylim if across else axes.set_xlim)((high, low) if across else (low, high))
        if self.kind in ("bar", "grouped", "stacked", "horizontal") and not theme.ticks:
            row_axis.set_tick_params(length=0)
        if self._numbers_replace_axis():
            value_axis.set_ticks([])
            value_axis.grid(False)
        elif not theme.unit_above and self._unit():
            (axes.set_xlabel if across else axes.set_ylabel)(
                self._unit(), fontproperties=self.pen.font, color=theme.ink, labelpad=0.4 * self.points
            )
        if theme.ticks and self.table.row_name.lower() not in UNTOLD and not across:
            axes.set_xlabel(self.table.row_name, fontproperties=self.pen.font, color=theme.ink)

    def _numbers_replace_axis(self) -> bool:
        theme = self.theme
        return theme.numbers and not theme.axis_with_numbers and self.kind in ("bar", "horizontal")

    def _set_scale(self, axis: Any, scale: Scale, unit: str) -> None:
        axis.set_view_interval(scale.low, scale.high, ignore=True)
        axis.set_ticks(scale.ticks, [marks.number_text(tick, unit, scale.decimals) for tick in scale.ticks])
        for label in axis.get_ticklabels():
            label.set_fontproperties(self.small.font)

    def _name_axis(self, set_label: Any, s: int) -> None:
        name, unit = self.table.series[s], self.table.units[s]
        text = f"{name} ({unit})" if unit else name
        set_label(text, fontproperties=self.pen.font, color=self.theme.ink, labelpad=0.5 * self.points)

    def fit_axes(self) -> Bbox:
        """The largest axes, in pixels, whose labels fit. Raises Rejected if they are too small."""
        inner = outer = self.room
        for _ in range(3):  # narrower axes may wrap their labels otherwise
            if inner.width < MIN_PLOT[0] * self.width or inner.height < MIN_PLOT[1] * self.height:
                raise Rejected("no room for the plot")
            self._set_place(inner)
            names = self._label_rows(inner)
            probes = marks.name_slices(self.marks, self.small, names) if self.kind == "pie" else []
            box = self.axes.get_tightbbox(self.renderer)
            assert box is not None  # the axes are visible
            for probe in probes:
                probe.remove()
            # A pie is centred: room that its names leave at one side is not room for it to grow into.
            limit = inner if self.kind == "pie" else outer
            low = np.maximum(limit.p0, inner.p0 + outer.p0 - box.p0)
            fitted = Bbox([low, np.minimum(limit.p1, inner.p1 + outer.p1 - box.p1)])
            moved = max(map(abs, (*(fitted.p0 - inner.p0), *(fitted.p1 - inner.p1))))
            inner = fitted
            if moved < 0.5:
                break
        return inner

    def _set_place(self, box: Bbox) -> None:
        self.axes.set_position(
            (box.x0 / self.width, box.y0 / self.height, box.width / self.width, box.height / self.height)
        )

    def _label_rows(self, place: Bbox) -> tuple[str, ...]:
        """Draw names of rows along their axis. Returns those that are placed around a pie instead."""
        rows, width, height = self.table.rows, place.width, place.height
        if self.kind == "scatter":
            return ()
        if self.kind == "pie":
            return () if self._legend_names() else tuple(fit_all(rows, 0.22 * self.width, 2, self.small))
        if self.kind == "horizontal":
            lines = 2 if height / len(rows) >= 2.1 * self.small.line else 1
            labels, angle = fit_all(rows, 0.32 * self.width, lines, self.small), 0
        else:
            low, high = self.axes.get_xlim()
            slot = width / (high - low)
            labels, angle = arrange(rows, slot, 0.3 * self.height, self.small, timed=self.table.timed)
        axis = self.axes.yaxis if self.kind == "horizontal" else self.axes.xaxis
        axis.set_ticks(range(len(rows)), labels)
        for label in axis.get_ticklabels():
            label.set(fontproperties=self.small.font, linespacing=1.1)
            if angle:
                label.set(rotation=angle, ha="right", va="center" if angle == 90 else "top", rotation_mode="anchor")
        return ()


def draw_charts(tables: Sequence[ChartTable], kind: Kind, style: Style, size: tuple[int, int]) -> list[DrawnChart]:
    """One chart per table; the tables differ by edits. `size`: (width, height). Raises Rejected if texts do not fit."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # a "$" of a label is a dollar
        numbers = style.theme.numbers and kind in NUMBERED
        for table in tables:
            words = [table.title, table.row_name, *table.rows, *table.series, *table.units, "…−,.%"]
            for bold in (False, True):
                check_letters(words, font_properties(style.font, 10, bold=bold))
        values = [value for table in tables for value in marks.axis_values(table, kind)]
        y_scale = marks.scale_for(values, kind, numbers)
        x_scale = marks.scale_for(tables[0].values[0], kind, False) if kind == "scatter" else y_scale
        charts = [DrawnChart(table, kind, style, size, x_scale, y_scale) for table in tables]
        place = charts[0].fit_axes()
        for chart in charts[1:] if kind == "pie" else ():  # whose names move with the slices
            place = Bbox.intersection(place, chart.fit_axes()) or place
        for chart in charts:
            chart.finish(place)
        return charts
