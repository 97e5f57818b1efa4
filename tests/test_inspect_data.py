"""The main that checks a source: what it prints, its exit status, its contact sheet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vision_zero import inspect_data


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, edited in enumerate(("blue", "blue", "red")):
        Image.new("RGB", (40 + number, 30), "red").save(folder / f"{number}_original.png")
        Image.new("RGB", (40 + number, 30), edited).save(folder / f"{number}_modified.png")
    return folder


def run(*arguments: str | Path) -> int:
    return inspect_data.main([str(argument) for argument in arguments])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The printed table by name."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:22].strip(): line[22:].strip() for line in lines}


def test_a_good_source(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pairs) == 0
    assert printed(capsys) == {
        "source": str(pairs),
        "layout": "pairs",
        "pairs": "3",
        "with edited image": "3",
        "domain photos": "3",
        "opened": "3",
        "bad": "0",
        "edit changes nothing": "1",
        "size min, median, max": "40x30, 41x30, 42x30",
    }


def test_sample_and_all(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pairs, "--sample", "2") == 0
    assert printed(capsys)["opened"] == "2"
    assert run(pairs, "--sample", "2", "--all") == 0
    assert printed(capsys)["opened"] == "3"


def test_bad_pairs_are_listed(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pairs / "1_modified.png").write_text("text")
    Image.new("RGB", (30, 30)).save(pairs / "2_modified.png")
    assert run(pairs) == 1
    out = capsys.readouterr().out
    assert f"bad: 1: {pairs / '1_modified.png'}: not an image" in out
    assert f"bad: 2: {pairs / '2_modified.png'} is 30x30 but {pairs / '2_original.png'} is 42x30" in out


def test_a_source_that_is_wrong_gives_one_line(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pairs / "1_modified.png").unlink()
    for arguments in ((pairs,), (pairs / "nowhere",), (pairs, "--columns", "image"), (pairs, "--columns", "image=")):
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1


def test_contact_sheet_shows_both_images(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert run(pairs, "--sheet", sheet, "--sheet_pairs", "1") == 0
    assert "sheet.png, 1 pairs" in printed(capsys)["contact sheet"]
    with Image.open(sheet) as image:
        colors = {color for _, color in image.getcolors(100_000) or []}
        assert image.size == (2 * 200 + 2 * 8, 200 + 20 + 2 * 8)
    assert {(255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)} <= colors


def test_contact_sheet_marks_bad_pairs_and_shortens_ids(tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), "blue").save(tmp_path / ("long" * 20 + "東京.png"))
    (tmp_path / "bad.png").write_text("text")
    assert run(tmp_path, "--sheet", tmp_path / "sheet.jpg") == 1
    assert (tmp_path / "sheet.jpg").stat().st_size > 0


def test_contact_sheet_that_cannot_be_written(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sheet.txt", "sheet", "nowhere/sheet.jpg", "sheet.gif", "sheet.bmp"):
        assert run(pairs, "--sheet", tmp_path / name) == 1
        assert name in capsys.readouterr().err


def test_numbers_must_be_positive(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--sample", "--sheet_pairs"):
        with pytest.raises(SystemExit):
            run(pairs, option, "0")
        assert "must be at least 1" in capsys.readouterr().err


def test_columns_and_several_sources(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.jsonl").write_text('{"before": "pairs/0_original.png", "after": "pairs/0_modified.png"}\n')
    assert run(tmp_path / "m.jsonl", f"charts:{pairs}", "--columns", "image=before", "edited=after") == 0
    table = printed(capsys)
    assert (table["layout"], table["pairs"], table["with edited image"]) == ("manifest + pairs", "4", "4")
    assert (table["domain charts"], table["domain photos"]) == ("3", "1")


def test_as_a_program(pairs: Path) -> None:
    source = Path(inspect_data.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "vision_zero.inspect_data", str(pairs / "nowhere")],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {pairs / 'nowhere'}: no such file or folder\n"


@pytest.mark.parametrize("where", ["/dev/full", "nobody"])
def test_output_that_cannot_be_written_ends_in_one_line(pairs: Path, where: str) -> None:
    words = [sys.executable, "-m", "vision_zero.inspect_data", str(pairs)]
    reader, writer = os.pipe()
    os.close(reader)
    target = os.open(where, os.O_WRONLY) if where != "nobody" else writer
    done = subprocess.run(words, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    for file in {writer, target}:
        os.close(file)
    if where == "nobody":
        assert done.stderr == ""
    else:
        line = "error: what is printed cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, line)


def test_an_import_changes_no_stream() -> None:
    code = "import sys, vision_zero; print(sys.stdout.errors)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "strict\n"
