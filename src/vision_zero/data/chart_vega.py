"""Tables of the data sets that the package `vega_datasets` ships (of its list, only those need no network)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from vision_zero.data.chart_pivot import Pivot, columns, pivot, source_table
from vision_zero.data.chart_tables import SourceTable, read_number

COMPANIES = {"MSFT": "Microsoft", "AMZN": "Amazon", "IBM": "IBM", "GOOG": "Google", "AAPL": "Apple"}
INDUSTRIES = {
    "mining_and_logging": "Mining and logging",
    "construction": "Construction",
    "durable_goods": "Durable goods",
    "nondurable_goods": "Nondurable goods",
    "wholesale_trade": "Wholesale trade",
    "retail_trade": "Retail trade",
    "transportation_and_warehousing": "Transportation",
    "utilities": "Utilities",
    "information": "Information",
    "financial_activities": "Finance",
    "professional_and_business_services": "Business services",
    "education_and_health_services": "Education and health",
    "leisure_and_hospitality": "Leisure and hospitality",
    "other_services": "Other services",
    "government": "Government",
}
"""The industries that together are all non-farm jobs; the other columns are sums of these."""


def vega_tables(folder: Path) -> list[SourceTable]:
    """`folder` is the package's `_data`."""
    return [
        *_barley(_json(folder / "barley.json")),
        *_iowa(_csv(folder / "iowa-electricity.csv")),
        *_employment(_csv(folder / "us-employment.csv")),
        *_wheat(_json(folder / "wheat.json")),
        *_weather(_csv(folder / "seattle-weather.csv")),
        *_temperatures(_csv(folder / "seattle-temps.csv"), _csv(folder / "sf-temps.csv")),
        *_stocks(_csv(folder / "stocks.csv")),
        *_crimea(_json(folder / "crimea.json")),
        *_driving(_json(folder / "driving.json")),
        *_cars(_json(folder / "cars.json")),
        *_iris(_json(folder / "iris.json")),
        *_airports(_csv(folder / "airports.csv")),
    ]


