"""What a command did not write itself it never writes over; what it did, it writes again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.process_helpers import DRAWN, TINY_VLM
from tests.report.test_plot_game import make_run
from vision_zero import inspect_data
from vision_zero.evaluate import __main__ as evaluate
from vision_zero.evaluate.benchmarks.server.server import main as serve
from vision_zero.export import check_target
from vision_zero.make_data.__main__ import main as make_data
from vision_zero.report import __main__ as report
from vision_zero.run_folder import RunFolderError, check_appendable

BENCHMARKS = ("vlmevalkit", str(TINY_VLM), "--base", str(TINY_VLM), "--benchmarks", "MMStar", "--dry_run", "true")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six games and two iterations with an arena."""
    run = tmp_path / "run"
    run.mkdir()
    make_run(run)
    options = {"iterations": 4, "updates_per_iteration": 1, "num_iterations": 1, "images": [str(run / "images")]}
    (run / "config.yaml").write_text(yaml.safe_dump(options))
    lines = [{"step": step, "stage/is_clue": 0.0, "stage/accuracy": 0.5} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def command(*words: str) -> Callable[[Path, Path], int]:
    def written(run: Path, out: Path) -> int:
        return report.main([str(run), *words, "--out", str(out)])

    return written


def sheet(run: Path, out: Path) -> int:
    return inspect_data.main([str(run / "images"), "--sheet", str(out)])


WRITERS = {
    "page": (command(), "page.html"),
    "curves": (command("--curves"), "curves.png"),
    "curves as svg": (command("--curves"), "curves.svg"),
    "curves as pdf": (command("--curves"), "curves.pdf"),
    "curves as jpg": (command("--curves"), "curves.jpg"),
    "game": (command("--game"), "game.png"),
    "game as webp": (command("--game"), "game.webp"),
    "sheet": (sheet, "sheet.jpg"),
    "sheet as png": (sheet, "sheet.png"),
    "sheet as tiff": (sheet, "sheet.tiff"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_and_pages(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, file = WRITERS[name]
    out = tmp_path / file
    assert write(run, out) == 0
    assert write(run, out) == 0  # again
    assert out.stat().st_size > 1000
    if out.suffix in (".html", ".svg", ".pdf"):
        out.write_text("<title>my notes on a run of Vision-Zero</title>")
    else:
        Image.new("RGB", (64, 48)).save(out)
    kept = out.read_bytes()
    assert write(run, out) == 1
    assert f"{out}: is there and was not written by this command; give another name" in capsys.readouterr().err
    assert out.read_bytes() == kept
    out.write_bytes(b"")
    assert write(run, out) == 0  # an empty file, as mktemp makes one
    assert out.stat().st_size > 1000


def test_a_link_to_what_is_not_ours_is_followed_to_no_harm(run: Path, tmp_path: Path) -> None:
    photo, link = tmp_path / "photo.png", tmp_path / "link.png"
    Image.new("RGB", (9, 9)).save(photo)
    before = photo.read_bytes()
    link.symlink_to(photo)
    for write in (command("--curves"), command("--game"), sheet):
        assert write(run, link) == 1
    assert photo.read_bytes() == before


def test_pictures_are_written_into_the_run_not_where_one_stands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for words, name in (([], "report.html"), (["--curves"], "run.png"), (["--game"], "game.png")):
        assert report.main([str(run), *words]) == 0
        assert f"{run / name}: " in capsys.readouterr().out
        assert (run / name).is_file()
    assert not list(elsewhere.iterdir())


WIN_RATE = ("win-rate", str(TINY_VLM), "--reference", str(TINY_VLM), "--drawn", "9")


def win_rate(out: Path) -> None:
    evaluate.main([*WIN_RATE, "--out", str(out)])


def served(out: Path) -> None:
    serve([str(TINY_VLM), "--port", "0", "--use_cpu", "--keep_requests", str(out)])


@pytest.mark.parametrize("append", [win_rate, served])
@pytest.mark.parametrize("text", ["my notes", "iterations: 4\n", '{"step": 1, "loss": 0.5}\n', '[{"model": 1}]'])
def test_lines_are_appended_to_no_other_file(append: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    """A last line without its end would be taken for one that a killed process left, and removed."""
    out = tmp_path / "lines.jsonl"
    out.write_text(text)
    with pytest.raises(SystemExit, match="is there and was not written by this command") as stopped:
        append(out)
    assert str(out) in str(stopped.value)
    assert out.read_text() == text


def test_lines_are_appended_to_ones_own(tmp_path: Path) -> None:
    out = tmp_path / "new" / "lines.jsonl"
    check_appendable(out, "--out", '{"model": ')
    assert out.read_text() == ""
    out.write_text('{"model": "a"}\n{"mod')
    check_appendable(out, "--out", '{"model": ')
    with pytest.raises(RunFolderError, match=r"^--out .*lines.jsonl: is there"):
        check_appendable(out, "--out", '{"request": ')


@pytest.mark.parametrize("text", ['{"tool": "hammer"}', "[]", "my results"])
def test_a_result_of_somebody_else_is_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(SystemExit, match=r"result.json: is there and was not written by this command"):
        evaluate.main([*BENCHMARKS, "--out", str(tmp_path)])
    assert (tmp_path / "result.json").read_text() == text


def contents(path: Path) -> Any:
    return {one: one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("photo.png", "is there already"),
        ("link", "is there already"),
        ("model", "is there already"),
        ("run", "is there already"),
        ("run/checkpoint-3", "is there already"),
        (".", "is there already"),
        ("run/checkpoint-3/export", "is inside a checkpoint"),
        ("run/checkpoint-3/a/b", "is inside a checkpoint"),
        ("run/checkpoint-9", "would be taken for a checkpoint of the run"),
        ("run/checkpoint-9/export", "would be taken for a checkpoint of the run"),
        ("run/exported", ""),
        ("exported", ""),
        ("empty", ""),
    ],
)
def test_an_export_goes_to_a_free_place(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "model/config.json", "run/config.yaml", "run/checkpoint-3/COMPLETE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = contents(tmp_path)
    if said:
        with pytest.raises(ValueError, match=said):
            check_target(Path(target))
    else:
        check_target(Path(target))
    assert contents(tmp_path) == before


def test_of_drawn_pairs_too(tmp_path: Path) -> None:
    assert inspect_data.main([str(DRAWN), "--sheet", str(tmp_path / "sheet.webp"), "--sheet_pairs", "2"]) == 0
    assert inspect_data.main([str(DRAWN), "--sheet", str(tmp_path / "sheet.webp"), "--sheet_pairs", "2"]) == 0


@pytest.mark.parametrize("text", ['{"repo": "mine"}', '{"url": "mine"}', "[]"])
def test_a_folder_of_somebody_else_is_not_continued(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "source.json").write_text(text)
    if "repo" in text:
        (out / "photo.jpg").write_text("mine")
    assert make_data(["download", "magicbrush", "--source", str(DRAWN), "--out", str(out)]) == 1
    assert "source.json: was not written by this program; give an empty folder" in capsys.readouterr().err
    (out / "source.json").rename(out / "options.json")
    before = contents(out)
    assert make_data(["clevr", "--n", "1", "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert {file: data for file, data in contents(out).items() if file.name != ".lock"} == before


def test_options_of_another_program_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.json").write_text('{"n": 1}')
    assert make_data(["clevr", "--n", "1", "--out", str(tmp_path)]) == 1
    assert "options.json: has no whole number n and domain" in capsys.readouterr().err
    assert (tmp_path / "options.json").read_text() == '{"n": 1}'
