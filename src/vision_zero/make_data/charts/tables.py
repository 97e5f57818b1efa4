"""Tables of charts: `ChartTable` of one chart, `SourceTable` of a source, and the parser of CSV.

A chart shows a `ChartTable`: few rows and series, no gaps. A `SourceTable` has any number of rows and series, and gaps;
charts show parts of it (`sources`). CSV comes from users and from models that read charts, so the parser returns a
`SourceTable` or raises a `TableError` with the reason.
"""

import csv
import hashlib
import io
import json
import math
import re
import unicodedata
from calendar import month_name
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Whole = Literal["", "row", "column"]
"""Parts of a whole: none known, the series of every row, or the rows of every series."""

RowsAre = Literal["categories", "times", "points"]
"""Kinds of rows: categories in any order, times in order, or observations for a scatter chart."""

MAX_CSV_CHARS = 5_000_000
MAX_CSV_ROWS = 20_000
MAX_CSV_COLUMNS = 400
MAX_LABEL_CHARS = 200

MISSING = frozenset({"", "-", "–", "—", "..", "...", "na", "n/a", "nan", "none", "null", "*"})
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_MONTHS = tuple(name.lower() for name in month_name[1:])


class TableError(ValueError):
    """The text does not parse as a numeric table. The message is one of a few short ones: files are counted by it."""


@dataclass(frozen=True)
class ChartTable:
    """Table of one chart: `values[s][r]` is series s at row r, in `units[s]`.

    Rows of a `timed` table are times, in order. A scatter chart has series x and y. Raises ValueError for values that
    do not fit the names or are not finite, and for equal names.
    """

    title: str
    row_name: str
    rows: tuple[str, ...]
    series: tuple[str, ...]
    units: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    source: str
    timed: bool = False

    def __post_init__(self) -> None:
        if not len(self.series) == len(self.units) == len(self.values):
            raise ValueError(f"{self.source}: {len(self.series)} series, but {len(self.values)} columns of values")
        if any(len(column) != len(self.rows) for column in self.values):
            raise ValueError(f"{self.source}: a column of values is not as long as the {len(self.rows)} rows")
        if not all(math.isfinite(value) for column in self.values for value in column):
            raise ValueError(f"{self.source}: a value is not a finite number")
        if len(set(self.rows)) < len(self.rows) or len(set(self.series)) < len(self.series):
            raise ValueError(f"{self.source}: two rows or two series have the same name")

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "row_name": self.row_name,
            "rows": list(self.rows),
            "series": [
                {"name": name, "unit": unit, "values": list(column)}
                for name, unit, column in zip(self.series, self.units, self.values, strict=True)
            ],
            "source": self.source,
        }

    def fingerprint(self) -> str:
        """Hash of names and numbers, without the title."""
        content = json.dumps([self.rows, self.series, self.values])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SourceTable:
    """Table of a source. `values[s][r]` is None where the source has no number.

    `series_name` is what the series are (`Industry`). `title` is that of a chart of several series, `single_title` that
    of a chart of one, with `{series}` for its name. Empty titles are not drawn. `doubtful` are columns that are no
    series since their numbers are not sure, each with its first such cell.
    """

    name: str
    row_name: str
    rows: tuple[str, ...]
    series: tuple[str, ...]
    units: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    rows_are: RowsAre
    whole: Whole = ""
    series_name: str = ""
    title: str = ""
    single_title: str = "{series}"
    doubtful: tuple[str, ...] = ()


def read_number(text: str) -> float | None:
    """Number of a cell: `1,234.5`, `-3`, `12%`, `$5`, `2e3`. None for anything that is not surely one, also for `3,5`.

    Superscripts and circled digits are footnotes (45¹), and a space between digits may part two numbers, but for the
    unbreakable ones, which only group thousands.
    """
    if any(unicodedata.category(one) == "No" for one in text):
        return None
    plain = re.sub(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))", ",", text.strip())
    plain = unicodedata.normalize("NFKC", plain).replace("−", "-").removesuffix("%").strip()
    sign = "-" if plain.startswith("-") else ""
    plain = sign + plain.removeprefix("-").lstrip().lstrip("$£€").lstrip()
    if not _NUMBER.fullmatch(plain) or not any(character.isdecimal() for character in plain.lower().split("e")[0]):
        return None
    value = float(plain.replace(",", ""))
    return value if math.isfinite(value) else None


