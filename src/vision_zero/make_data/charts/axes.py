"""Value axes and the numbers on charts: limits and ticks of an axis, format of a number."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from vision_zero.make_data.charts.slices import ZERO_BASED, Kind
from vision_zero.make_data.charts.tables import ChartTable

MAX_EMPTY = 0.4
"""Share of a tick step: an axis that would reach further beyond its values ends at them."""


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
