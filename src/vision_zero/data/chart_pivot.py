"""Records of a data set become the columns of a table: who is a row, who a series, and what is counted or averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vision_zero.data.chart_tables import RowsAre, SourceTable, Whole, read_number


@dataclass(frozen=True)
class Pivot:
    """Rows and series in the order in which they first appear; `values[s][r]` is None where there is no record."""

    rows: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def transposed(self) -> Pivot:
        return Pivot(self.series, self.rows, tuple(zip(*self.values, strict=True)))


def pivot(records: Iterable[tuple[str, str, float | None]], how: str = "mean") -> Pivot:
    """Of (row, series, value): the mean, the `sum`, or the `count` of the values of every cell, to 4 digits.

    A `sum` or `count` without a record is 0. Records without a value are not there.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    rows: dict[str, None] = {}
    series: dict[str, None] = {}
    for row, one, value in records:
        rows.setdefault(row)
        series.setdefault(one)
        if value is not None:
            cells.setdefault((row, one), []).append(value)

    def value_of(found: list[float]) -> float | None:
        if how == "count":
            return len(found)
        if how == "sum":
            return rounded(sum(found))
        return rounded(fmean(found)) if found else None

    return Pivot(
        tuple(rows),
        tuple(series),
        tuple(tuple(value_of(cells.get((row, one), [])) for row in rows) for one in series),
    )


def rounded(value: float) -> float:
    """To 4 significant digits, whole numbers as they are: what a chart can show."""
    return value if value == round(value) else float(f"{value:.4g}")


def columns(records: Sequence[Mapping[str, str]], row: str, names: Mapping[str, str]) -> Pivot:
    """Columns of wide records as series: `names` maps a column to the series' name. Rows by the column `row`."""
    return Pivot(
        tuple(record[row] for record in records),
        tuple(names.values()),
        tuple(tuple(read_number(record[column] or "") for record in records) for column in names),
    )


def source_table(
    name: str,
    cells: Pivot,
    unit: str | Sequence[str],
    *,
    row_name: str,
    rows_are: RowsAre,
    whole: Whole = "",
    series_name: str = "",
    title: str = "",
    single_title: str = "{series}",
) -> SourceTable:
    """`unit` is that of all series, or one for each."""
    units = (unit,) * len(cells.series) if isinstance(unit, str) else tuple(unit)
    return SourceTable(
        name,
        row_name,
        cells.rows,
        cells.series,
        units,
        cells.values,
        rows_are,
        whole,
        series_name,
        title,
        single_title,
    )
