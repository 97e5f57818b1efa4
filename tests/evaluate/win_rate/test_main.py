"""What the win rate finds out before a model is loaded, and what is printed when its file cannot be written."""

import json
import shutil
from pathlib import Path

import pytest

from tests.process_helpers import TINY_VLM
from vision_zero import run_folder
from vision_zero.evaluate.__main__ import main
from vision_zero.rollout import load_policy

WORDS = ("--reference", str(TINY_VLM), "--drawn", "4", "--template", "compact", "--civilians", "2", "--rounds", "1")


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_player(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load_policy, "load_player", load_player)


def refusal(*words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["win-rate", *words])
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def make_checkpoint(run: Path, step: int) -> Path:
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("seed: 1")
    checkpoint = run_folder.checkpoint_path(run, step)
    checkpoint.mkdir()
    shutil.copy(TINY_VLM / "config.json", checkpoint)
    return checkpoint


@pytest.mark.usefixtures("no_loading")
def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (tmp_path, file / "x.jsonl", Path("/proc/x/y.jsonl")):
        assert f"--out {out}: cannot be written: " in refusal(str(TINY_VLM), *WORDS, "--out", str(out))


@pytest.mark.usefixtures("no_loading")
def test_every_model_must_be_there(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    for words in ((str(TINY_VLM), str(gone)), (str(TINY_VLM), "--other_seed", str(gone))):
        assert f"model {gone}: there is no such folder" in refusal(*words, *WORDS)
    assert f"model {empty}: it is no model: it has no config.json" in refusal(str(TINY_VLM), str(empty), *WORDS)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("name", ["", "export"])
def test_a_checkpoint_that_is_not_complete(name: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", 4)
    (checkpoint / "export").mkdir()
    assert f"{checkpoint} is not complete" in refusal(str(checkpoint / name), *WORDS)
    run_folder.mark_complete(checkpoint)
    assert "is not complete" not in refusal(str(checkpoint / name), str(tmp_path / "gone"), *WORDS)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("text", ["{}", "[]", '{"base_mo'])
def test_a_checkpoint_whose_base_cannot_be_read(text: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", 4)
    (checkpoint / "base_model.json").write_text(text)
    run_folder.mark_complete(checkpoint)
    assert f"{checkpoint / 'base_model.json'} is damaged" in refusal(str(checkpoint), *WORDS)


def test_a_full_disk_is_said_after_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--votes", "2", "--max_clue_tokens", "4", "--max_vote_tokens", "4", "--max_pixels", str(56 * 56))
    words = (str(TINY_VLM), *WORDS, *quick, "--games", "4", "--cross_play", "false", "--use_cpu")
    assert "--out /dev/full: cannot be written: No space left" in refusal(*words, "--out", "/dev/full")
    assert "win_rate" in capsys.readouterr().out
    main(["win-rate", *words, "--out", str(tmp_path / "out.jsonl")])
    assert json.loads((tmp_path / "out.jsonl").read_text())["model"] == str(TINY_VLM)
