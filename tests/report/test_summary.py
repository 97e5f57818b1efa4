"""The summary of a run folder, from numbers written by hand."""

import json
from pathlib import Path

import pytest
import yaml

from vision_zero.report import summary
from vision_zero.report.__main__ import main

STAGES = "DDDDCCCDD"  # of nine iterations
ACCURACY = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.6, 0.8]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"iterations": 12}))
    lines = []
    for step, (stage, accuracy) in enumerate(zip(STAGES, ACCURACY, strict=True), start=1):
        lines.append(
            {"step": 2 * step - 1, "stage/is_clue": float(stage == "C"), "stage/accuracy": accuracy, "step_time": 7.5}
        )
        lines.append({"step": 2 * step, "loss": 0.0})  # the second update of the iteration
    unfinished = '{"step": 19, "stage/is_cl'  # what a killed process leaves
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + unfinished)
    switches = [
        {"iteration": 4, "from_stage": "decision", "to_stage": "clue", "reason": "patience"},
        {"iteration": 7, "from_stage": "clue", "to_stage": "decision", "reason": "rule"},
    ]
    (tmp_path / "switches.jsonl").write_text("".join(json.dumps(line) + "\n" for line in switches))
    return tmp_path


def row(text: str, words: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(words)]
    return line.removeprefix(words).split()


def test_facts(run: Path) -> None:
    text = summary.summarize_run(run)
    assert "iterations  9 of 12 (6 decision, 3 clue) in 1 min 7 s" in text  # 9 x 7.5 s = 67.5 s
    assert "after iteration 4: decision -> clue (patience)" in text
    assert "after iteration 7: clue -> decision (rule)" in text


def test_the_arenas_share_of_the_time(run: Path) -> None:
    lines = [{"step": step, "figures": {}, "seconds": seconds} for step, seconds in ((0, 2.5), (12, 5.0))]
    (run / "arena.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary.progress(run, 12, {"decision": [{"step_time": 67.5}]})
    assert "1 decision) in 1 min 7 s, and 8 s of arena (10% of both)" in text  # 7.5 of 75 s


def test_windows_of_each_stage(run: Path) -> None:
    text = summary.summarize_run(run)
    # decision: .1 .2 .3 .4 .6 .8, three at each end: 0.2 and 0.6; clue: .5 .7 .9, one at each end
    assert row(text, "games in which the spy was found") == ["0.20", "0.60", "0.50", "0.90"]
    assert text.count("first 3") == text.count("last 1") == 1
    assert row(text, "KL to the start model") == ["-"] * 4


def test_export_and_how_to_load_it(run: Path) -> None:
    assert "not exported yet" in summary.summarize_run(run)
    for step, complete in ((10, True), (20, True), (30, False)):
        (run / f"checkpoint-{step}" / "export").mkdir(parents=True)
        if complete:
            (run / f"checkpoint-{step}" / "COMPLETE").touch()
    text = summary.summarize_run(run)
    assert f'AutoModelForImageTextToText.from_pretrained("{run / "checkpoint-20" / "export"}")' in text
    assert "checkpoint-30" not in text


def test_a_run_that_has_not_played_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"iterations": 12}))
    assert "iterations  0 of 12 (0 decision, 0 clue)" in summary.summarize_run(tmp_path)


def test_one_stage_only(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:8]))
    header = summary.summarize_run(run).split("\n\n")[1].splitlines()[0]
    assert header.split() == ["decision"]


def test_refuses_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--summary"]) == 1
    assert f"{tmp_path} is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.yaml", "seed: 1", "config.yaml has iterations: None, which must be a whole number"),
        ("metrics.jsonl", "half\n", "metrics.jsonl, line 1: not JSON"),
        ("switches.jsonl", '{"step": 4}\n', "switches.jsonl, line 1: has no 'iteration'"),
    ],
)
def test_damaged_files_are_named(
    file: str, text: str, reason: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).write_text(text)
    assert main([str(run), "--summary"]) == 1
    assert f"error: {run}/{reason}" in capsys.readouterr().err


def test_the_win_rate_comes_first(run: Path) -> None:
    """Two optimizer steps per iteration: step 12 is iteration 6."""
    assert summary.summarize_run(run).startswith("run  ")  # no arena was played
    options = {"iterations": 12, "updates_per_iteration": 2, "num_iterations": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(options))
    figures = {"win_rate": [0.625, 0.5, 0.75], "as_table": [0.7, 0.6, 0.8], "as_spy": [0.55, None, None]}
    figures |= {"votes/right": [0.75, None, None], "together": [-0.25, None, None]}
    before = {"win_rate": [0.5, 0.5, 0.5], "votes/right": [0.25, 0.2, 0.3]}
    between = {"step": 6, "figures": {"win_rate": [0.9, 0.9, 0.9]}}
    lines = [{"step": 0, "figures": before}, between, {"step": 12, "figures": figures}]
    (run / "arena.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, *changes = summary.summarize_run(run).split("\n\n")[0].splitlines()
    assert [line.strip() for line in changes] == ["win rate 0.500 -> 0.625", "right votes 0.250 -> 0.750"]
    said = "0.625 (0.500 to 0.750) against the start, after iteration 6; as the table 0.70; as the spy 0.55"
    assert first == f"win rate    {said}"
    (run / "arena.jsonl").write_text('{"step": 12, "figures": {"as_spy": [0.5, null, null]}}\n')
    first = summary.summarize_run(run).splitlines()[0]
    assert first == "win rate    not known against the start, after iteration 6; as the spy 0.50"


def test_a_damaged_arena_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "arena.jsonl").write_text('{"step": 12, "figures": {"win_rate": ["?", 0, 1]}}\n')
    assert main([str(run), "--summary"]) == 1
    assert "arena.jsonl, step 12: not the numbers of a run" in capsys.readouterr().err
