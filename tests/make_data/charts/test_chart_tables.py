"""Tables of numbers: what CSV is read, what is refused and why, and parts of tables that are the source's numbers."""

import csv
import hashlib
import json
from dataclasses import astuple
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_zero.make_data.charts.sources import (
    BUILT_IN_FOLDER,
    KINDS,
    SIZE_RANGES,
    catalogue,
    load_tables,
)
from vision_zero.make_data.charts.tables import RowsAre, TableError, Whole, parse_csv, read_number, time_order


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        (" 1,234.5 ", 1234.5),
        ("1,234,567", 1234567),
        ("-3", -3),
        ("−3", -3),
        ("12%", 12),
        ("$1,200", 1200),
        ("-$5", -5),
        ("€5", 5),
        (".5", 0.5),
        ("2e3", 2000),
        ("3,5", None),
        ("12,34", None),
        ("1.2.3", None),
        ("", None),
        ("-", None),
        ("e3", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("12 apples", None),
        ("45¹", None),
        ("45.2¹", None),
        ("10²", None),
        ("①", None),
        ("1½", None),
        ("⁴", None),
        ("45₁", None),
        ("12 34", None),
        ("12 345", None),
        ("2019 2020", None),
        ("1\u00a0234\u202f567", 1234567),
        ("12\u00a034", None),
        ("45[1]", None),
        ("45*", None),
        ("- 5", -5),
        ("$ 5", 5),
        ("5 %", 5),
    ],
)
def test_numbers(text: str, value: float | None) -> None:
    assert read_number(text) == value


def test_a_chartqa_table() -> None:
    table = parse_csv("Year,Favorable,Unfavorable\n2019,40%,60%\n2018,45%,55%\n2017,48%,52%\n", "a.csv")
    assert table.rows == ("2017", "2018", "2019")  # in the order of time
    assert table.series == ("Favorable", "Unfavorable")
    assert table.values == ((48, 45, 40), (52, 55, 60))
    assert table.units == ("%", "%")
    assert (table.rows_are, table.whole, table.row_name) == ("times", "row", "Year")


def test_gaps_and_columns_of_text() -> None:
    table = parse_csv('"Country, region";GDP;Note;Area\nA;1.5;x;\nB;..;y;3\nC;2;z;4\n', "b.csv")
    assert table.series == ("GDP", "Area")
    assert table.values == ((1.5, None, 2), (None, 3, 4))
    assert (table.rows_are, table.whole, table.row_name) == ("categories", "", "Country, region")


@pytest.mark.parametrize(
    ("text", "rows", "series"),
    [
        (",Country,GDP\n0,France,2.5\n1,Spain,1.4\n", ("France", "Spain"), ("GDP",)),
        ("Unnamed: 0.1,Unnamed: 0,Country,GDP\n0,0,France,2.5\n1,7,Spain,1.4\n", ("France", "Spain"), ("GDP",)),
        ("index;Country;GDP\n5;France;2.5\n9;Spain;1.4\n", ("France", "Spain"), ("GDP",)),
        (",Year,GDP\n0,2019,2.5\n1,2020,1.4\n2,2021,3\n", ("2019", "2020", "2021"), ("GDP",)),
        (",GDP,Area\n0,2.5,7\n1,1.4,8\n", ("0", "1"), ("GDP", "Area")),
        (",France,GDP\n2019,1,2.5\n2020,2,1.4\n2021,3,3\n", ("2019", "2020", "2021"), ("France", "GDP")),
    ],
)
def test_the_index_of_a_data_frame_is_no_name(text: str, rows: tuple[str, ...], series: tuple[str, ...]) -> None:
    table = parse_csv(text, "t")
    assert (table.rows, table.series) == (rows, series)


