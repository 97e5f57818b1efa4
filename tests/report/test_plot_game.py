"""The picture of a game: which one is drawn, from which images, and what is said when it cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_vlm.scripted import RandomPlayer
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import deal_games
from vision_zero.report import plots
from vision_zero.report.__main__ import main
from vision_zero.rollout.game_images import blank_image
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.rollout.record import game_record
from vision_zero.run_folder import RunFolderError, write_json_lines
from vision_zero.spo.rewards import clue_rewards
from vision_zero.types import GameRules, SpyView

COLOUR, EDITED_COLOUR = (200, 30, 30), (30, 30, 200)


def make_run(tmp_path: Path, spy_view: SpyView = "edited", source: str | None = None) -> Path:
    """Games 0 to 2 at step 0 and 3 to 5 at step 7, played by a random player."""
    images = source or tmp_path / "images"
    (tmp_path / "config.yaml").write_text(f"seed: 0\nimages: [{source}]\n" if source else "seed: 0\n")
    if source is None:
        (tmp_path / "images").mkdir()
        Image.new("RGB", (64, 48), COLOUR).save(tmp_path / "images" / "a_original.png")
        Image.new("RGB", (64, 48), EDITED_COLOUR).save(tmp_path / "images" / "a_modified.png")
    token_limits = TokenLimits(0, 8)
    for step, first in ((0, 0), (7, 3)):
        games = deal_games(range(first, first + 3), 0, load_pairs(images), GameRules(spy_view=spy_view))
        rollout = play(
            games, Seating.of(RandomPlayer()), {"clue": token_limits, "decision": token_limits}, template="compact"
        )
        records = []
        for game in rollout.games:
            rewards = clue_rewards([cast.vote for cast in game.votes], game.spy, 5, 0.1, 0.1)
            records.append(
                game_record(
                    game,
                    step=step,
                    stage="clue",
                    template="compact",
                    clue_rewards=rewards,
                    clue_advantages=rewards,
                    vote_rewards=[0.0] * len(game.votes),
                )
            )
        write_json_lines(tmp_path / "games" / f"step-{step:06d}.jsonl", records)
    return tmp_path


def test_which_game_is_found(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert plots.find_game(run)["game"] == 3  # the first of the last step
    assert plots.find_game(run, step=0)["game"] == 0
    assert plots.find_game(run, step=0, game=2)["game"] == 2
    with pytest.raises(RunFolderError, match="no games of step 5; recorded are 0 to 7"):
        plots.find_game(run, step=5)
    with pytest.raises(RunFolderError, match="no game 2; it holds 3, 4, 5"):
        plots.find_game(run, game=2)
    with pytest.raises(RunFolderError, match="holds no games"):
        plots.find_game(tmp_path / "images")


def test_images_are_those_that_were_seen(tmp_path: Path) -> None:
    civilian, spy = plots.seen_images(plots.find_game(make_run(tmp_path)))
    assert civilian.getpixel((0, 0)) == COLOUR
    assert spy.getpixel((0, 0)) == EDITED_COLOUR


def test_a_blank_image_for_the_spy(tmp_path: Path) -> None:
    civilian, spy = plots.seen_images(plots.find_game(make_run(tmp_path, "blank")))
    assert civilian.getpixel((0, 0)) == COLOUR
    assert spy.tobytes() == blank_image((64, 48)).tobytes()


def test_picture_says_every_clue_and_counts_every_vote(tmp_path: Path) -> None:
    record = plots.find_game(make_run(tmp_path))
    figure = plots.plot_game(record)
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in said if text in {clue["clue"] for clue in record["clues"]}] == [
        clue["clue"] for clue in record["clues"]
    ]
    assert sum(text == f"player {record['spy']} (spy)" for text in said) == 2
    votes = figure.axes[-1]
    heights = [bar.get_height() for bar in votes.patches]
    assert heights[:6] == [record["outcome"].count(answer) for answer in (1, 2, 3, 4, 5, None)]
    assert sum(heights) == len(record["outcome"])


def test_main_writes_a_small_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    out = tmp_path / "game.png"
    assert main([str(run), "--game", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 800
    assert out.stat().st_size < 200_000
    (tmp_path / "images" / "a_original.png").unlink()
    assert main([str(run), "--game", "--out", str(out)]) == 1
    assert "a_original.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["game.txt", "game", "/proc/x/game.png"])
def test_places_that_cannot_be_drawn_to(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    assert main([str(run), "--game", "--out", str(tmp_path / name)]) == 1
    assert f"error: --out {tmp_path / name}: " in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--game"]) == 1
    assert "nowhere is not a run folder" in capsys.readouterr().err


def test_drawn_scenes_are_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, source="drawn:4")
    assert main([str(run), "--game"]) == 0
    assert capsys.readouterr().err == ""
    pairs = {pair.id: pair for pair in load_pairs("drawn:4")}
    record = plots.find_game(run)
    shown = plots.plot_game(record, pairs).axes[0].get_images()[0].get_array()
    assert (shown == np.asarray(pairs[record["pair"]].image.open())).all()


CLUES = (
    r"$\frac{",
    "costs $5 and $6",
    r"$\undefined{x}$ _{} ^",
    "a \x00 \x1b[31m bell \x07",
    "half \ud83d of a pair",
    "a\u2028b\u2029c",
    "",
    " ",
    "\u202eright to left",
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clue", CLUES)
def test_clues_are_drawn_as_they_were_said(clue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    file = run / "games" / "step-000007.jsonl"
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    records[0]["clues"][0]["clue"] = clue
    write_json_lines(file, records) if clue.isascii() else file.write_text(f"{json.dumps(records[0])}\n")
    out = tmp_path / "game.svg"
    assert main([str(run), "--game", "--out", str(out)]) == 0
    assert capsys.readouterr().err.count("Error") == 0
    if "$" in clue:  # every letter of it is one of the picture's, none was read as mathematics
        texts = [text.get_text() for axes in plots.plot_game(records[0]).axes for text in axes.texts]
        assert clue in texts


@pytest.mark.parametrize("damage", [{"clues": None}, {"spy": "two"}, {"rules": None}, {"outcome": [99]}])
def test_a_line_that_is_no_game_is_named(
    damage: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    file = run / "games" / "step-000007.jsonl"
    records = [json.loads(line) | damage for line in file.read_text("utf-8").splitlines()]
    write_json_lines(file, records)
    (run / "games" / "step-000007-copy.jsonl").write_text("no game\n")
    assert main([str(run), "--game"]) == 1
    assert f"error: {file} holds what is not a recorded game" in capsys.readouterr().err
