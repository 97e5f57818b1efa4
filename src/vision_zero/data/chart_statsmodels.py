"""Tables of the data sets that the package `statsmodels` ships: those that are in the public domain or free to use.

Some of its sets are there by their authors' permission alone (committee, copper, cpunish, scotland, star98); they are
not read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from vision_zero.data.chart_pivot import Pivot, columns, pivot, source_table
from vision_zero.data.chart_tables import SourceTable, read_number

Records = Sequence[dict[str, str]]

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
UNITED_STATES = "United States"


def statsmodels_tables(folder: Path) -> list[SourceTable]:
    """`folder` is the package's `datasets`."""

    def read(name: str) -> Records:
        with open(folder / name / f"{name}.csv", encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream))

    return [
        *_el_nino(read("elnino")),
        *_fertility(read("fertility")),
        *_grunfeld(read("grunfeld")),
        *_states(read("statecrime")),
        *_macro(read("macrodata")),
        *_longley(read("longley")),
        *_yearly(read("nile"), read("sunspots"), read("co2")),
        *_engel(read("engel")),
    ]


def _el_nino(records: Records) -> Iterator[SourceTable]:
    names = {month.upper(): month for month in MONTHS}
    by_year = columns(records, "YEAR", names)
    for name, cells, single in (
        ("Year", by_year, "Sea surface temperature in {series}, eastern Pacific"),
        ("Month", by_year.transposed(), "Sea surface temperature, eastern Pacific, {series}"),
    ):
        yield source_table(
            f"statsmodels/elnino/{name.lower()}",
            cells,
            "°C",
            row_name=name,
            rows_are="times",
            title="Sea surface temperature, eastern Pacific",
            single_title=single,
        )


def _fertility(records: Records) -> Iterator[SourceTable]:
    years = [column for column in records[0] if column.isdecimal()]
    cells = pivot((year, one["Country Name"], read_number(one[year] or "")) for one in records for year in years)
    for name, some in (("year", cells), ("country", cells.transposed())):
        yield source_table(
            f"statsmodels/fertility/{name}",
            some,
            "Births per woman",
            row_name=name.capitalize(),
            rows_are="times" if name == "year" else "categories",
            title="Fertility rate",
            single_title="Fertility rate, {series}",
        )


def _grunfeld(records: Records) -> Iterator[SourceTable]:
    measures = {"invest": "Gross investment", "value": "Market value", "capital": "Stock of plant and equipment"}
    for key, what in measures.items():
        cells = pivot((one["year"], one["firm"], read_number(one[key])) for one in records)
        for name, some in (("year", cells), ("firm", cells.transposed())):
            yield source_table(
                f"statsmodels/grunfeld/{key}/{name}",
                some,
                "Millions of 1947 dollars",
                row_name=name.capitalize(),
                rows_are="times" if name == "year" else "categories",
                title=f"{what} of US firms",
                single_title=f"{what} of {{series}}" if name == "year" else f"{what} of US firms, {{series}}",
            )


def _states(records: Records) -> Iterator[SourceTable]:
    measures = {
        "violent": ("Violent crimes", "Per 100,000 people"),
        "murder": ("Murders", "Per 100,000 people"),
        "hs_grad": ("High school graduates", "% of adults"),
        "poverty": ("People in poverty", "% of people"),
        "urban": ("Urban population", "% of people"),
    }
    yield source_table(
        "statsmodels/statecrime",
        columns(records, "state", {key: what for key, (what, _) in measures.items()}),
        [unit for _, unit in measures.values()],
        row_name="State",
        rows_are="categories",
        title="US states, 2009",
        single_title="{series} in US states, 2009",
    )