@pytest.mark.parametrize(
    ("column", "series"),
    [
        (("45¹", "46"), ("Sure",)),
        (("3,5", "4,25"), ("Sure",)),
        (("1,234", "2,500"), ("Sure",)),  # of a file with semicolons
        (("1.234", "2.500"), ("Sure",)),
        (("1.234", "2.5"), ("Sure", "Other")),
        (("0.234", "0.500"), ("Sure", "Other")),
        (("5%", "6"), ("Sure",)),
        (("$5", "€6"), ("Sure",)),
        (("2019 2020", "7"), ("Sure",)),
    ],
)
def test_a_column_whose_numbers_are_not_sure_is_no_series(column: tuple[str, str], series: tuple[str, ...]) -> None:
    table = parse_csv(f"Name;Sure;Other\na;1;{column[0]}\nb;2.5;{column[1]}\n", "t")
    assert table.series == series
    assert table.values[0] == (1, 2.5)
    assert len(table.doubtful) == ("Other" not in series)
    assert all(one in (f"Other: {column[0]}", f"Other: {column[1]}") for one in table.doubtful)


def test_shares_of_one_whole() -> None:
    assert parse_csv("Party,Seats\nA,50\nB,30\nC,20\n", "c.csv").whole == "column"
    assert parse_csv("Party,Seats\nA,50\nB,30\nC,40\n", "c.csv").whole == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n \n", "empty"),
        ("just words", "one column only"),
        ("a,b\n1,2,3\n", "rows of different lengths"),
        ("a,b\nx,1\n", "fewer than two rows"),
        ("a,b\nx,1\nx,2\n", "rows without a name of their own"),
        ("a,b\n,1\nx,2\n", "rows without a name of their own"),
        ("a,b\nx,one\ny,two\n", "no column of numbers"),
        ("a,b,b\nx,1,2\ny,3,4\n", "series without a name of their own"),
        ("id,City,People\n7,Rome,2.8\n9,Oslo,0.7\n", "numbers in the first column and names in another: .*first"),
        ("a,b\n" + "x" * 6_000_000, "too large"),
    ],
)
def test_what_is_no_table(text: str, reason: str) -> None:
    with pytest.raises(TableError, match=f"^{reason}$"):
        parse_csv(text, "d.csv")


@given(st.text(max_size=200) | st.text(alphabet='a1,;\t\n"-.%$ \x00', max_size=200))
def test_reading_is_total(text: str) -> None:
    try:
        table = parse_csv(text, "any")
    except TableError:
        return
    assert len(table.rows) >= 2
    assert table.series


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        (["2017", "2018", "2019*"], [0, 1, 2]),
        (["2019", "2018", "2017"], [2, 1, 0]),
        (["2018", "2017", "2019"], None),
        (["Jan", "Feb", "March"], [0, 1, 2]),
        (["Q1 2019", "Q2 2019", "Q1 2020"], [0, 1, 2]),
        (["2017/18", "2018/19", "2019/20"], [0, 1, 2]),
        (["May 2019", "Jun 2019", "Jan 2020"], [0, 1, 2]),
        (["Marathon", "Junk", "Octopus"], None),
        (["A", "B", "C"], None),
    ],
)
def test_times(rows: list[str], order: list[int] | None) -> None:
    assert time_order(rows) == order


def test_built_in_tables_are_the_published_numbers() -> None:
    by_name = {table.name: table for table in load_tables(["vega", "statsmodels"]).tables}
    iowa = by_name["vega/iowa-electricity"]
    assert iowa.values[iowa.series.index("Fossil Fuels")][iowa.rows.index("2001")] == 35361
    jobs = by_name["vega/us-employment/year"]
    assert jobs.rows[0] == "2006"
    nile = by_name["statsmodels/nile"]
    assert nile.values[0][:3] == (1120, 1160, 963)
    fertility = by_name["statsmodels/fertility/year"]
    assert fertility.values[fertility.series.index("Aruba")][0] == 4.82
    assert all(table.title or len(table.series) == 1 for table in by_name.values())


def test_every_built_in_table_is_as_it_was_made_of_its_data_set() -> None:
    tables = load_tables(["vega", "statsmodels"]).tables
    assert len({table.name for table in tables}) == len(tables) == 67
    for table in tables:
        assert table.rows_are in get_args(RowsAre)
        assert table.whole in get_args(Whole)
        assert any(catalogue([table], kind, 20) for kind in KINDS), f"{table.name}: no chart can be drawn of it"
    assert not any(table.doubtful for table in tables)
    content = repr([astuple(table)[:-1] for table in tables])  # numbers to the last digit, and which of them are ints
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert digest == "accfe6616dc037f1c79d8e0a15280f3dfe220187ea31bb0bd92d8137d3677a60"


