"""Charts read by a policy: completions parsed or counted, files that ChartMaker reads, a killed run that goes on."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from run_scripts.read_charts import (
    PROMPT,
    TablesFolder,
    main,
    read_charts,
    read_completion,
    table_csv,
)
from vision_zero.data.pairs import load_pairs
from vision_zero.make_data.charts.maker import ChartMaker
from vision_zero.make_data.charts.sources import load_tables
from vision_zero.make_data.charts.tables import TableError, parse_csv
from vision_zero.types import Completion

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny_vlm"
CSV = "Year,Solar,Wind\n2019,5,30\n2020,12,28\n2021,19,41\n"


class Scripted:
    """Completions by the image's name, and keeps the requests."""

    def __init__(self, completions: dict[str, str]) -> None:
        self.completions, self.asked = completions, []

    def answer(self, requests):
        self.asked += requests
        return [Completion(self.completions[request.game.pair.id]) for request in requests]

    def forget(self) -> None:
        pass


def charts(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (64, 48), "white").save(folder / name)
    return folder


@pytest.mark.parametrize(
    "completion",
    [
        CSV,
        f"```csv\n{CSV}```",
        f"Here is the table:\n\n```\n{CSV}```\nAnything else?",
        f"```csv\n{CSV}",
        "| Year | Solar | Wind |\n|---|:--:|---|\n| 2019 | 5 | 30 |\n| 2020 | 12 | 28 |\n| 2021 | 19 | 41 |",
        CSV.replace("\n", "\r\n"),
    ],
)
def test_completions_that_are_tables(completion: str) -> None:
    table = read_completion(completion, "chart")
    assert table.rows == ("2019", "2020", "2021")
    assert table.series == ("Solar", "Wind")
    assert table.values == ((5, 12, 19), (30, 28, 41))


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "empty"),
        ("I cannot read this chart.", "one column only"),
        ("Year,Solar\n2019,5\n2020,\n2021,7\n", "a value is missing"),
        ("Year,Solar\n2019,5\n2020\n", "rows of different lengths"),
    ],
)
def test_completions_that_are_none(completion: str, reason: str) -> None:
    with pytest.raises(TableError, match=f"^{reason}$"):
        read_completion(completion, "chart")


@given(st.text(max_size=200) | st.text(alphabet='|`-a1,\n"', max_size=100))
def test_any_completion_is_a_table_or_a_reason(completion: str) -> None:
    try:
        table = read_completion(completion, "chart")
    except TableError:
        return
    again = parse_csv(table_csv(table), "chart")
    assert (again.rows, again.series, again.values) == (table.rows, table.series, table.values)


def test_a_written_table_is_read_back() -> None:
    text = 'Party,"Share, 2019",Cost,Tiny\n"A, B",12.5%,-$1200,1e-9\nC; D,30%,$0.1,0.12345678901234567\n'
    table = parse_csv(text, "t")
    again = parse_csv(table_csv(table), "t")
    assert again == table
    assert again.units == ("%", "$", "")


def test_each_image_is_asked_about_once(tmp_path) -> None:
    pairs = load_pairs(charts(tmp_path / "png", "a.png", "b.png", "c.png"))
    policy = Scripted({"a.png": CSV, "b.png": "no idea", "c.png": CSV})
    batches = list(read_charts(pairs, policy, batch=2))
    assert [list(batch) for batch in batches] == [["a.png", "b.png"], ["c.png"]]
    tables = TablesFolder(tmp_path / "tables")
    for batch in batches:
        tables.write(batch)
    assert tables.unreadable() == {"b.png": "one column only"}
    assert sorted(file.name for file in tables.folder.glob("*.csv")) == ["a.csv", "c.csv"]
    assert {request.prompt.text for request in policy.asked} == {PROMPT}
    assert len({(request.turn, request.image.key) for request in policy.asked}) == 3
    assert all(request.image.size == (64, 48) for request in policy.asked)