def _macro(records: Records) -> Iterator[SourceTable]:
    billions, percent, index = "Billions of 2005 dollars", "%", "1982–84 = 100"
    measures = {
        "realcons": ("Consumption", billions),
        "realinv": ("Investment", billions),
        "realgovt": ("Government", billions),
        "unemp": ("Unemployment rate", percent),
        "tbilrate": ("Treasury bill rate", percent),
        "infl": ("Inflation", percent),
        "cpi": ("Consumer price index", index),
        "m1": ("Money stock M1", "Billions of dollars"),
        "pop": ("Population", "Millions"),
    }
    whole_years = [one for one in records if one["year"] != "2009"]  # of which three quarters are there
    for row_name, name_of in (
        ("Year", lambda one: one["year"]),
        ("Quarter", lambda one: f"Q{one['quarter']} {one['year']}"),
    ):
        for name, keys in (("spending", ["realcons", "realinv", "realgovt"]), ("economy", list(measures))):
            long = ((name_of(one), measures[key][0], read_number(one[key])) for one in whole_years for key in keys)
            yield source_table(
                f"statsmodels/macrodata/{name}/{row_name.lower()}",
                pivot(long),
                [measures[key][1] for key in keys],
                row_name=row_name,
                rows_are="times",
                whole="row" if name == "spending" else "",
                series_name="Spending" if name == "spending" else "",
                title=f"Domestic spending, {UNITED_STATES}"
                if name == "spending"
                else f"Economy of the {UNITED_STATES}",
                single_title=f"{{series}}, {UNITED_STATES}",
            )


def _longley(records: Records) -> Iterator[SourceTable]:
    measures = {
        "TOTEMP": ("Employed people", "Thousands"),
        "UNEMP": ("Unemployed people", "Thousands"),
        "ARMED": ("Armed forces", "Thousands"),
        "GNP": ("Gross national product", "Millions of dollars"),
        "GNPDEFL": ("Price level", "1954 = 100"),
    }
    yield source_table(
        "statsmodels/longley",
        columns(records, "YEAR", {key: what for key, (what, _) in measures.items()}),
        [unit for _, unit in measures.values()],
        row_name="Year",
        rows_are="times",
        title=f"Employment and output, {UNITED_STATES}",
        single_title=f"{{series}}, {UNITED_STATES}",
    )


def _yearly(nile: Records, sunspots: Records, co2: Records) -> Iterator[SourceTable]:
    carbon = [(one["date"][:4], one["date"][4:6], read_number(one["co2"] or "")) for one in co2]
    by_month = pivot((year, MONTHS[int(month) - 1], value) for year, month, value in carbon if year > "1958")
    single = "Carbon dioxide in the air at Mauna Loa"
    for name, cells, unit, title in (
        ("nile", columns(nile, "year", {"volume": "Volume"}), "100 million m³", "Annual flow of the Nile at Aswan"),
        ("sunspots", columns(sunspots, "YEAR", {"SUNACTIVITY": "Sunspots"}), "Sunspot number", "Sunspots"),
        ("co2", by_month, "Parts per million", f"{single}, {{series}}"),
    ):
        yield source_table(
            f"statsmodels/{name}",
            cells,
            unit,
            row_name="Year",
            rows_are="times",
            title=single if name == "co2" else title,
            single_title=title,
        )
    whole_years = pivot((month, year, value) for year, month, value in carbon if year > "1958")
    ordered = pivot(
        (month, year, whole_years.values[s][whole_years.rows.index(f"{m:02d}")])
        for s, year in enumerate(whole_years.series)
        for m, month in enumerate(MONTHS, start=1)
    )
    yield source_table(
        "statsmodels/co2/month",
        ordered,
        "Parts per million",
        row_name="Month",
        rows_are="times",
        title=single,
        single_title=f"{single}, {{series}}",
    )


def _engel(records: Records) -> Iterator[SourceTable]:
    cells = Pivot(
        tuple(f"Household {n}" for n in range(1, len(records) + 1)),
        ("Household income", "Spending on food"),
        tuple(tuple(round(float(one[key]), 1) for one in records) for key in ("income", "foodexp")),
    )
    yield source_table(
        "statsmodels/engel",
        cells,
        "Belgian francs",
        row_name="Household",
        rows_are="points",
        title="Working-class households in Belgium, 1857",
    )
