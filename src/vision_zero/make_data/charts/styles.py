"""Styles of charts: a theme (frame, grid, places of title and legend), a palette and a font, all in `styles.yaml`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties

from vision_zero.config.game import beside

MIN_CONTRAST, MIN_CONTRAST_ON_DARK = 2.0, 3.0
"""Between the panel and each of a palette's first colours, by WCAG's formula. (Text on paper has 4.5 or more.)"""
N_COLOURS = 5
"""Series of a chart, at most; a pie takes more and goes on from the beginning, lighter."""


@dataclass(frozen=True)
class Theme:
    """`spines` are the lines of the frame that are drawn, `grid` those across the panel.

    `unit_above` puts the values' unit under the title in place of beside the axis; `numbers` writes values on bars and
    then leaves the value axis out if `axis_with_numbers` is False.
    """

    name: str
    paper: str = "#ffffff"
    panel: str = "#ffffff"
    ink: str = "#222222"
    faint: str = "#d9d9d9"
    spines: Sequence[str] = ("left", "bottom")
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
    """Names of files in matplotlib's own folder of fonts."""

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


_TABLES = beside(__file__)
LEGEND: dict[str, float] = _TABLES["legend"]
THEMES = tuple(Theme(name, **fields) for name, fields in _TABLES["themes"].items())
PALETTES = tuple(Palette(name, tuple(colours)) for name, colours in _TABLES["palettes"].items())
FONTS = tuple(Font(name, **fields) for name, fields in _TABLES["fonts"].items())


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
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / (font.bold if bold else font.regular)
    return FontProperties(fname=str(file), size=points * font.scale)