def test_from_charts_to_tables_to_pairs(tmp_path, monkeypatch, capsys) -> None:
    folder = charts(tmp_path / "png", "1.png", "2.png", "3.png")
    longer = "Year,Sales\n" + "".join(f"{2000 + n},{n * n}\n" for n in range(8))
    policy = Scripted({"1.png": longer, "2.png": "A bar chart.", "3.png": CSV})
    monkeypatch.setattr("run_scripts.read_charts.load_policy", lambda args: policy)
    out = tmp_path / "tables"
    arguments = [str(folder), "--model", "scripted", "--out", str(out)]

    assert main([*arguments, "--limit", "1"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == ["1.csv"]
    assert main(arguments) == 0  # goes on with the two that are left
    assert [request.game.pair.id for request in policy.asked] == ["1.png", "2.png", "3.png"]
    printed = capsys.readouterr().out
    assert "2 of 3 charts read" in printed
    assert "unreadable: 1 × one column only" in printed
    (line,) = (out / "unreadable.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "2.png", "reason": "one column only", "completion": "A bar chart."}
    assert main(arguments) == 0
    assert len(policy.asked) == 3

    assert [table.name for table in load_tables([str(out)]).tables] == ["1.csv", "3.csv"]
    assert ChartMaker(tables=(str(out),)).summary()["tables_by_kind"].keys() >= {"line", "bar"}


def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path) -> None:
    pairs = load_pairs(charts(tmp_path / "png", "a.png", "b.png"))
    tables = TablesFolder(tmp_path / "tables")
    tables.folder.mkdir()
    whole = json.dumps({"id": "a.png", "reason": "empty", "completion": ""})
    (tables.folder / "unreadable.jsonl").write_text(f'{whole}\n{{"id": "b.p')
    assert [pair.id for pair in tables.missing(pairs)] == ["b.png"]
    tables.write({"b.png": ""})
    assert (tables.folder / "unreadable.jsonl").read_text() == f"{whole}\n{whole.replace('a.png', 'b.png')}\n"


@pytest.mark.parametrize("line", ['{"id": 5', "[1]", '{"id": "a.png"}', "\xff"])
def test_a_damaged_list_of_unreadable_charts_is_named(tmp_path, capsys, line: str) -> None:
    folder, out = charts(tmp_path / "png", "a.png"), tmp_path / "tables"
    out.mkdir()
    (out / "unreadable.jsonl").write_text(line + "\n", encoding="latin-1")
    assert main([str(folder), "--model", str(TINY), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{out / 'unreadable.jsonl'}, line 1: " in error
    assert "repair or remove the line" in error


def test_two_charts_of_one_name_and_names_that_lead_out_are_refused(tmp_path, capsys) -> None:
    folder = charts(tmp_path / "png", "a.png", "a.jpg")
    assert main([str(folder), "--model", str(TINY), "--out", str(tmp_path / "out")]) == 1
    assert "would both be" in capsys.readouterr().err
    line = {"id": "../escaped", "image": "a.png"}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    assert main([str(folder), "--model", str(TINY), "--out", str(tmp_path / "out")]) == 1
    assert "leads out" in capsys.readouterr().err


def test_the_tiny_model_is_asked_and_what_it_says_is_counted(tmp_path, capsys) -> None:
    folder = charts(tmp_path / "png", "a.png", "b.png", "c.png")
    out = tmp_path / "tables"
    status = main(
        [str(folder), "--model", str(TINY), "--out", str(out), "--batch", "2", "--max_tokens", "12", "--use_cpu"]
    )
    assert status == 1  # not one table
    assert "0 of 3 charts read" in capsys.readouterr().out
    assert len((out / "unreadable.jsonl").read_text().splitlines()) == 3
    assert not list(out.glob("*.csv"))


def test_a_model_that_is_not_there(tmp_path, capsys) -> None:
    folder = charts(tmp_path / "png", "a.png")
    assert main([str(folder), "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "none" in capsys.readouterr().err
