"""Tables for charts: built-in ones, ChartQA's, CSV files; and parts of them that fit a chart of a kind.

`load_tables(["vega", "statsmodels", "path/to/folder"])` reads all of them. The built-in tables were made of data sets
of the packages `vega_datasets` and `statsmodels`; `data_sets.csv` beside them has their origins and licences. Files
that cannot be read are left out and counted by reason.

A part is a choice of series and of rows: years in a window, some states, some crops. Numbers are never changed. The
catalogue is a function of the table's name and contents alone.
"""

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vision_zero.config.game import beside
from vision_zero.data.errors import is_lfs_pointer
from vision_zero.make_data.charts.tables import MAX_CSV_CHARS, ChartTable, RowsAre, SourceTable, TableError, parse_csv

BUILT_IN = ("vega", "statsmodels")
BUILT_IN_FOLDER = Path(__file__).parent / "tables"
"""`tables.csv` has a line of `SourceTable` fields for each built-in table; the numbers are in `NAME.csv`."""


@dataclass(frozen=True)
class LoadedTables:
    """Tables, and numbers of skipped files by reason."""

    tables: tuple[SourceTable, ...]
    left_out: Counter[str]

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Columns that are no series since their numbers are not sure."""
        return tuple(f"{table.name}, {column}" for table in self.tables for column in table.doubtful)


def load_tables(sources: Sequence[str]) -> LoadedTables:
    """All tables of `sources`: `vega`, `statsmodels`, a folder with CSV files, or a CSV file.

    A folder that has `tables/`, as ChartQA's have, is read there alone; of any other folder all `*.csv` below it.
    Raises ValueError, which begins with its name, for a source that is missing or gives no table.
    """
    tables: list[SourceTable] = []
    left_out: Counter[str] = Counter()
    for source in sources:
        if source in BUILT_IN:
            with open(BUILT_IN_FOLDER / "tables.csv", encoding="utf-8", newline="") as stream:
                lines = [line for line in csv.DictReader(stream) if line["name"].startswith(f"{source}/")]
            found = [_built_in_table(line) for line in lines]
        else:
            found, reasons = _csv_tables(Path(source))
            left_out += reasons
        tables += found
    return LoadedTables(tuple(tables), left_out)


def _built_in_table(about: dict[str, Any]) -> SourceTable:
    """`units` is that of all series, or one for each with `; ` between them."""
    with open(BUILT_IN_FOLDER / f"{about['name']}.csv", encoding="utf-8", newline="") as stream:
        (row_name, *series), *lines = csv.reader(stream)
    rows, *columns = zip(*lines, strict=True)
    units = about["units"].split("; ")
    about |= {"row_name": row_name, "rows": rows, "series": tuple(series)}
    about["units"] = tuple(units) if len(units) > 1 else tuple(units * len(series))
    about["values"] = tuple(tuple(_exact_number(cell) for cell in column) for column in columns)
    del about["data_set"]  # its line of data_sets.csv, with its origin
    return SourceTable(**about)


def _exact_number(cell: str) -> float | None:
    """int of `3`, float of `3.0`, as records and fingerprints show the difference; None of an empty cell."""
    if not cell:
        return None
    return int(cell) if cell.removeprefix("-").isdecimal() else float(cell)


def _csv_tables(path: Path) -> tuple[list[SourceTable], Counter[str]]:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; {' and '.join(BUILT_IN)} are built in")
    files = [path]
    if path.is_dir():
        folder = path / "tables" if (path / "tables").is_dir() else path
        files = sorted(one for one in folder.rglob("*") if one.name.lower().endswith(".csv") and not one.is_dir())
        if not files:
            raise ValueError(f"{folder}: no CSV file in it")
    tables, left_out = [], Counter[str]()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            tables.append(parse_csv(_read_text(file), name))
        except TableError as error:
            left_out[str(error)] += 1
    if not tables:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.most_common(3))
        raise ValueError(f"{path}: no table of numbers in {len(files)} CSV files ({reasons})")
    return tables, left_out


def _read_text(file: Path) -> str:
    """Raises TableError for a file that is too large or not UTF-8 text."""
    try:
        if file.stat().st_size > 4 * MAX_CSV_CHARS:
            raise TableError("too large")
        if is_lfs_pointer(file):
            raise TableError("a Git LFS pointer in place of the file, which `git lfs pull` fetches")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError("not UTF-8") from error
    except OSError as error:
        raise TableError("cannot be read") from error


Kind = Literal["bar", "grouped", "stacked", "horizontal", "line", "area", "pie", "scatter"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ZERO_BASED: frozenset[Kind] = frozenset({"bar", "grouped", "stacked", "horizontal", "area", "pie"})
"""Kinds that show values as lengths or areas: their axis starts at zero."""
STEPS = (1, 2, 5, 10)  # between the rows of a time window
MIN_SHARE = 0.04  # least share of a pie's slice: a smaller one has no room for its label


@dataclass(frozen=True)
class SizeRange:
    """Fewest and most series and rows of a readable chart, and the kinds of rows that it shows."""

    series: Sequence[int]
    rows: Sequence[int]
    rows_are: Sequence[RowsAre]


SIZE_RANGES: Mapping[Kind, SizeRange] = {kind: SizeRange(*ranges) for kind, ranges in beside(__file__).items()}


def catalogue(tables: Sequence[SourceTable], kind: Kind, parts_per_table: int) -> list[ChartTable]:
    """Distinct parts of `tables` for charts of this kind, at most `parts_per_table` of each."""
    found: dict[str, ChartTable] = {}
    for table in tables:
        for part in parts(table, kind, parts_per_table):
            found.setdefault(part.fingerprint(), part)
    return list(found.values())


def parts(table: SourceTable, kind: Kind, limit: int) -> list[ChartTable]:
    rng = random.Random(f"vision-zero/charts/{table.name}/{kind}")
    found: dict[str, ChartTable] = {}
    for _ in range(2 * limit):
        part = _part(table, kind, rng)
        if part is not None and is_readable(part, kind):
            found.setdefault(part.fingerprint(), part)
        if len(found) == limit:
            break
    return list(found.values())


def _part(table: SourceTable, kind: Kind, rng: random.Random) -> ChartTable | None:
    shape = SIZE_RANGES[kind]
    if table.rows_are not in shape.rows_are or (kind == "stacked" and table.whole != "row"):
        return None
    if kind == "pie":
        return _pie_part(table, rng)
    if kind == "scatter":
        return _scatter_part(table, rng)
    most_series = 1 if kind == "area" and table.whole != "row" else shape.series[1]
    first = rng.randrange(len(table.series))
    alike = [s for s in range(len(table.series)) if table.units[s] == table.units[first]]
    if len(alike) < shape.series[0]:
        return None
    n_series = rng.randint(shape.series[0], min(most_series, len(alike)))
    others = rng.sample([s for s in alike if s != first], n_series - 1)
    chosen = sorted([first, *others])
    rows = _time_window(table, shape, rng) if table.rows_are == "times" else _some_rows(table, shape, rng)
    if rows is None:
        return None
    part = _cut(table, chosen, rows, _title(table, chosen, rows))
    if part is not None and n_series == 1 and table.rows_are == "categories" and rng.random() < 0.5:
        values = part.values[0]
        order = sorted(range(len(part.rows)), key=lambda r: -values[r])
        part = replace(part, rows=tuple(part.rows[r] for r in order), values=(tuple(values[r] for r in order),))
    return part


def _time_window(table: SourceTable, shape: SizeRange, rng: random.Random) -> list[int] | None:
    steps = [step for step in STEPS if (len(table.rows) - 1) // step + 1 >= shape.rows[0]]
    if not steps:
        return None
    step = rng.choice(steps)
    n_rows = rng.randint(shape.rows[0], min(shape.rows[1], (len(table.rows) - 1) // step + 1))
    start = rng.randrange(len(table.rows) - (n_rows - 1) * step)
    return list(range(start, start + n_rows * step, step))


def _some_rows(table: SourceTable, shape: SizeRange, rng: random.Random) -> list[int] | None:
    if len(table.rows) < shape.rows[0]:
        return None
    n_rows = rng.randint(shape.rows[0], min(shape.rows[1], len(table.rows)))
    return sorted(rng.sample(range(len(table.rows)), n_rows))


def _pie_part(table: SourceTable, rng: random.Random) -> ChartTable | None:
    """The series of one row, or all rows of one series, if they add up to a whole."""
    least, most = SIZE_RANGES["pie"].rows
    if table.whole == "row" and least <= len(table.series):
        row = rng.randrange(len(table.rows))
        n_parts = min(len(table.series), most)
        chosen = sorted(rng.sample(range(len(table.series)), n_parts))
        selected = " (selected)" if n_parts < len(table.series) else ""
        title = f"{table.title}, {table.rows[row]}" if table.title else table.rows[row]
        turned = replace(table, row_name=table.series_name, rows=table.series, series=table.rows, rows_are="categories")
        units, values = (table.units[chosen[0]],) * len(table.rows), tuple(zip(*table.values, strict=True))
        return _cut(replace(turned, units=units, values=values), [row], chosen, title + selected)
    if table.whole == "column" and least <= len(table.rows) <= most:
        series, rows = [rng.randrange(len(table.series))], range(len(table.rows))
        return _cut(table, series, rows, _title(table, series, rows))
    return None


def _scatter_part(table: SourceTable, rng: random.Random) -> ChartTable | None:
    """Two series of observations, or of different units."""
    if len(table.series) < 2:
        return None
    x, y = rng.sample(range(len(table.series)), 2)
    if table.rows_are != "points" and table.units[x] == table.units[y]:
        return None
    there = [r for r in range(len(table.rows)) if table.values[x][r] is not None and table.values[y][r] is not None]
    least, most = SIZE_RANGES["scatter"].rows
    if len(there) < least:
        return None
    rows = sorted(rng.sample(there, rng.randint(least, min(most, len(there)))))
    return _cut(table, [x, y], rows, table.title)


def _cut(table: SourceTable, series: Sequence[int], rows: Sequence[int], title: str) -> ChartTable | None:
    """The chosen part, or None if it has a gap."""
    values = []
    for s in series:
        column = [value for r in rows if (value := table.values[s][r]) is not None]
        if len(column) < len(rows):
            return None
        values.append(tuple(column))
    return ChartTable(
        title,
        table.row_name,
        tuple(table.rows[r] for r in rows),
        tuple(table.series[s] for s in series),
        tuple(table.units[s] for s in series),
        tuple(values),
        table.name,
        timed=table.rows_are == "times",
    )


def _title(table: SourceTable, series: Sequence[int], rows: Sequence[int]) -> str:
    # Names come from files, so braces in them are theirs and not a format's.
    one = table.single_title.replace("{series}", table.series[series[0]])
    title = one if len(series) == 1 else table.title
    if table.rows_are != "times" or not title:
        return title
    return f"{title}, {table.rows[rows[0]]}–{table.rows[rows[-1]]}"


def value_range(table: ChartTable, kind: Kind) -> float:
    """Largest minus smallest value, or minus zero for kinds that show lengths. Of a scatter chart, the range of y."""
    columns = table.values[1:] if kind == "scatter" else table.values
    values = [value for column in columns for value in column] + ([0.0] if kind in ZERO_BASED else [])
    return max(values) - min(values)


def is_readable(table: ChartTable, kind: Kind) -> bool:
    """True if the values are visible in a chart of this kind: none too small, and different enough."""
    if any(max(column) == min(column) for column in table.values):
        return False
    values = [value for column in table.values for value in column]
    if kind in ("stacked", "area", "pie") and min(values) < 0:
        return False
    if kind == "pie":
        return min(values) >= MIN_SHARE * sum(values) and max(values) - min(values) >= 0.2 * max(values)
    if kind in ZERO_BASED:
        sizes = sorted(map(abs, values))
        differ = max(max(column) - min(column) for column in table.values) >= 0.2 * value_range(table, kind)
        return differ and sizes[len(sizes) // 3] >= 0.04 * sizes[-1]
    if kind == "line":  # a series that is flat beside the others tells nothing
        return all(max(column) - min(column) >= 0.05 * value_range(table, kind) for column in table.values)
    return len(set(values)) >= len(values) // 2