def test_every_built_in_table_has_a_file_a_source_and_a_licence() -> None:
    with open(BUILT_IN_FOLDER / "tables.csv", encoding="utf-8") as stream:
        abouts = list(csv.DictReader(stream))
    with open(BUILT_IN_FOLDER / "data_sets.csv", encoding="utf-8") as stream:
        data_sets = list(csv.DictReader(stream))
    files = {path.relative_to(BUILT_IN_FOLDER).as_posix() for path in BUILT_IN_FOLDER.rglob("*.csv")}
    assert files == {f"{about['name']}.csv" for about in abouts} | {"tables.csv", "data_sets.csv"}
    used = {
        ({"vega": "vega_datasets"}.get(package, package), data_set)
        for about in abouts
        for package in [about["name"].split("/")[0]]
        for data_set in about["data_set"].split("; ")
    }
    assert used == {(one["package"], one["data_set"]) for one in data_sets}
    assert all(all(one.values()) for one in data_sets)
    licences = (BUILT_IN_FOLDER / "LICENSES.txt").read_text(encoding="utf-8")
    for package, version in {(one["package"], one["version"]) for one in data_sets}:
        assert f"{package} {version}" in " ".join(licences.split())


def test_parts_are_distinct_numbers_of_their_source_and_fit_their_kind() -> None:
    sources = load_tables(["vega", "statsmodels"]).tables
    cells = {}
    for table in sources:
        of_table = {
            (series, row): value
            for series, column in zip(table.series, table.values, strict=True)
            for row, value in zip(table.rows, column, strict=True)
        }
        cells[table.name] = of_table | {(row, series): value for (series, row), value in of_table.items()}
    for kind in KINDS:
        parts = catalogue(sources, kind, 10)
        assert len({json.dumps(part.as_json()) for part in parts}) == len(parts) >= 10
        shape = SIZE_RANGES[kind]
        for part in parts:
            assert shape.series[0] <= len(part.series) <= shape.series[1]
            assert shape.rows[0] <= len(part.rows) <= shape.rows[1]
            for series, column in zip(part.series, part.values, strict=True):
                for row, value in zip(part.rows, column, strict=True):
                    assert value == cells[part.source][series, row]


def test_sources_that_are_none(tmp_path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_tables([str(tmp_path / "missing")])
    with pytest.raises(ValueError, match="no CSV file"):
        load_tables([str(tmp_path)])
    (tmp_path / "bad.csv").write_text("words\n")
    with pytest.raises(ValueError, match="1 × one column only"):
        load_tables([str(tmp_path)])


def test_chartqa_folder_reads_its_tables_alone_and_counts_what_it_cannot_read(tmp_path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "png").mkdir()
    (tmp_path / "other.csv").write_text("a,b\nx,1\ny,2\n")
    (tmp_path / "tables" / "1.csv").write_text("Year,Sales\n2001,5\n2002,9\n2003,2\n")
    (tmp_path / "tables" / "2.csv").write_bytes(b"a,b\nx,\xff\n")
    loaded = load_tables([str(tmp_path)])
    assert [table.name for table in loaded.tables] == ["tables/1.csv"]
    assert loaded.left_out == {"not UTF-8": 1}


def test_columns_whose_numbers_are_not_sure_are_named(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("Name;Sure;Price;Note\na;1;3,5;10 men\nb;2;4,25;old\nc;3;1;x\n")
    (tmp_path / "b.csv").write_text("Name,Sure,Price\na,1,5%\nb,2,6\n")
    loaded = load_tables([str(tmp_path)])
    assert [table.series for table in loaded.tables] == [("Sure",), ("Sure",)]
    assert loaded.left_out == {}
    assert loaded.doubtful == ("a.csv, Price: 3,5", "b.csv, Price: 5%")