def _csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _json(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def _month(date: str) -> str:
    """`Jan 2006` of 2006-01-01."""
    return f"{datetime.fromisoformat(date.replace('/', '-')[:10]):%b %Y}"


def _barley(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    unit = "Bushels per acre"
    for year in (1931, 1932):
        cells = pivot((one["site"], one["variety"], one["yield"]) for one in records if one["year"] == year)
        title = f"Barley yields in Minnesota, {year}"
        single = f"Yield of {{series}} barley, {year}"
        yield source_table(
            f"vega/barley/{year}/site",
            cells,
            unit,
            row_name="Site",
            rows_are="categories",
            title=title,
            single_title=single,
        )
        yield source_table(
            f"vega/barley/{year}/variety",
            cells.transposed(),
            unit,
            row_name="Variety",
            rows_are="categories",
            title=title,
            single_title=f"Barley yields in {{series}}, {year}",
        )
    for site in sorted({one["site"] for one in records}):
        cells = pivot((one["variety"], str(one["year"]), one["yield"]) for one in records if one["site"] == site)
        yield source_table(
            f"vega/barley/{site}",
            cells,
            unit,
            row_name="Variety",
            rows_are="categories",
            title=f"Barley yields in {site}",
            single_title=f"Barley yields in {site}, {{series}}",
        )


def _iowa(records: list[dict[str, str]]) -> Iterator[SourceTable]:
    cells = pivot((one["year"][:4], one["source"], read_number(one["net_generation"])) for one in records)
    yield source_table(
        "vega/iowa-electricity",
        cells,
        "Thousand megawatt-hours",
        row_name="Year",
        rows_are="times",
        whole="row",
        series_name="Source",
        title="Net electricity generation in Iowa",
        single_title="Electricity from {series} in Iowa",
    )


def _employment(records: list[dict[str, str]]) -> Iterator[SourceTable]:
    long = [(one["month"], name, read_number(one[column])) for one in records for column, name in INDUSTRIES.items()]
    for rows, cells in (
        ("month", pivot((_month(month), name, value) for month, name, value in long)),
        ("year", pivot((month[:4], name, value) for month, name, value in long)),
    ):
        yield source_table(
            f"vega/us-employment/{rows}",
            cells,
            "Thousands of jobs",
            row_name=rows.capitalize(),
            rows_are="times",
            whole="row",
            series_name="Industry",
            title="Jobs by industry, United States",
            single_title="Jobs in the United States: {series}",
        )
        if rows == "year":
            yield source_table(
                "vega/us-employment/industry",
                cells.transposed(),
                "Thousands of jobs",
                row_name="Industry",
                rows_are="categories",
                title="Jobs by industry, United States",
                single_title="Jobs by industry, United States, {series}",
            )


def _wheat(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    names = {"wheat": "Price of wheat", "wages": "Weekly wages"}
    there = [{key: str(value) for key, value in one.items()} for one in records if "wages" in one]
    yield source_table(
        "vega/wheat",
        columns(there, "year", names),
        ("Shillings per quarter", "Shillings per week"),
        row_name="Year",
        rows_are="times",
        title="Price of wheat and wages of labour, England",
        single_title="{series} in England",
    )


def _weather(records: list[dict[str, str]]) -> Iterator[SourceTable]:
    for column, how, unit, what in (
        ("precipitation", "sum", "Millimetres", "Precipitation"),
        ("temp_max", "mean", "°C", "Mean daily high"),
        ("temp_min", "mean", "°C", "Mean daily low"),
        ("wind", "mean", "Metres per second", "Mean wind speed"),
    ):
        long = [(_month(one["date"]), read_number(one[column])) for one in records]
        cells = pivot(((month[:3], month[4:], value) for month, value in long), how)
        yield source_table(
            f"vega/seattle-weather/{column}",
            cells,
            unit,
            row_name="Month",
            rows_are="times",
            title=f"{what} in Seattle",
            single_title=f"{what} in Seattle, {{series}}",
        )
    for year in ("2012", "2013", "2014", "2015"):
        days = ((_month(one["date"])[:3], one["weather"].capitalize(), 1.0) for one in records if year in one["date"])
        yield source_table(
            f"vega/seattle-weather/days/{year}",
            pivot(days, "count"),
            "Days",
            row_name="Month",
            rows_are="times",
            whole="row",
            series_name="Weather",
            title=f"Days by weather in Seattle, {year}",
            single_title=f"Days of weather in Seattle, {year}: {{series}}",
        )
    days = ((one["date"][:4], one["weather"].capitalize(), 1.0) for one in records)
    yield source_table(
        "vega/seattle-weather/days",
        pivot(days, "count").transposed(),
        "Days",
        row_name="Weather",
        rows_are="categories",
        title="Days by weather in Seattle",
        single_title="Days by weather in Seattle, {series}",
    )


def _temperatures(seattle: list[dict[str, str]], san_francisco: list[dict[str, str]]) -> Iterator[SourceTable]:
    long = [
        (city, datetime.fromisoformat(one["date"].replace("/", "-")), read_number(one["temp"]))
        for city, records in (("Seattle", seattle), ("San Francisco", san_francisco))
        for one in records
    ]
    yield source_table(
        "vega/temperatures/month",
        pivot((f"{date:%b}", city, value) for city, date, value in long),
        "°F",
        row_name="Month",
        rows_are="times",
        title="Mean temperature, 2010",
        single_title="Mean temperature in {series}, 2010",
    )
    for city in ("Seattle", "San Francisco"):
        yield source_table(
            f"vega/temperatures/{city}",
            pivot((f"{date.hour}:00", f"{date:%B}", value) for one, date, value in long if one == city),
            "°F",
            row_name="Hour",
            rows_are="times",
            title=f"Mean temperature by hour, {city} 2010",
            single_title=f"Mean temperature by hour, {city}, {{series}} 2010",
        )


def _stocks(records: list[dict[str, str]]) -> Iterator[SourceTable]:
    long = [
        (datetime.strptime(one["date"], "%b %d %Y"), COMPANIES[one["symbol"]], read_number(one["price"]))
        for one in records
    ]
    for rows, row_name in (("%b %Y", "Month"), ("%Y", "Year")):
        yield source_table(
            f"vega/stocks/{row_name.lower()}",
            pivot((f"{date:{rows}}", company, price) for date, company, price in long),
            "US dollars",
            row_name=row_name,
            rows_are="times",
            title="Share prices",
            single_title="Share price of {series}",
        )


def _crimea(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    causes = {"wounds": "Wounds", "disease": "Disease", "other": "Other causes"}
    cells = pivot((_month(one["date"]), name, one[key]) for one in records for key, name in causes.items())
    yield source_table(
        "vega/crimea",
        cells,
        "Deaths",
        row_name="Month",
        rows_are="times",
        whole="row",
        series_name="Cause",
        title="Deaths of British soldiers in the Crimea",
        single_title="Deaths of British soldiers in the Crimea: {series}",
    )


def _driving(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    names = {"miles": "Miles driven per person", "gas": "Price of petrol"}
    yield source_table(
        "vega/driving",
        columns([{key: str(value) for key, value in one.items()} for one in records], "year", names),
        ("Miles per year", "US dollars per gallon"),
        row_name="Year",
        rows_are="times",
        title="Driving and the price of petrol, United States",
        single_title="{series}, United States",
    )


def _cars(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    measures = {
        "Miles_per_Gallon": ("Fuel economy", "Miles per gallon"),
        "Horsepower": ("Engine power", "Horsepower"),
        "Weight_in_lbs": ("Weight", "Pounds"),
        "Displacement": ("Displacement", "Cubic inches"),
        "Acceleration": ("Time to 60 mph", "Seconds"),
    }
    for key, (what, unit) in measures.items():
        by_origin = ((one["Year"][:4], one["Origin"], one[key]) for one in records)
        yield source_table(
            f"vega/cars/{key}",
            pivot(by_origin),
            unit,
            row_name="Model year",
            rows_are="times",
            title=f"{what} of cars by origin",
            single_title=f"{what} of cars from {{series}}",
        )
    yield source_table(
        "vega/cars/count",
        pivot(((one["Year"][:4], one["Origin"], 1.0) for one in records), "count"),
        "Models",
        row_name="Model year",
        rows_are="times",
        whole="row",
        series_name="Origin",
        title="Car models by origin",
        single_title="Car models from {series}",
    )
    for origin in ("USA", "Europe", "Japan"):
        first_of_name = {one["Name"]: one for one in reversed(records) if one["Origin"] == origin}
        cars = list(reversed(first_of_name.values()))
        cells = Pivot(
            tuple(one["Name"] for one in cars),
            tuple(what for what, _ in measures.values()),
            tuple(tuple(one[key] for one in cars) for key in measures),
        )
        yield source_table(
            f"vega/cars/{origin}",
            cells,
            [unit for _, unit in measures.values()],
            row_name="Car",
            rows_are="points",
            title=f"Cars from {origin}, 1970–1982",
        )


def _iris(records: list[dict[str, Any]]) -> Iterator[SourceTable]:
    measures = {
        "sepalLength": "Sepal length",
        "sepalWidth": "Sepal width",
        "petalLength": "Petal length",
        "petalWidth": "Petal width",
    }
    long = [(one["species"].capitalize(), name, one[key]) for one in records for key, name in measures.items()]
    for cells, row_name in ((pivot(long), "Species"), (pivot(long).transposed(), "Measure")):
        yield source_table(
            f"vega/iris/{row_name.lower()}",
            cells,
            "Centimetres",
            row_name=row_name,
            rows_are="categories",
            title="Iris flowers, mean size",
            single_title="Iris flowers, mean size: {series}",
        )
    for number, species in enumerate(sorted({one["species"] for one in records})):
        flowers = [one for one in records if one["species"] == species]
        cells = Pivot(
            tuple(f"{species} {n}" for n in range(1, len(flowers) + 1)),
            tuple(measures.values()),
            tuple(tuple(one[key] for one in flowers) for key in measures),
        )
        yield source_table(
            f"vega/iris/{number}",
            cells,
            "cm",
            row_name="Flower",
            rows_are="points",
            title=f"Flowers of Iris {species}",
        )


def _airports(records: list[dict[str, str]]) -> Iterator[SourceTable]:
    ours = [one for one in records if one["country"] == "USA" and len(one["state"]) == 2 and one["state"] != "NA"]
    yield source_table(
        "vega/airports",
        pivot(((one["state"], "Airports", 1.0) for one in sorted(ours, key=lambda one: one["state"])), "count"),
        "Airports",
        row_name="State",
        rows_are="categories",
        single_title="Airports in selected US states",
    )
