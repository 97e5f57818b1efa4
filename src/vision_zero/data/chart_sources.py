"""Where tables for charts come from: data sets that two Python packages ship, ChartQA's tables, CSV files.

`load_tables(["vega", "statsmodels", "path/to/folder"])` reads each of them whole. The data sets are read as files, the
packages' own code (and pandas) stays out of it. Tables that cannot be read are left out and counted by reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vision_zero.data.chart_statsmodels import statsmodels_tables
from vision_zero.data.chart_tables import MAX_CSV_CHARS, SourceTable, TableError, parse_csv
from vision_zero.data.chart_vega import vega_tables

BUILT_IN = ("vega", "statsmodels")


class TableSourceError(ValueError):
    """A source of tables that is not there or holds none. The message begins with its name."""


@dataclass(frozen=True)
class LoadedTables:
    """Tables, and how many files were left out by reason."""

    tables: tuple[SourceTable, ...]
    left_out: Counter[str]


def load_tables(sources: Sequence[str]) -> LoadedTables:
    """All tables of `sources`: `vega`, `statsmodels`, a folder with CSV files, or a CSV file.

    A folder that has `tables/`, as ChartQA's have, is read there alone; of any other folder all `*.csv` below it.
    Raises TableSourceError for a source that is missing or gives no table.
    """
    tables: list[SourceTable] = []
    left_out: Counter[str] = Counter()
    for source in sources:
        if source == "vega":
            found = vega_tables(package_folder("vega_datasets") / "_data")
        elif source == "statsmodels":
            found = statsmodels_tables(package_folder("statsmodels") / "datasets")
        else:
            found, reasons = _csv_tables(Path(source))
            left_out += reasons
        tables += found
    return LoadedTables(tuple(tables), left_out)


def package_folder(package: str) -> Path:
    """Where an installed package's files are, without importing it. Raises TableSourceError if it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TableSourceError(f"{package}: not installed; its tables need `pip install {package}` (requirements.txt)")
    return Path(spec.submodule_search_locations[0])


def _csv_tables(path: Path) -> tuple[list[SourceTable], Counter[str]]:
    if not path.exists():
        raise TableSourceError(f"{path}: there is no such file or folder; {' and '.join(BUILT_IN)} are built in")
    files = [path]
    if path.is_dir():
        folder = path / "tables" if (path / "tables").is_dir() else path
        files = sorted(
            Path(root) / name for root, _, names in os.walk(folder) for name in names if name.lower().endswith(".csv")
        )
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
    """Raises TableError for a file that is too large or no UTF-8 text."""
    try:
        if file.stat().st_size > 4 * MAX_CSV_CHARS:
            raise TableError("too large")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError("not UTF-8") from error
    except OSError as error:
        raise TableError("cannot be read") from error
