"""The command as a user meets it: win rates of models, checkpoints and whole runs; clues over training; refusals."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig

from tests.process_helpers import BENCH_MODEL, DRAWN, PHOTOS, TINY_VLM
from tests.trainer_helpers import make_trainer
from vision_zero.config.parse import parse as parse_training
from vision_zero.config.parse import resolved
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.__main__ import main
from vision_zero.evaluate.clues.main import clue_windows
from vision_zero.evaluate.win_rate.options import parse
from vision_zero.models import find_models, load_processor, step_of
from vision_zero.run_folder import checkpoint_path, read_json_lines
from vision_zero.trainer.iterative_spo import every_role

QUICK = (
    *("--template", "compact", "--civilians", "2", "--rounds", "1", "--votes", "2", "--max_clue_tokens", "8"),
    *("--max_vote_tokens", "8", "--max_pixels", str(56 * 56), "--use_cpu", "--games", "8"),
)


def lines_of(out: Path, *words: str) -> list[dict[str, Any]]:
    main(["win-rate", *words, "--out", str(out)])
    return read_json_lines(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of the tiny model on drawings, a checkpoint of each, the second with its export."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options: dict[str, Any] = {"iterations": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    trainer = make_trainer(
        folder,
        model=TINY_VLM,
        processor=load_processor(str(TINY_VLM), max_pixels=56 * 56),
        pairs=load_pairs("drawn:8", split="train", holdout=0.5),
        games=2,
        players=every_role,
        max_clue_tokens=8,
        max_vote_tokens=8,
        **options,
    )
    trainer.train()
    flags = {
        "images": "drawn:8",
        "holdout": 0.5,
        "template": "compact",
        "civilians": 2,
        "rounds": 1,
        "num_generations": 4,
        "games_per_iteration": 2,
        "per_device_train_batch_size": 4,
        "max_pixels": 56 * 56,
        "max_clue_tokens": 8,
        "max_vote_tokens": 8,
        "model_name_or_path": TINY_VLM,
        "output_dir": folder,
        "use_cpu": True,
        "seed": 3,
        "report_to": "none",
        **options,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved(*parse_training(words))))
    return folder


def test_a_model_against_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy under another name is another player, with the same weights: one half, exactly.

    Four pairs were alike, so at most 1 - 0.025^(1/4) = 0.6024 of all pairs are not: half of it to each side.
    """
    copy = tmp_path / "copy"
    shutil.copytree(TINY_VLM, copy)
    out = tmp_path / "out.jsonl"
    (line,) = lines_of(out, str(copy), "--reference", str(TINY_VLM), "--drawn", "5", *QUICK)
    assert line["figures"]["win_rate"] == [0.5, pytest.approx(0.1988, abs=1e-4), pytest.approx(0.8012, abs=1e-4)]
    assert line["figures"]["together"] == [0, pytest.approx(-1.2047, abs=1e-4), pytest.approx(1.2047, abs=1e-4)]
    assert line["figures"]["votes/right"] == line["start"]["votes/right"]
    assert (line["games"], line["pairs"], line["step"]) == (8, 4, None)
    assert line["settings"]["images"] == ["drawn:5@heldout"]
    printed = capsys.readouterr().out
    assert re.search(r"win_rate +0\.500 \(0\.199 to 0\.801\)", printed)
    for name in ("image_gain", "civilians_gain", "grounding/spy/true", "length/vote"):
        assert re.search(rf"^  {name} ", printed, re.MULTILINE), name
    again = lines_of(tmp_path / "again.jsonl", str(copy), "--reference", str(TINY_VLM), "--drawn", "5", *QUICK)
    assert again[0]["figures"] == line["figures"]


