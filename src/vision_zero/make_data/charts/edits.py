"""Edits of a chart's table: swap two values, swap two labels, or reverse one trend.

A `Change` records an edit. Edited tables are made by `apply` from the original and the record alone, so the record is
always what was done.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

from vision_zero.make_data.charts.sources import Kind, value_range
from vision_zero.make_data.charts.tables import ChartTable

EditKind = Literal["values", "labels", "trend"]
EDITS: tuple[EditKind, ...] = get_args(EditKind)
TRENDING: frozenset[Kind] = frozenset({"line", "area", "scatter"})


@dataclass(frozen=True)
class Change:
    """Record of one edit.

    values   the values of `series` at the two `rows` changed places
    labels   the names of two rows (`of` "rows") or of two series (`of` "series") changed places; values stayed
    trend    the values of `series` run backwards over `rows`; in a scatter chart, y over the rows in the order of x

    `indices` are positions of rows, or of series if `of` is "series"; `before` and `after` are what stood there.
    """

    edit: EditKind
    of: Literal["rows", "series"]
    series: str
    series_index: int
    indices: tuple[int, ...]
    before: tuple[float | str, ...]
    after: tuple[float | str, ...]

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        if self.edit == "labels":
            del fields["series"], fields["series_index"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def apply(table: ChartTable, change: Change) -> ChartTable:
    if change.edit == "labels":
        names = list(table.rows if change.of == "rows" else table.series)
        for index, name in zip(change.indices, change.after, strict=True):
            names[index] = str(name)
        return replace(table, rows=tuple(names)) if change.of == "rows" else replace(table, series=tuple(names))
    column = list(table.values[change.series_index])
    for index, value in zip(change.indices, change.after, strict=True):
        column[index] = float(value)
    values = list(table.values)
    values[change.series_index] = tuple(column)
    return replace(table, values=tuple(values))


def propose(table: ChartTable, kind: Kind, edit: EditKind, min_difference: float, rng: random.Random) -> Change | None:
    """A random visible change of kind `edit`; None if the table has none.

    Two values, or the values that two labels stand for, differ by at least `min_difference` of the values' range; a
    trend ends higher or lower than it began by as much. Names of times are not swapped: a time axis has an order.
    """
    least = min_difference * value_range(table, kind)
    if least == 0:
        return None
    proposals = {"values": _swapped_values, "labels": _swapped_labels, "trend": _turned_trend}
    return proposals[edit](table, kind, least, rng)


def _swapped_values(table: ChartTable, kind: Kind, least: float, rng: random.Random) -> Change | None:
    columns = [1] if kind == "scatter" else list(range(len(table.series)))
    rng.shuffle(columns)
    for s in columns:
        column = table.values[s]
        apart = [(a, b) for a, b in combinations(range(len(column)), 2) if abs(column[a] - column[b]) >= least]
        if kind == "scatter":  # two points above each other would only change places
            xs = table.values[0]
            reach = max(xs) - min(xs)
            apart = [(a, b) for a, b in apart if abs(xs[a] - xs[b]) >= 0.05 * reach]
        if apart:
            return _change(table, "values", s, rng.choice(apart))
    return None


def _swapped_labels(table: ChartTable, kind: Kind, least: float, rng: random.Random) -> Change | None:
    if kind == "scatter":
        return None  # its points have no names
    of_rows = [] if table.timed else _apart(list(zip(*table.values, strict=True)), least)
    of_series = [] if len(table.series) == 1 else _apart(table.values, least)
    found: list[tuple[Literal["rows", "series"], list[tuple[int, int]]]] = [("rows", of_rows), ("series", of_series)]
    choices = [(of, pairs) for of, pairs in found if pairs]
    if not choices:
        return None
    of, pairs = rng.choice(choices)
    a, b = rng.choice(pairs)
    names = table.rows if of == "rows" else table.series
    return Change("labels", of, "", -1, (a, b), (names[a], names[b]), (names[b], names[a]))


def _apart(groups: Sequence[Sequence[float]], least: float) -> list[tuple[int, int]]:
    """Pairs of groups in which some value differs by at least `least`."""
    return [
        (a, b)
        for a, b in combinations(range(len(groups)), 2)
        if max(abs(x - y) for x, y in zip(groups[a], groups[b], strict=True)) >= least
    ]


def _turned_trend(table: ChartTable, kind: Kind, least: float, rng: random.Random) -> Change | None:
    if kind not in TRENDING:
        return None
    columns = [1] if kind == "scatter" else list(range(len(table.series)))
    rng.shuffle(columns)
    for s in columns:
        order = tuple(range(len(table.rows)))
        if kind == "scatter":
            xs = table.values[0]
            order = tuple(sorted(order, key=lambda r: (xs[r], r)))
        column = [table.values[s][r] for r in order]
        third = max(1, len(column) // 3)
        begins, ends = sum(column[:third]) / third, sum(column[-third:]) / third
        if abs(ends - begins) >= least:
            return _change(table, "trend", s, order)
    return None


def _change(table: ChartTable, edit: EditKind, s: int, indices: tuple[int, ...]) -> Change:
    before = tuple(table.values[s][r] for r in indices)
    return Change(edit, "rows", table.series[s], s, indices, before, before[::-1])
