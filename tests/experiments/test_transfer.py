"""Measuring runs that are there already: what is measured once, what is missing, what cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

import transfer
from results import read_results
from tests.experiments.study_files import MEASURED, write, write_lines

ARMS = {"arms": {"base": None, "leak": {"train_stages": "both"}}}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study `one` with a result of its arm base, whose checkpoint is there, and `measured`, which measures it."""
    write(tmp_path, one=ARMS, measured={**ARMS, **MEASURED})
    for name, place in {"STUDIES": "studies", "RESULTS": "results", "ROOT": "."}.items():
        monkeypatch.setattr(transfer, name, tmp_path / place)
    by_model = {"start": [0.0, 1.0], "checkpoint-2": [1.0, 1.0]}
    monkeypatch.setattr(transfer, "find_measure", lambda name: lambda model: {"kind": by_model[model.name]})
    run = {"study": "one", "arm": "base", "seed": 1, "status": "done", "key": "k", "base": "b", "start": "start"}
    run |= {"run": "run", "commit": "c", "final": {}, "curve": [], "curve_games": 4}
    write_lines(tmp_path / "results" / "one.jsonl", run)
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-2" / "COMPLETE").touch()
    return tmp_path


def test_what_is_there_is_measured_once_and_what_is_missing_is_named(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert transfer.main(["measured"]) == 1
        assert "missing measured/leak/seed-1: one has no result of it" in capsys.readouterr().out
    (line,) = read_results("measured", places / "results")
    assert line["final"]["figures"]["gain/kind"][0] == 0.5
    write(places, one=ARMS, measured={"arms": {"base": None}, **MEASURED})
    assert transfer.main([]) == 0  # all is there


def test_a_run_that_is_gone_is_missing(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (places / "run" / "checkpoint-2" / "COMPLETE").unlink()
    assert transfer.main([]) == 1
    assert "missing measured/base/seed-1: run has no checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("typo", "error: no study typo; there are measured, one"),
        ("one", "error: the study one is for another program: python experiments/run.py one"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    places: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transfer.main([name]) == 1
    assert said in capsys.readouterr().err


def test_broken_results_are_an_error_by_name(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (places / "results" / "one.jsonl").write_text("broken\n")
    assert transfer.main([]) == 1
    assert f"error: {places / 'results' / 'one.jsonl'}, line 1: not JSON" in capsys.readouterr().err