def test_every_checkpoint_of_a_run_with_its_own_settings(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reference, images, rules and limits are the run's; a checkpoint and its export are the same model."""
    out = tmp_path / "out.jsonl"
    lines = lines_of(out, str(run), str(run / "checkpoint-2" / "export"), "--games", "8", "--use_cpu")
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert lines[1]["figures"] == lines[2]["figures"]
    assert lines[0]["figures"] != lines[1]["figures"]
    assert lines[0]["start"] == lines[1]["start"]
    settings = lines[0]["settings"]
    assert settings["reference"] == str(TINY_VLM)
    assert (settings["civilians"], settings["rounds"], settings["votes"]) == (2, 1, 4)
    assert (settings["template"], settings["max_vote_tokens"]) == ("compact", 8)
    assert capsys.readouterr().out.splitlines()[-3].startswith(f"{run}/checkpoint-1")


def test_another_seed_joins_the_table(run: Path, tmp_path: Path) -> None:
    words = (str(run / "checkpoint-2"), "--other_seed", str(run / "checkpoint-1"), "--games", "8", "--use_cpu")
    (line,) = lines_of(tmp_path / "out.jsonl", *words)
    assert line["matchups"] == 8
    assert {"other_voters_gain", "other_civilians_gain"} <= line["figures"].keys()
    (short,) = lines_of(tmp_path / "short.jsonl", *words[:1], "--cross_play", "false", "--games", "8", "--use_cpu")
    assert short["matchups"] == 4
    assert short["figures"]["win_rate"] == line["figures"]["win_rate"]
    assert "together" not in short["figures"]


def test_a_lora_checkpoint_is_played_with_its_adapter(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "run",
        model=TINY_VLM,
        processor=load_processor(str(TINY_VLM), max_pixels=56 * 56),
        players=every_role,
        pairs=load_pairs("drawn:8"),
        games=4,
        iterations=3,
        max_clue_tokens=8,
        max_vote_tokens=8,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        learning_rate=0.1,
        save_strategy="steps",
        save_steps=3,
    )
    trainer.train()
    checkpoint = checkpoint_path(tmp_path / "run", 3)
    words = (str(checkpoint), str(checkpoint / "export"), str(TINY_VLM), "--reference", str(TINY_VLM))
    adapter, export, start = lines_of(tmp_path / "out.jsonl", *words, "--drawn", "5", *QUICK)
    assert adapter["figures"] == export["figures"]
    assert adapter["figures"] != start["figures"]


def test_held_out_pairs_and_nothing_else(run: Path) -> None:
    trained_on = {record["pair"] for file in (run / "games").iterdir() for record in read_json_lines(file)}
    played_on = {pair.id for pair in parse([str(run)]).game.pairs("heldout")}
    assert len(played_on) == 4
    assert not played_on & trained_on
    # Other images are played on whole: the run's split says nothing about them.
    assert len(parse([str(run), "--images", str(DRAWN)]).game.pairs("heldout")) == len(load_pairs(str(DRAWN)))


def test_clues_over_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = clue_windows(run, window=1)
    assert [(one.first, one.last, one.n_games) for one in (first, second)] == [(1, 1, 2), (2, 2, 2)]
    record = read_json_lines(run / "games" / "step-000000.jsonl")
    objects = {
        pair.id: [one["color"] for one in pair.meta["original_scene"]["objects"]] for pair in load_pairs("drawn:8")
    }
    # A clue that names an object of the picture has the colour of one.
    possible = [
        any(colour in clue["clue"] for colour in objects[game["pair"]])
        for game in record
        for clue in game["clues"]
        if clue["seat"] != game["spy"]
    ]
    assert first.figures["civilian/true"].value <= sum(possible) / len(possible)
    main(["clues", str(run), "--window", "2"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["iterations", "games", "role"]
    assert [line.split()[:3] for line in printed[1:]] == [["1-2", "4", "civilian"], ["1-2", "4", "spy"]]


def test_models_are_found_by_run_and_step(run: Path) -> None:
    assert [step_of(model) for model in find_models([str(run)])] == [1, 2]
    assert find_models([str(TINY_VLM)]) == [str(TINY_VLM)]
    assert step_of(str(run / "checkpoint-2" / "export")) == 2
    assert step_of(str(TINY_VLM)) is None


REFERENCE = ("--reference", str(TINY_VLM))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("win-rate", str(TINY_VLM), *REFERENCE), "nothing to play on", id="no images"),
        pytest.param(("win-rate", str(TINY_VLM), "--drawn", "9"), "--reference", id="no reference"),
        pytest.param(
            ("win-rate", str(TINY_VLM), *REFERENCE, "--drawn", "9", "--games", "7"), "games=7", id="odd games"
        ),
        pytest.param(
            ("win-rate", str(TINY_VLM), *REFERENCE, "--drawn", "9", "--images", str(DRAWN)), "two sources", id="both"
        ),
        pytest.param(
            ("win-rate", str(TINY_VLM), *REFERENCE, "--drawn", "1", *QUICK), "at least two pairs", id="one pair"
        ),
        pytest.param(("win-rate", "no/such", *REFERENCE, "--drawn", "9", *QUICK), "no/such", id="no model"),
        pytest.param(
            ("win-rate", str(TINY_VLM), str(TINY_VLM), *REFERENCE, "--drawn", "9"), "named twice", id="named twice"
        ),
        pytest.param(("clues", str(BENCH_MODEL)), "not a run folder", id="clues of no run"),
        pytest.param(("win-rate", "nowhere"), "model nowhere: there is no such folder; give a run", id="nowhere"),
        pytest.param(("win-rate", f"{TINY_VLM}s"), f"(is it {TINY_VLM}?)", id="a slip"),
        pytest.param(("vlmevalkit", "nowhere"), "model nowhere: there is no such folder", id="scored nowhere"),
        pytest.param(
            ("win-rate", str(TINY_VLM), "--reference", str(TINY_VLM / "config.json"), "--drawn", "9", *QUICK),
            "is a file: give the folder of a model",
            id="a file",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert says in message
    assert "\n" not in message


def test_a_run_that_held_nothing_out_is_not_judged_on_what_it_trained_on(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "holdout": 0.0}))
    with pytest.raises(ValueError, match="held no images out"):
        parse([str(tmp_path)])
    assert parse([str(tmp_path), "--drawn", "9"]).game.images == ["drawn:9@heldout"]
    with pytest.raises(SystemExit, match="without a complete checkpoint"):
        main(["win-rate", str(tmp_path), "--drawn", "9"])


def test_clues_need_the_source_of_the_games_and_its_descriptions(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the source of these games"):
        clue_windows(run, [str(DRAWN)])
    shutil.copytree(run / "games", tmp_path / "games")
    shutil.copy(run / "config.yaml", tmp_path)
    photo = load_pairs(str(PHOTOS))[0].id
    for file in (tmp_path / "games").iterdir():
        records = [{**record, "pair": photo} for record in read_json_lines(file)]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match="no scene description"):
        clue_windows(tmp_path, [str(PHOTOS)])


def test_clues_of_pairs_without_descriptions_are_left_out_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a run on scenes and photographs: one of its four games is on a photograph."""
    sources = ["drawn:8", str(PHOTOS)]
    mixed = {pair.id.split("/")[-1]: pair.id for pair in load_pairs(sources)}
    photo = load_pairs(str(PHOTOS))[0].id
    shutil.copytree(run / "games", tmp_path / "games")
    shutil.copy(run / "config.yaml", tmp_path)
    for file in sorted((tmp_path / "games").iterdir()):
        records = [{**record, "pair": mixed[record["pair"]]} for record in read_json_lines(file)]
        if file.name == "step-000001.jsonl":
            records[0]["pair"] = mixed[photo]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    first, second = clue_windows(tmp_path, sources, window=1)
    assert (first.n_games, second.n_games) == (2, 1)
    assert "note: 1 of 4 games are left out, their pairs are not described" in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in ((["--help"], 0), ([], 2), (["winrate"], 2)):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == status
        printed = capsys.readouterr()
        assert "win-rate MODEL" in (printed.err if status else printed.out)
        said = printed.err.splitlines()[-1:]
        commands = "win-rate, cross-play, clues, vlmevalkit"
        assert said == ([f"error: no command {' '.join(words)}: give one of {commands}"] if status else [])


@pytest.mark.parametrize("command", ["win-rate", "cross-play", "clues", "vlmevalkit"])
def test_help_is_there_without_torch(command: str) -> None:
    """Importing torch and TRL takes 9 seconds."""
    program = (
        "import sys\nfrom vision_zero.evaluate.__main__ import main\n"
        f"try: main(['{command}', '--help'])\nfinally: assert not {{'torch', 'trl'}} & sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"evaluate {command}" in shown.stdout
