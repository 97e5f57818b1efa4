"""Refusals of the tiny model's maker before it writes, and making it again on purpose only."""

import sys
from pathlib import Path

import pytest

import make_tiny_vlm
from tests.process_helpers import TINY_VLM

START = ("--start", str(TINY_VLM))


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["make_tiny_vlm", *words])
    with pytest.raises(SystemExit) as stopped:
        make_tiny_vlm.main()
    said = str(stopped.value) if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert "error: " in said
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--lesson_steps", "3"), "--lesson_steps 3 goes with --start"),
        (("--guesses", "0.5"), "--guesses 0.5 goes with --start"),
        ((*START, "--game_steps", "-1"), "--game_steps -1 must be at least 0"),
        ((*START, "--guesses", "1.5"), "--guesses 1.5 must be in 0..1"),
        ((*START, "--guesses", "nan"), "--guesses nan must be in 0..1"),
        (("--start", "no/such"), "model no/such: "),
        (("--measure", "x"), "give --out FOLDER to make the model, or --measure"),
    ],
)
def test_options_that_do_not_fit(
    words: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new"
    assert reason in refusal(monkeypatch, capsys, "--out", str(out), *words)
    assert not out.exists()


def test_folders_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert f"--out {notes} is a file" in refusal(monkeypatch, capsys, "--out", str(notes))
    assert f"--out {tmp_path} is not empty" in refusal(monkeypatch, capsys, "--out", str(tmp_path))
    assert f"model {tmp_path}: " in refusal(monkeypatch, capsys, "--measure", str(tmp_path))
    assert "--start and --overwrite go with --out" in refusal(
        monkeypatch, capsys, "--measure", str(tmp_path), "--overwrite"
    )
    assert notes.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [notes]


def test_made_again_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of no steps: the start model again, with a card of its own."""
    (tmp_path / "README.md").write_text("old")
    words = ("--out", str(tmp_path), *START, "--game_steps", "0", "--overwrite")
    monkeypatch.setattr(sys, "argv", ["make_tiny_vlm", *words])
    monkeypatch.setattr(make_tiny_vlm, "measure", lambda folder: {"image_gain": "0.5"})  # minutes
    make_tiny_vlm.main()
    card = (tmp_path / "README.md").read_text()
    assert f"--start {TINY_VLM} --lesson_steps 0 --game_steps 0 --guesses 0.2" in card
    assert "| image_gain | 0.5 |" in card
    assert (tmp_path / "model.safetensors").stat().st_size == (TINY_VLM / "model.safetensors").stat().st_size
