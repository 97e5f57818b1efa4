"""The picture of a run: which stages its bands show, and what is drawn of a run that is not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_zero.report import plots
from vision_zero.report.__main__ import main
from vision_zero.report.metrics_log import StageSpan, note_older_intervals, stage_spans


def iteration(step: int, stage: str, accuracy: float = 0.4) -> dict[str, Any]:
    return {"step": step, "stage/is_clue": float(stage == "clue"), "stage/accuracy": accuracy}


def write_run(folder: Path, iterations: list[dict[str, Any]], arena: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("iterations: 4\n")
    for name, lines in (("metrics", iterations), ("arena", arena)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_spans_are_the_stages_in_order() -> None:
    stages = ["decision", "decision", "clue", "decision"]
    spans = stage_spans([iteration(step, stage) for step, stage in enumerate(stages, start=1)])
    assert spans == [StageSpan("decision", 1, 2), StageSpan("clue", 3, 3), StageSpan("decision", 4, 4)]
    assert stage_spans([]) == []


def test_curves_are_those_of_the_files(tmp_path: Path) -> None:
    """Two optimizer steps per iteration: the arena's step 4 is iteration 2."""
    iterations = [iteration(1, "decision", 0.25), iteration(3, "clue", 0.75)]
    arena = [
        {"step": 0, "figures": {"win_rate": [0.5, 0.4, 0.6]}},
        {"step": 4, "figures": {"win_rate": [0.7, 0.6, 0.8]}},
    ]
    figure = plots.plot_run(write_run(tmp_path / "run", iterations, arena))
    win_rate, votes, clues = figure.axes
    curve = win_rate.get_lines()[0].get_xydata()
    assert curve.tolist() == [[0, 0.5], [2, 0.7]]
    assert votes.get_lines()[0].get_xydata().tolist() == [[1, 0.25], [2, 0.75]]
    assert clues.get_lines() == []  # its figures are not in this arena
    band = win_rate.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == (1, 2)
    assert win_rate.get_xlim() == (0, 2)


def test_lines_of_an_older_version_and_figures_without_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = [
        {"step": 0, "figures": {"win_rate": [0.5, 0.4, 0.6]}},
        {"step": 1, "resampled": "pairs", "figures": {"win_rate": [0.7, None, None]}},
    ]
    figure = plots.plot_run(write_run(tmp_path / "run", [iteration(1, "decision")], arena))
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[0, 0.5], [1, 0.7]]
    assert "arena.jsonl: 1 of 2 lines are of an older version, whose 95% intervals resampled" in capsys.readouterr().err
    notes: list[str] = []
    evaluated = [
        {"games": 40, "pairs": 20},
        {"games": 40, "pairs": 19},
        {"games": 40, "pairs": 2, "resampled": "pairs"},
    ]
    note_older_intervals(Path("out.jsonl"), evaluated, notes)
    assert "out.jsonl: 1 of 3 lines" in notes[0], "20 deals on 20 pairs are what they were"


def test_legends_stand_below_the_curves(tmp_path: Path) -> None:
    """And in the picture. Chance is drawn where it is known: 1/2 of a win rate, one of five players for a vote."""
    names = [series[0] for panel in plots.PANELS.values() for series in panel]
    arena = [{"step": step, "figures": {name: [0.5, 0.4, 0.6] for name in names}} for step in (0, 1)]
    run = write_run(tmp_path / "run", [iteration(1, "decision")], arena)
    (run / "config.yaml").write_text("iterations: 4\ncivilians: 4\nvoter: observer\n")
    figure = plots.plot_run(run)
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend, picture = axes.get_legend().get_window_extent(), figure.bbox
        assert legend.y1 < axes.get_window_extent().y0
        assert picture.x0 <= legend.x0 < legend.x1 <= picture.x1
        assert legend.y0 >= picture.y0
    chance = [
        [line.get_ydata()[0] for line in axes.get_lines() if str(line.get_label()).startswith("chance")]
        for axes in figure.axes
    ]
    assert chance == [[0.5], [pytest.approx(0.2)], []]


def test_a_run_without_an_arena_is_drawn_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [iteration(1, "decision")], [])
    out = tmp_path / "new" / "run.png"
    assert main([str(run), "--curves", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.size == (520, 481)


@pytest.mark.parametrize(("name", "message"), [("nothing", "is not a run folder"), ("run", "has not finished")])
def test_nothing_to_draw(tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", [], [])
    assert main([str(tmp_path / name), "--curves", "--out", str(tmp_path / "x.png")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("name", ["folder", "run", "run.docx", "file/run.png", "/proc/x/run.png"])
def test_places_that_cannot_be_drawn_to(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name without an extension is one: matplotlib would write to another than is printed."""
    run = write_run(tmp_path / "a_run", [iteration(1, "decision")], [])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    assert main([str(run), "--curves", "--out", str(tmp_path / name)]) == 1
    assert f"error: --out {tmp_path / name}: " in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("metrics", '{"loss": 1.0}'),
        ("metrics", '{"step": 2, "stage/is_clue": 1.0}'),
        ("metrics", '{"step": 2, "stage/is_clue": "yes", "stage/accuracy": 1.0}'),
        ("metrics", "half"),
        ("arena", '{"step": 2}'),
        ("arena", '{"step": null, "figures": {}}'),
        ("arena", '{"step": 2, "figures": {"win_rate": [0.5]}}'),
        ("arena", '{"step": 2, "figures": {"win_rate": 0.5}}'),
        ("arena", '{"step": 2, "figures": [1]}'),
    ],
)
def test_damaged_lines_are_named(file: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [iteration(1, "decision")], [])
    with (run / f"{file}.jsonl").open("a") as stream:
        stream.write(line + "\n")
    assert main([str(run), "--curves", "--out", str(tmp_path / "x.png")]) == 1
    assert f"error: {run / file}.jsonl, " in capsys.readouterr().err
