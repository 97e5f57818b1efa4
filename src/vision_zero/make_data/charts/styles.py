"""Styles of charts: a theme (frame, grid, places of title and legend), a palette and a font of matplotlib's own.

A theme is combined only with palettes that contrast with its panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties

MIN_CONTRAST = 2.0
MIN_CONTRAST_ON_DARK = 3.0
"""Between the panel and each of a palette's first colours, by WCAG's formula. (Text on paper has 4.5 or more.)"""

N_COLOURS = 5
"""Series of a chart, at most; a pie takes more and goes on from the beginning, lighter."""


@dataclass(frozen=True)
class Theme:
    """Colours are hex. `spines` are the lines of the frame that are drawn, `grid` those across the panel.

    `unit_above` puts the values' unit under the title in place of beside the axis; `numbers` writes values on bars and
    then leaves the value axis out if `axis_with_numbers` is False.
    """

    name: str
    paper: str = "#ffffff"
    panel: str = "#ffffff"
    ink: str = "#222222"
    faint: str = "#d9d9d9"
    spines: tuple[str, ...] = ("left", "bottom")
    grid: Literal["", "value", "both"] = ""
    grid_dash: str = "-"
    ticks: Literal["", "in", "out"] = ""
    title_place: Literal["left", "center"] = "center"
    title_bold: bool = False
    legend: Literal["top", "bottom", "right"] = "right"
    unit_above: bool = False
    numbers: bool = False
    axis_with_numbers: bool = True
    bar_share: float = 0.72
    bar_edge: bool = False
    marker: str = ""
    line_width: float = 2.0
    donut: bool = False


@dataclass(frozen=True)
class Palette:
    name: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Font:
    """Files in matplotlib's own folder of fonts, so that a chart's bytes do not depend on the machine."""

    name: str
    regular: str
    bold: str
    scale: float = 1.0


@dataclass(frozen=True)
class Style:
    theme: Theme
    palette: Palette
    font: Font

    @property
    def name(self) -> str:
        return f"{self.theme.name}/{self.palette.name}/{self.font.name}"


_HEADLINE = Theme("", spines=("bottom",), title_place="left", title_bold=True, legend="top")

THEMES = (
    Theme("journal", ticks="out", legend="top", marker="o", line_width=1.6, bar_share=0.62),
    replace(_HEADLINE, name="report", grid="value", unit_above=True, ink="#2b2b2b", faint="#e2e2e2", line_width=2.4),
    Theme(
        "panel",
        panel="#ebebeb",
        faint="#ffffff",
        spines=(),
        grid="both",
        title_place="left",
        ink="#333333",
        bar_share=0.8,
    ),
    Theme(
        "boxed",
        spines=("left", "bottom", "right", "top"),
        ticks="in",
        grid="both",
        grid_dash=":",
        faint="#b5b5b5",
        bar_edge=True,
        marker="s",
        line_width=1.5,
    ),
    replace(
        _HEADLINE,
        name="newspaper",
        paper="#e9f0f4",
        panel="#e9f0f4",
        faint="#c3cfd6",
        grid="value",
        unit_above=True,
        ink="#1d2a33",
        line_width=2.6,
    ),
    replace(
        _HEADLINE,
        name="survey",
        unit_above=True,
        numbers=True,
        axis_with_numbers=False,
        ink="#2d2d2d",
        bar_share=0.7,
        marker="o",
        faint="#e6e6e6",
    ),
    Theme(
        "statistics",
        grid="value",
        grid_dash="--",
        faint="#cccccc",
        spines=("bottom",),
        legend="bottom",
        numbers=True,
        ink="#3a3a3a",
        marker="o",
        bar_share=0.6,
    ),
    replace(
        _HEADLINE,
        name="night",
        paper="#1f2530",
        panel="#1f2530",
        ink="#e8e8e8",
        faint="#3a4352",
        grid="value",
        line_width=2.2,
        donut=True,
    ),
    Theme(
        "cream",
        paper="#fbf6e9",
        panel="#fbf6e9",
        ink="#3b3226",
        faint="#e0d6bd",
        grid="value",
        ticks="out",
        title_bold=True,
        line_width=1.8,
        marker="D",
    ),
    Theme(
        "slide",
        grid="value",
        faint="#ededed",
        legend="bottom",
        unit_above=True,
        title_bold=True,
        bar_share=0.84,
        line_width=3.0,
        donut=True,
        numbers=True,
    ),
)

PALETTES = (
    Palette("okabe-ito", ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7a7a7a")),
    Palette("tableau", ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f")),
    Palette("dark2", ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")),
    Palette("economy", ("#01558b", "#c9302c", "#00a2d9", "#7c5c2b", "#3d6b35", "#ee8f71", "#8b8b8b")),
    Palette("blues", ("#08306b", "#2171b5", "#6baed6", "#0b7fab", "#41608f", "#1c9bd1", "#5f7f9f")),
    Palette("earth", ("#8c510a", "#35978f", "#c7771e", "#01665e", "#a6611a", "#5ab4ac", "#7d6b4f")),
    Palette("berry", ("#7b3294", "#c2185b", "#3949ab", "#e07a5f", "#5e8c61", "#9575cd", "#8d6e63")),
    Palette("signal", ("#d7263d", "#1b5299", "#f2a104", "#2e933c", "#6b4e90", "#1baaa6", "#5c5c5c")),
    Palette("bright", ("#4cc9f0", "#f9c74f", "#f94144", "#90be6d", "#f3722c", "#b388eb", "#adb5bd")),
    Palette("mono", ("#252525", "#969696", "#525252", "#737373", "#3f3f3f", "#828282", "#606060")),
)

FONTS = (
    Font("sans", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    Font("serif", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    Font("times", "STIXGeneral.ttf", "STIXGeneralBol.ttf", scale=1.12),  # its letters are smaller
    Font("mono", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", scale=0.92),
)


@cache
def styles() -> tuple[Style, ...]:
    """Every theme with every font and every palette that stands out from it."""
    found = []
    for theme in THEMES:
        least = MIN_CONTRAST_ON_DARK if contrast(theme.panel, "#ffffff") > 4.5 else MIN_CONTRAST
        for palette in PALETTES:
            if min(contrast(colour, theme.panel) for colour in palette.colours[:N_COLOURS]) >= least:
                found += [Style(theme, palette, font) for font in FONTS]
    return tuple(found)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two hex colours, 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def font_properties(font: Font, points: float, *, bold: bool = False) -> FontProperties:
    """The font at a size of `points` times its own scale."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / (font.bold if bold else font.regular)
    return FontProperties(fname=str(file), size=points * font.scale)