def clean_label(text: str) -> str:
    """A name on one line without control characters, at most MAX_LABEL_CHARS long."""
    visible = "".join(" " if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp") else one for one in text)
    line = " ".join(visible.split())
    return line if len(line) <= MAX_LABEL_CHARS else line[: MAX_LABEL_CHARS - 1] + "…"


def parse_csv(text: str, name: str) -> SourceTable:
    """A table from CSV text: a header, then one row a line, its name first. `name` is the source's.

    Columns with a cell that is not numeric are not series. Times are put in order. Raises TableError for a text
    without two rows and one series.
    """
    (header, *lines), delimiter = _cells(text)
    header, lines = _without_index(header, lines)
    if len(header) < 2:
        raise TableError("one column only")
    if any(len(line) != len(header) for line in lines):
        raise TableError("rows of different lengths")
    rows = tuple(clean_label(line[0]) for line in lines)
    if len(rows) < 2:
        raise TableError("fewer than two rows")
    if len(set(rows)) < len(rows) or "" in rows:
        raise TableError("rows without a name of their own")
    columns = [(clean_label(header[c]), [line[c].strip() for line in lines]) for c in range(1, len(header))]
    numeric = [(title, cells) for title, cells in columns if _is_numeric(cells, delimiter)]
    if not numeric:
        raise TableError("no column of numbers")
    others = [one for one in columns if one not in numeric]
    names = [
        cells for _, cells in others if len(set(cells)) == len(cells) and all(read_number(c) is None for c in cells)
    ]
    if names and time_order(rows) is None and all(read_number(row) is not None for row in rows):
        raise TableError("numbers in the first column and names in another: put the column that names the rows first")
    series = tuple(title for title, _ in numeric)
    if len(set(series)) < len(series) or "" in series:
        raise TableError("series without a name of their own")
    values = [tuple(read_number(cell) for cell in cells) for _, cells in numeric]
    order = time_order(rows)
    if order is not None:
        rows = tuple(rows[r] for r in order)
        values = [tuple(column[r] for r in order) for column in values]
    return SourceTable(
        name=name,
        row_name=clean_label(header[0]),
        rows=rows,
        series=series,
        units=tuple(_unit(cells) for _, cells in numeric),
        values=tuple(values),
        rows_are="categories" if order is None else "times",
        whole=_whole(values),
        doubtful=tuple(f"{title}: {cell}" for title, cells in others for cell in _doubtful(cells)[:1]),
    )


def _cells(text: str) -> tuple[list[list[str]], str]:
    """Cells of the lines that are not blank, and their delimiter. Raises TableError if too large, not CSV or empty."""
    if len(text) > MAX_CSV_CHARS:
        raise TableError("too large")
    text = text.lstrip("\ufeff").strip()
    readings = [(_split(text, delimiter), delimiter) for delimiter in ",;\t"]
    regular = [one for one in readings if one[0] and len(one[0][0]) > 1 and len(set(map(len, one[0]))) == 1]
    cells, delimiter = (regular or readings)[0]
    if not cells:
        raise TableError("empty")
    if len(cells) > MAX_CSV_ROWS or len(cells[0]) > MAX_CSV_COLUMNS:
        raise TableError("too large")
    return cells, delimiter


def _without_index(header: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without the row numbers that a data frame was saved with, if a column of names or times follows."""
    columns = list(zip(header, *lines, strict=False)) if {len(line) for line in lines} == {len(header)} else []
    for number, (title, *cells) in enumerate(columns):
        times = time_order(cells) is not None
        if number and (times or not all(read_number(cell) is not None for cell in cells)):
            return header[number:], [line[number:] for line in lines]
        is_index = re.fullmatch(r"|index|level_\d+|unnamed: [\d.]+", title.strip().lower())
        if not is_index or times or not all(cell.strip().isdecimal() for cell in cells):
            break
    return header, lines


def _split(text: str, delimiter: str) -> list[list[str]]:
    try:
        return [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if any(map(str.strip, line))]
    except csv.Error as error:
        raise TableError("not CSV") from error


def _is_numeric(cells: Sequence[str], delimiter: str) -> bool:
    """True if the numbers of a column are sure: all of one unit, and a point or comma before three digits is no riddle.

    Files with other delimiters come from where `1,5` is one and a half: there `1,234` and `1.234` may be either.
    """
    there = [cell for cell in cells if cell.lower() not in MISSING]
    units = {tuple(sign in cell for sign in "%$£€") for cell in there}
    grouped = [re.fullmatch(r"[^\d]*[1-9]\d{0,2}([.,]\d{3})+[^\d]*", cell) is not None for cell in there]
    unclear = delimiter != "," and (any("," in cell for cell in there) or all(grouped))
    return len(there) >= 2 and len(units) == 1 and not unclear and all(read_number(cell) is not None for cell in there)


def _doubtful(cells: Sequence[str]) -> list[str]:
    """The cells of a column of numbers that are not sure; none if fewer than half of its cells look like numbers."""
    there = [cell for cell in cells if cell.lower() not in MISSING]
    alike = [cell for cell in there if re.fullmatch(r"\W*\d[\d.,'\s]*\W*\w{0,3}", cell)]
    unread = [cell for cell in there if read_number(cell) is None]
    return (unread or there) if there and 2 * len(alike) >= len(there) else []


def _unit(cells: Sequence[str]) -> str:
    """`%` or a currency sign if every number of the column has it, else empty."""
    there = [cell for cell in cells if cell.lower() not in MISSING]
    if all(cell.endswith("%") for cell in there):
        return "%"
    return next((sign for sign in "$£€" if all(sign in cell[:2] for cell in there)), "")


def _whole(values: Sequence[Sequence[float | None]]) -> Whole:
    """Detect shares in percent by their sum, 98 to 102."""

    def is_hundred(numbers: Sequence[float | None]) -> bool:
        there = [number for number in numbers if number is not None]
        return len(there) == len(numbers) > 1 and min(there) >= 0 and 98 <= sum(there) <= 102

    if len(values) > 1 and all(is_hundred(row) for row in zip(*values, strict=True)):
        return "row"
    return "column" if all(is_hundred(column) for column in values) else ""


def time_order(rows: Sequence[str]) -> list[int] | None:
    """Positions of `rows` in the order of time, if all are dates or years in order or in reverse order; else None."""
    moments = [_moment(row) for row in rows]
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments) or len(set(known)) < max(3, len(known)):
        return None
    order, forward = sorted(range(len(known)), key=known.__getitem__), list(range(len(known)))
    return order if order in (forward, forward[::-1]) else None


def _moment(row: str) -> tuple[int, int, int] | None:
    """(year, month, day) of `2019`, `2019*`, `2018/19`, `2019-05`, `2019-05-01`, `Q2 2019`, `May 2019`, `May`."""
    text = row.strip().rstrip("*").lower()
    if match := re.fullmatch(r"(1[0-9]{3}|20[0-9]{2}|21[0-9]{2})(?:[/–-](\d{2}|\d{4}))?", text):
        second = match[2]
        is_month = second is not None and "-" in text and len(second) == 2 and 1 <= int(second) <= 12
        return int(match[1]), int(second) if is_month else 0, 0
    if match := re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})", text):
        return int(match[1]), int(match[2]), int(match[3])
    if match := re.fullmatch(r"q([1-4])\s+'?(\d{4}|\d{2})", text) or re.fullmatch(r"(\d{4})\s+q([1-4])", text):
        quarter, year = (int(match[1]), int(match[2])) if text.startswith("q") else (int(match[2]), int(match[1]))
        return year, 3 * quarter, 0
    if match := re.fullmatch(r"([a-z]{3,})\.?(?:\s+'?(\d{4}|\d{2}))?", text):
        month = next((m for m, name in enumerate(_MONTHS, start=1) if name.startswith(match[1])), None)
        return None if month is None else (int(match[2] or 0), month, 0)
    return None
