"""Recorded games that are not whole: said by file and line, or counted."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vision_zero.evaluate.clues.main import clue_windows

CLUE = {"seat": 1, "clue": "red cube", "readable": True}
GAME: dict[str, Any] = {"step": 0, "game": 0, "pair": "drawn-0", "spy": 2, "clues": [CLUE, {**CLUE, "seat": 2}]}


def write_run(folder: Path, *games: Any, **options: Any) -> Path:
    config = {"images": ["drawn:4"], "updates_per_iteration": 1, "num_iterations": 1, **options}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "games").mkdir()
    (folder / "games" / "step-000000.jsonl").write_text("".join(json.dumps(game) + "\n" for game in games))
    return folder


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({name: value for name, value in GAME.items() if name != "clues"}, "has no 'clues'"),
        ({name: value for name, value in GAME.items() if name != "pair"}, "has no 'pair'"),
        ({**GAME, "clues": [{"seat": 1}]}, "a clue must have seat, clue and readable"),
    ],
)
def test_a_game_without_what_is_judged(broken: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"step-000000.jsonl, line 2: {reason}"):
        clue_windows(write_run(tmp_path, GAME, broken))


def test_a_game_that_is_cut_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, GAME, GAME)
    file = run / "games" / "step-000000.jsonl"
    assert clue_windows(run)[0].n_games == 2
    assert not capsys.readouterr().err
    file.write_text(file.read_text()[:-9])
    assert clue_windows(run)[0].n_games == 1
    assert f"note: 1 games are left out, whose files end inside a line: {file}" in capsys.readouterr().err


def test_a_config_without_images(tmp_path: Path) -> None:
    run = write_run(tmp_path, GAME, images=None)
    says = re.escape(f"{run / 'config.yaml'} has images: None, which must be a list")
    with pytest.raises(ValueError, match=says):
        clue_windows(run)
    assert clue_windows(run, ["drawn:4"])[0].n_games == 1
