"""Sources of tables for charts: built-in tables, ChartQA's tables, CSV files.

`load_tables(["vega", "statsmodels", "path/to/folder"])` reads all of them. The built-in tables were made of data sets
of the packages `vega_datasets` and `statsmodels`; `data_sets.csv` beside them has their origins and licences. Files
that cannot be read are left out and counted by reason.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_zero.data.errors import is_lfs_pointer
from vision_zero.make_data.charts.tables import MAX_CSV_CHARS, SourceTable, TableError, parse_csv

BUILT_IN = ("vega", "statsmodels")
BUILT_IN_FOLDER = Path(__file__).parent / "tables"
"""`tables.csv` has a line of `SourceTable` fields for each built-in table; the numbers are in `NAME.csv`."""


class TableSourceError(ValueError):
    """A source of tables is missing or empty. The message begins with its name."""


@dataclass(frozen=True)
class LoadedTables:
    """Tables, and numbers of skipped files by reason."""

    tables: tuple[SourceTable, ...]
    left_out: Counter[str]

    @property
    def doubtful(self) -> list[str]:
        """Columns that are no series since their numbers are not sure."""
        return [f"{table.name}, {column}" for table in self.tables for column in table.doubtful]


def load_tables(sources: Sequence[str]) -> LoadedTables:
    """All tables of `sources`: `vega`, `statsmodels`, a folder with CSV files, or a CSV file.

    A folder that has `tables/`, as ChartQA's have, is read there alone; of any other folder all `*.csv` below it.
    Raises TableSourceError for a source that is missing or gives no table.
    """
    tables: list[SourceTable] = []
    left_out: Counter[str] = Counter()
    for source in sources:
        if source in BUILT_IN:
            found = built_in_tables(source)
        else:
            found, reasons = _csv_tables(Path(source))
            left_out += reasons
        tables += found
    return LoadedTables(tuple(tables), left_out)


def built_in_tables(source: str) -> list[SourceTable]:
    """The tables that the package ships under the name `source`, in the order of `tables.csv`."""
    with open(BUILT_IN_FOLDER / "tables.csv", encoding="utf-8", newline="") as stream:
        return [_built_in_table(about) for about in csv.DictReader(stream) if about["name"].startswith(f"{source}/")]


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
        raise TableSourceError(f"{path}: there is no such file or folder; {' and '.join(BUILT_IN)} are built in")
    files = [path]
    if path.is_dir():
        folder = path / "tables" if (path / "tables").is_dir() else path
        files = sorted(one for one in folder.rglob("*") if one.name.lower().endswith(".csv") and not one.is_dir())
        if not files:
            raise TableSourceError(f"{folder}: no CSV file in it")
    tables, left_out = [], Counter[str]()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            tables.append(parse_csv(_read_text(file), name))
        except TableError as error:
            left_out[str(error)] += 1
    if not tables:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in left_out.most_common(3))
        raise TableSourceError(f"{path}: no table of numbers in {len(files)} CSV files ({reasons})")
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
