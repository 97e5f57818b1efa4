"""`experiments/report.py` as a program: what it says and with which status it ends, on broken files too."""

from __future__ import annotations

from pathlib import Path

import pytest

import report
from tests.experiments.result_lines import FIRST
from tests.experiments.study_files import write, write_lines


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program reads and writes: one study without results, and a page."""
    write(tmp_path, one={"arms": {"first": None}}, two={"arms": {"first": None}})
    (tmp_path / "page.md").write_text("# Results\n")
    names = {"STUDIES": "studies", "RESULTS": "results", "PAGE": "page.md", "IMAGES": "images"}
    for name, place in names.items():
        monkeypatch.setattr(report, name, tmp_path / place)
    return tmp_path


def test_the_program_says_what_it_did(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([]) == 1
    assert report.main(["one"]) == 1
    assert capsys.readouterr().out.endswith("no results of one\n")
    write_lines(places / "results" / "one.jsonl", {**FIRST[0], "study": "one"})
    assert report.main(["one"]) == 0
    assert capsys.readouterr().out == "renewed one\n"
    assert "<!-- study one -->" in (places / "page.md").read_text()
    assert report.main([]) == 0
    assert report.main(["one", "two"]) == 1


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("results/one.jsonl", b"broken\n", "results/one.jsonl, line 1: not JSON"),
        ("results/one.jsonl", b'{"study": "one"}\n', "results/one.jsonl, line 1: without arm, seed, status"),
        ("studies/one.yaml", b"\xff", "studies/one.yaml: not a YAML file"),
        ("studies/two.yaml", b"{", "studies/two.yaml: not a YAML file"),
    ],
)
def test_a_broken_file_is_an_error_by_name(
    places: Path, file: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (places / "results").mkdir()
    (places / file).write_bytes(content)
    assert report.main([]) == 1
    assert f"error: {places}/{said}" in capsys.readouterr().err
    assert (places / "page.md").read_text() == "# Results\n"


def test_a_study_that_is_not_there_is_refused(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["three"]) == 1
    assert "error: no study three; there are one, two" in capsys.readouterr().err
