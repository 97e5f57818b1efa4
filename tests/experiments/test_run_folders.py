"""Folders of runs that are another's, held, damaged or stopped: left alone, named, and no harm to the runs beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import run
from one_run import call, check_key, locked
from results import read_results
from run_files import NotRunError, Run, commit_of
from tests.experiments.study_files import planned, write, write_finished, write_lines


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return write(tmp_path, one={"arms": {"base": None, "leak": {"train_stages": "both"}}})


@pytest.fixture
def finished(places: list[str]) -> list[Run]:
    """Both runs, which have ended."""
    runs = planned(places)
    for one in runs:
        write_finished(one)
    return runs


def lines_of(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {line["arm"]: line for line in read_results("one", tmp_path / "results")}


def test_finished_runs_become_results_without_running_anything(
    places: list[str], finished: list[Run], tmp_path: Path
) -> None:
    assert run.main(places) == 0
    line = lines_of(tmp_path)["leak"]
    assert (line["status"], line["commit"]) == ("done", "0123abcd+")
    assert not finished[0].beside(".log").exists()


@pytest.mark.parametrize("again", [[], ["--again"]])
def test_a_run_that_goes_on_elsewhere_is_left_alone(
    places: list[str], finished: list[Run], again: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its key, and with --again too: another's files are not removed under its hands."""
    finished[0].beside(".key").write_text("another")
    with locked(finished[0].beside(".lock")):
        assert run.main([*places, *again]) == 1
    assert "NOT RUN one/base/seed-1" in (said := capsys.readouterr().out)
    assert "this run is going on already" in said
    assert (finished[0].folder / "metrics.jsonl").exists()
    assert lines_of(tmp_path).keys() == {"leak"}


def test_a_folder_of_another_key_is_kept_unless_asked(
    places: list[str], finished: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished[0].beside(".key").write_text("another")
    assert run.main(places) == 1
    assert "NOT RUN one/base/seed-1" in (said := capsys.readouterr().out)
    assert "made with other options" in said
    assert lines_of(tmp_path).keys() == {"leak"}  # nothing failed, so no line says so
    assert (finished[0].folder / "metrics.jsonl").exists()
    check_key(finished[0], again=True)
    assert capsys.readouterr().out == f"removed {finished[0].folder}\n"
    assert not finished[0].folder.exists()
    assert finished[0].beside(".key").read_text() == finished[0].key


@pytest.mark.parametrize("again", [[], ["--again"]])
def test_a_run_without_its_key_is_nobodys(
    places: list[str], finished: list[Run], again: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished[0].beside(".key").unlink()
    assert run.main([*places, *again]) == 1
    assert "seed-1.key is not there to say whose it is" in capsys.readouterr().out
    assert lines_of(tmp_path).keys() == {"leak"}
    assert not finished[0].beside(".key").exists()
    assert (finished[0].folder / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", b'{"stage/is_clue": 1.0}\n' * 2, "metrics.jsonl, line 1: without stage/accuracy"),
        ("metrics.jsonl", b"no\n", "metrics.jsonl, line 1: not JSON"),
        ("metrics.jsonl", b"\xff\n", "metrics.jsonl, line 1: not JSON"),
        ("metrics.jsonl", b"[]\n", "metrics.jsonl, line 1: not JSON"),
        ("arena.jsonl", b"{}\n", "arena.jsonl, line 1: without step, figures"),
        ("evaluation-4.jsonl", b'{"games": 4}\n', "evaluation-4.jsonl, line 1: without figures, start"),
        ("evaluation-4.jsonl", b'{"games": 4, "figures": {}, "start": {}}\n', "base/seed-1: KeyError: 'win_rate'"),
    ],
)
def test_a_damaged_file_fails_its_own_run_alone(
    places: list[str],
    finished: list[Run],
    file: str,
    content: bytes,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "PROGRESS_SECONDS", 0.01)
    (finished[0].folder / file).write_bytes(content)
    assert run.main([*places, "--jobs", "1"]) == 1
    lines = lines_of(tmp_path)
    assert {arm: line["status"] for arm, line in lines.items()} == {"base": "failed", "leak": "done"}
    assert said in lines["base"]["error"]


def test_results_that_cannot_be_written_stop_the_runner_at_once(
    places: list[str], finished: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").touch()
    assert run.main(places) == 1
    heard = capsys.readouterr()
    assert heard.err.startswith("error: ")
    assert str(tmp_path / "results") in heard.err
    assert "start" not in heard.out


def test_a_broken_result_line_is_an_error_by_name(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, said in (("<<<<<<<\n", "line 1: not JSON"), ('{"arm": "base"}\n', "line 1: without study, seed, status")):
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / "one.jsonl").write_text(line)
        assert run.main(places) == 1
        assert f"error: {tmp_path / 'results' / 'one.jsonl'}, {said}" in capsys.readouterr().err


def test_what_a_signal_ends_has_not_failed(places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = planned(places)[0]
    one.folder.parent.mkdir(parents=True)
    with locked(one.beside(".lock")) as lock, pytest.raises(NotRunError, match="killed was ended by SIGTERM"):
        call(["killed"], one, lock)


def test_the_commit_of_a_run(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "unknown"
    for text, commit in (
        ("0123abcd 2025 words\n", "0123abcd"),
        ("0123abcd 2025 words\n?? new\n", "0123abcd"),
        ("git log -1: no repository\n", "unknown"),
        ("", "unknown"),
    ):
        (tmp_path / "git.txt").write_text(text)
        assert commit_of(tmp_path) == commit


def test_a_run_ends_before_its_lines_do(places: list[str], finished: list[Run], tmp_path: Path) -> None:
    """A last line that a killed process left unfinished is none: the run goes on, and is not damaged."""
    metrics = finished[0].folder / "metrics.jsonl"
    write_lines(metrics, {"stage/is_clue": 1.0})
    metrics.write_text(metrics.read_text() + '{"stage/is')
    assert finished[0].iterations_done() == 1
