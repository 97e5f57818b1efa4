"""The runner of studies: real runs of the tiniest setting, what is shared, what is skipped, what failed, and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import one_run
import run
from results import read_results
from run_files import TRAINING_FIGURES, training_curve
from study import load_study
from tests import fork_server
from tests.experiments.study_files import MEASURED, write

ROOT = Path(__file__).resolve().parents[2]
ONE = {"arms": {"base": None, "leak": {"train_stages": "both"}}}
TWO = {"arms": {"wrong": {"learning_rate": -1.0}, "explicit": {"train_stages": "active"}}, "final_games": 6}


def without_circumstances(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "run", "commit")}


def fork_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and evaluations are forked; one that breaks and the slow test's are started as the runner does it."""
    forked = SimpleNamespace(Popen=fork_server.popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(one_run, "subprocess", forked)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies that were run; study `two`'s explicit arm trains as study `one`'s base."""
    tmp_path = tmp_path_factory.mktemp("studies")
    places = write(tmp_path, one=ONE, two=TWO)
    with pytest.MonkeyPatch.context() as forking:
        fork_programs(forking)
        assert run.main([*places, "--jobs", "1"]) == 1  # the wrong arm cannot be run
    return tmp_path


def test_result_lines(done: Path) -> None:
    lines = {line["arm"]: line for line in read_results("one", done / "results")}
    assert lines.keys() == {"base", "leak"}
    line = lines["leak"]
    assert line["options"] == {"train_stages": "both"}
    assert (line["status"], line["seed"], line["iterations"]) == ("done", 1, 2)
    assert [switch["reason"] for switch in line["switches"]] == ["cycle", "cycle"]
    assert [point["iteration"] for point in line["curve"]] == [0, 1, 2]
    assert line["curve"][0]["figures"]["win_rate"][0] == 0.5  # the start against itself
    assert [window["iteration"] for window in line["training"]] == [2]
    assert line["training"][0]["figures"]["stage/is_clue"] == 0.5  # one iteration of each stage
    assert line["final"]["games"] == 4
    assert {"win_rate", "table_gain", "voters_gain", "image_gain", "grounding/civilian/true"} <= line["final"][
        "figures"
    ].keys()
    assert line["seconds"] > 0
    assert (done / "runs" / "one" / "leak" / "seed-1" / "checkpoint-2" / "export").is_dir()
    assert lines["base"]["key"] != line["key"]


def test_training_figures_are_means_of_windows() -> None:
    metrics = [{"stage/is_clue": 1.0, **dict.fromkeys(TRAINING_FIGURES, float(number))} for number in range(7)]
    windows = training_curve([*metrics[:3], {"seconds/arena": 1.0}, *metrics[3:]])
    assert [window["iteration"] for window in windows] == [5, 7]
    assert [window["figures"]["reward/spy"] for window in windows] == [2.0, 5.5]  # of 0 to 4, of 5 and 6


def test_equal_arms_are_run_once_on_as_many_games_as_any_asks_for(done: Path) -> None:
    base = next(line for line in read_results("one", done / "results") if line["arm"] == "base")
    shared = read_results("two", done / "results")
    assert [line["arm"] for line in shared] == ["explicit"]  # the wrong arm was never run
    owner, guest = (base, shared[0]) if base["shared_with"] is None else (shared[0], base)
    assert guest["shared_with"] == f"{owner['study']}/{owner['arm']}"
    assert guest["run"] == owner["run"]
    assert owner["final"] == guest["final"]
    assert owner["final"]["games"] == 6
    folders = {path.parent for path in (done / "runs").rglob("metrics.jsonl")}
    assert len(folders) == 2


def test_what_is_there_is_not_run_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (done / "results" / "one.jsonl").read_bytes()
    assert run.main([*write(done), "one"]) == 0
    assert "2 are there" in capsys.readouterr().out
    assert (done / "results" / "one.jsonl").read_bytes() == before


def test_a_later_study_takes_the_run_of_an_earlier_one(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = write(done, three={"arms": {"leaking": {"train_stages": "both"}}})
    assert run.main([*places, "three"]) == 0
    line = read_results("three", done / "results")[0]
    assert (line["arm"], line["shared_with"]) == ("leaking", "one/leak")
    assert "1 are those of other studies' runs, 0 runs to go" in capsys.readouterr().out


def test_more_games_are_played_without_training_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_programs(monkeypatch)
    places = write(done, one={**ONE, "final_games": 8})
    metrics = done / "runs" / "one" / "leak" / "seed-1" / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    assert run.main([*places, "one", "--arms", "leak"]) == 0
    assert read_results("one", done / "results")[-1]["final"]["games"] == 8
    assert metrics.stat().st_mtime_ns == before


def test_a_failure_names_no_machine(tmp_path: Path) -> None:
    write(tmp_path, one={"arms": {"base": None}})
    study = load_study(tmp_path / "studies" / "one.yaml")
    line = run.failure(run.Wanted(study, study.arms[0], 1), f"in {ROOT}/src/x.py and {sys.prefix}/lib/y.py")
    assert line["error"] == "in src/x.py and lib/y.py"


def test_a_training_that_breaks_is_a_line_with_its_words_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = write(tmp_path, one={"arms": {"broken": {"images": ["drawn:8", "/no/such/folder"]}}})
    assert run.main(places) == 1
    (line,) = read_results("one", tmp_path / "results")
    assert line["status"] == "failed"
    assert "ended with status 1" in line["error"]
    assert "/no/such/folder: no such file or folder" in line["error"]
    assert run.main([*places, "--plan"]) == 0
    assert "1 runs to go" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no study nothing"),
        (["one", "--arms", "x"], "no arm 'x'"),
        (["one", "--seeds", "7"], "no seed 7"),
        (["measured"], "python experiments/transfer.py measured"),
    ],
)
def test_what_is_not_there_is_refused(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {**MEASURED, "arms": {"base": None}}
    assert run.main([*write(tmp_path, one=ONE, measured=measured), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_no_studies_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(write(tmp_path)) == 1
    assert f"error: {tmp_path / 'studies'}: there are no studies" in capsys.readouterr().err


def test_a_broken_base_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = write(tmp_path, one=ONE)
    for content in ("a: [", "- a", "iterations: 1", "{model_name_or_path: x, iterations: 1, seed: 2}"):
        (tmp_path / "base.yaml").write_text(content)
        assert run.main(places) == 1
        assert f"error: {tmp_path / 'base.yaml'}: " in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1", "x"])
def test_a_number_of_jobs_below_one_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main([f"--jobs={jobs}"])
    assert f"--jobs: {jobs}: must be a whole number of 1 or more" in capsys.readouterr().err


def test_what_is_named_twice_is_wanted_once(tmp_path: Path) -> None:
    places = write(tmp_path, one=ONE)
    wanted = run.choose(run.parse_arguments([*places, "one", "one", "--seeds", "1", "1", "--arms", "base", "base"]))
    assert list(map(str, wanted)) == ["one/base/seed-1"]


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(done: Path, tmp_path: Path) -> None:
    """The runner and its training die after the first checkpoint; run again, the result is that of the run that was not
    disturbed."""
    places = write(tmp_path, one={**ONE, "final_games": 6})
    program = [sys.executable, str(ROOT / "experiments" / "run.py"), *places, "one", "--arms", "base"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(program, env=environment, start_new_session=True)
    first = tmp_path / "runs" / "one" / "base" / "seed-1" / "checkpoint-1" / "COMPLETE"
    end = time.monotonic() + 200
    while not first.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "results" / "one.jsonl").exists()
    assert run.main([*places, "one", "--arms", "base"]) == 0
    again = read_results("one", tmp_path / "results")[0]
    undisturbed = next(line for line in read_results("one", done / "results") if line["arm"] == "base")
    assert without_circumstances(again) == {**without_circumstances(undisturbed), "shared_with": None}
