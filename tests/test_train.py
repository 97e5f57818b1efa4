"""The command as a user meets it: what it refuses, in one line and before it writes, and what a broken image does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.process_helpers import (
    BENCH_MODEL,
    DRAWN,
    PHOTOS,
    ROOT,
    assert_same_run,
    flags,
    games,
    metrics,
    train,
    train_well,
    without_weight,
)
from vision_zero.data.pairs import sample_rows
from vision_zero.game.spy_game import pair_of_game
from vision_zero.run_folder import complete_checkpoints
from vision_zero.train import has_wandb_key, main

QUICK: dict[str, Any] = {"save_steps": 1}


def refusal(*words: str) -> str:
    """The one line with which the command ends, in this process; it fails if the command goes on."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert "\n" not in message, "more than one line"
    return message


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------ refusals


def test_folder_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    assert f"{run} is not empty (notes.txt)" in refusal(*flags(output_dir=run))
    assert files_below(run) == {run / "notes.txt": b"mine"}


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    assert "no run to resume" in refusal(*flags(output_dir=tmp_path / "none", resume=True))
    assert not (tmp_path / "none").exists()
    (tmp_path / "notes.txt").write_text("mine")
    assert "no run to resume" in refusal(*flags(output_dir=tmp_path, resume=True))
    assert files_below(tmp_path) == {tmp_path / "notes.txt": b"mine"}


def test_output_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"{file} is a file" in refusal(*flags(output_dir=file))
    assert file.read_text() == "mine"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"images": None}, "no image source: give --images"),
    "no model": ({"model_name_or_path": None}, "no model: give --model_name_or_path"),
    "held-out drawings": ({"images": [DRAWN, "drawn:8@heldout"]}, "--images drawn:8@heldout: these drawings are kept"),
    "arena of training pairs": (
        {"images": "drawn:8", "arena_every": 1, "arena_games": 4, "arena_images": "drawn:9"},
        "--arena_images drawn:9: 8 of its 9 pairs are trained on",
    ),
    "no edit that could fail": ({"images": PHOTOS, "failed_edits": 0.5}, "no pair has an edited image"),
    "missing images": ({"images": "/no/such/folder"}, "/no/such/folder: no such file or folder"),
    "missing model": ({"model_name_or_path": "/no/such/model"}, "model /no/such/model: there is no such folder"),
    "not a model": ({"model_name_or_path": PHOTOS}, f"model {PHOTOS}: "),
    "unknown flag": ({"n_civilians": 4}, "unknown arguments: --n_civilians 4"),
    "flag cut short": ({"game": 4}, "unknown arguments: --game 4"),
    "missing template": ({"template": "sceens"}, "template 'sceens' is neither a file nor one of charts"),
    "edited photographs": ({"images": PHOTOS, "spy_view": "edited"}, "0 of 16 pairs have an edited image"),
    "scenes without pairs": ({"images": PHOTOS, "scenes_dir": DRAWN / "scenes"}, "no folder of NAME_original"),
    "too many players": ({"civilians": 9}, "n_civilians must be 2 to 8, got 9"),
    "votes not shared": ({"voter": "civilian", "civilians": 3}, "not a multiple of n_civilians=3"),
    "unpacked steps": ({"max_steps": 7}, "max_steps=7, but it follows from the other options and would be 4"),
    "inside an iteration": ({"updates_per_iteration": 2, "save_steps": 3}, "save_steps=3 falls inside an iteration"),
    "DeepSpeed alone": (
        {"deepspeed": ROOT / "configs" / "deepspeed" / "zero2.json"},
        "--deepspeed needs torchrun",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    options, reason = REFUSED[name]
    run = tmp_path / "run"
    assert reason in refusal(*flags(output_dir=run, **{**QUICK, **options}))
    assert not run.exists() or not list(run.iterdir()), "a refused run must leave a folder that can be used again"


IN_A_FILE: dict[str, tuple[str, str]] = {
    "unknown key": ("civilian: 4", "unknown options: civilian"),
    "word for number": ("civilians: four", "civilians: 'four', which must be a whole number"),
    "part of a civilian": ("civilians: 2.5", "civilians: 2.5, which must be a whole number"),
    "truth for number": ("learning_rate: true", "learning_rate: True, which must be a number"),
    "no such choice": ("on_bad_image: sikp", "on_bad_image: 'sikp', which must be one of stop, skip"),
    "list for one": ("template: [a, b]", "template: ['a', 'b'], which must be text"),
    "not a mapping": ("- civilians", "must hold `name: value` lines"),
    "not YAML": ("a: [", "not a YAML file"),
    "number as name": ("4: civilians", "must hold `name: value` lines"),
}


@pytest.mark.parametrize("name", IN_A_FILE)
def test_refused_in_a_file(name: str, tmp_path: Path) -> None:
    text, reason = IN_A_FILE[name]
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert reason in refusal("--config", str(file), *flags(output_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_files_of_options_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "none.yaml: cannot be read: No such file" in refusal("--config", str(tmp_path / "none.yaml"))
    assert "--config needs a YAML file" in refusal("--config")
    assert "--config needs a YAML file" in refusal("--config", "--iterations", "3")
    assert "given twice" in refusal("--config", "a.yaml", "--config", "b.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not a YAML file" in refusal(f"--config={tmp_path / 'bytes.yaml'}")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"civilians": "four"}, "argument --civilians: invalid int value: 'four'"),
        ({"schedule": "cyclic"}, "argument --schedule: invalid choice: 'cyclic'"),
        ({"images": []}, "argument --images: expected at least one argument"),
        ({"output_dir": []}, "argument --output_dir/--output-dir: expected one argument"),
    ],
)
def test_wrong_value_of_a_flag_is_refused_without_a_page_of_options(
    options: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flags(**{"output_dir": tmp_path / "run", **options}))
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert reason in lines[-1]
    assert len(lines) <= 4


def test_models_that_are_damaged_are_refused(tmp_path: Path) -> None:
    for number, keep in enumerate((0, 1000)):
        model = shutil.copytree(BENCH_MODEL, tmp_path / f"model{number}")
        file = model / "model.safetensors"
        part = file.read_bytes()[:keep]
        file.unlink()
        if part:
            file.write_bytes(part)
        refusal(*flags(output_dir=tmp_path / "run", **{**QUICK, "model_name_or_path": model}))
        assert not list((tmp_path / "run").glob("*"))


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers would make them up, with a warning."""
    model = without_weight(BENCH_MODEL, tmp_path / "model", "layers.0.mlp.up_proj")
    message = refusal(*flags(output_dir=tmp_path / "run", **{**QUICK, "model_name_or_path": model}))
    assert f"model {model}: its files lack the weights model.language_model.layers.0.mlp.up_proj.weight" in message
    assert not list((tmp_path / "run").glob("*"))


def test_metrics_may_be_logged_every_few_steps(tmp_path: Path) -> None:
    main(flags(output_dir=tmp_path / "run", **QUICK, logging_steps=3))
    assert [line["step"] for line in metrics(tmp_path / "run")] == [3]


def test_a_refused_command_ends_with_an_error_status(tmp_path: Path) -> None:
    finished = train(tmp_path / "run", images="/no/such/folder")
    assert finished.status == 1
    assert "error: /no/such/folder: no such file or folder" in finished.output.splitlines()
    assert "Traceback" not in finished.output


def test_a_run_is_neither_overwritten_nor_resumed_as_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(flags(output_dir=run, **{**QUICK, "iterations": 2}))
    before = files_below(run)
    assert "is not empty" in refusal(*flags(output_dir=run, **QUICK))
    other = {**QUICK, "resume": True, "games_per_iteration": 8}
    assert "was started with games_per_iteration=4 and cannot go on with games_per_iteration=8" in refusal(
        *flags(output_dir=run, **other)
    )
    assert "was started with seed=3 and cannot go on with seed=4" in refusal(
        *flags(output_dir=run, **{**QUICK, "resume": True}, seed=4)
    )
    assert files_below(run) == before


def test_a_run_that_is_resumed_with_other_options_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main(flags(output_dir=run, **{**QUICK, "iterations": 1}))
    more = {**QUICK, "iterations": 2, "reward_beta": 0.2, "resume": True}
    main(flags(output_dir=run, **more))
    said = capsys.readouterr().err
    assert "resumed with iterations=2 (was 1)" in said
    assert "resumed with reward_beta=0.2 (was 0.1)" in said
    assert [line["step"] for line in metrics(run)] == [1, 2]
    # The optimizer of a checkpoint brings its own rate: another one would be said, and not be used.
    assert "was started with learning_rate=0.001" in refusal(*flags(output_dir=run, **{**more, "learning_rate": 1e-4}))


# ---------------------------------------------------------------------------------------------------------- bad images


SEED = 3
RARE: dict[str, Any] = {**QUICK, "iterations": 3, "save_steps": 10, "seed": SEED}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """100 pairs, more than are looked at before a run starts."""
    folder = tmp_path / "many"
    folder.mkdir()
    for row in range(100):
        for kind in ("original", "modified"):
            shutil.copyfile(DRAWN / f"drawn_{row % 24:03d}_{kind}.png", folder / f"pair_{row:03d}_{kind}.png")
    return folder


def image_of_game(many: Path, game: int) -> Path:
    """The original that `game` is dealt; it must not be among those looked at before the run."""
    row = pair_of_game(SEED, game, 100)
    assert row not in sample_rows(100, 64, seed=0), "choose another game"
    return many / f"pair_{row:03d}_original.png"


def break_image(file: Path) -> None:
    file.write_bytes(b"\x89PNG not an image any more")


def repair(file: Path) -> None:
    shutil.copyfile(DRAWN / f"drawn_{int(file.stem.split('_')[1]) % 24:03d}_original.png", file)


def pairs_played(run: Path) -> dict[int, str]:
    return {game["game"]: game["pair"] for one in games(run).values() for game in one}


def test_a_bad_image_stops_the_run_which_goes_on_once_it_is_repaired(many: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    main(flags(output_dir=whole, **RARE, images=many))
    bad = image_of_game(many, 8)
    break_image(bad)
    with pytest.raises(SystemExit) as stopped:
        main(flags(output_dir=run, **RARE, images=many))
    message = str(stopped.value)
    assert message.startswith(f"error: {bad}: not an image")
    assert f"the run was saved at {run}/checkpoint-2" in message
    assert "--resume" in message
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-2"]
    assert len(metrics(run)) == 2
    repair(bad)
    main(flags(output_dir=run, **RARE, images=many, resume=True))
    assert_same_run(run, whole, last=3)


def test_a_bad_image_of_the_first_iteration_leaves_a_run_that_can_be_resumed(many: Path, tmp_path: Path) -> None:
    bad, run = image_of_game(many, 1), tmp_path / "run"
    break_image(bad)
    options = flags(output_dir=run, **{**RARE, "iterations": 1}, images=many)
    with pytest.raises(SystemExit, match="nothing was trained yet"):
        main(options)
    repair(bad)
    main([*options, "--resume"])
    assert [line["step"] for line in metrics(run)] == [1]


def test_bad_images_are_skipped_counted_and_said_once(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [image_of_game(many, game) for game in (5, 7)]
    for file in bad:
        break_image(file)
    run = tmp_path / "run"
    main(flags(output_dir=run, **RARE, images=many, on_bad_image="skip"))
    said = capsys.readouterr().err
    for file in bad:
        assert said.count(f"skipped a pair with a broken image: {file}: not an image") == 1
    assert [line["images/skipped_pairs"] for line in metrics(run)] == [0, 2, 2]
    played = pairs_played(run)
    assert len(played) == 12
    for game in range(12):
        row = pair_of_game(SEED, game, 100)
        expected = (row + 1) % 100 if game in (5, 7) else row
        assert played[game] == f"pair_{expected:03d}"


def test_a_source_of_bad_images_alone_stops_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(3):
        break_image(folder / f"{number}.png")
    assert "0.png: not an image" in refusal(*flags(output_dir=tmp_path / "run", **RARE, images=folder))
    with pytest.raises(SystemExit, match="every image pair of the source is broken"):
        main(flags(output_dir=tmp_path / "run", **RARE, images=folder, on_bad_image="skip"))


TWO: dict[str, Any] = {**RARE, "processes": 2, "per_device_train_batch_size": 2}


def test_a_bad_image_of_one_process_stops_both(many: Path, tmp_path: Path) -> None:
    """Game 7 is played by the second process; the first would wait for it forever."""
    bad, run = image_of_game(many, 7), tmp_path / "run"
    break_image(bad)
    stopped = train(run, **TWO, images=many)
    assert stopped.status != 0
    assert f"error: {bad}: not an image" in stopped.output
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-1"]
    assert len(metrics(run)) == 1


@pytest.mark.slow
def test_bad_images_are_skipped_by_two_processes_as_by_one(many: Path, tmp_path: Path) -> None:
    bad = [image_of_game(many, game) for game in (5, 7)]
    for file in bad:
        break_image(file)
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(two, **TWO, images=many).status != 0
    resumed = train_well(two, **TWO, images=many, resume=True, on_bad_image="skip")
    for file in bad:
        assert resumed.output.count(f"skipped a pair with a broken image: {file}: not an image") == 1
    assert [line["images/skipped_pairs"] for line in metrics(two)] == [0, 2, 2]
    state = json.loads((two / "checkpoint-3" / "iterative_spo.json").read_text())
    assert state["bad_images"] == sorted(pair_of_game(SEED, game, 100) for game in (5, 7))
    main(flags(output_dir=one, **RARE, images=many, on_bad_image="skip"))
    assert pairs_played(one) == pairs_played(two)


@pytest.mark.parametrize(
    ("variables", "netrc", "known"),
    [
        ({}, "", False),
        ({}, "machine example.org login me password x", False),
        ({}, "machine api.wandb.ai\n  login user\n  password x", True),
        ({}, "machine api.forge.coreweave.com login user password x", True),
        ({"WANDB_API_KEY": "x"}, "", True),
        ({"WANDB_BASE_URL": "https://wandb.lab.example:8080"}, "machine wandb.lab.example login user password x", True),
        ({"WANDB_BASE_URL": "https://wandb.lab.example:8080"}, "machine api.nothing.example login x", False),
    ],
)
def test_wandb_is_offline_without_a_key(
    variables: dict[str, str], netrc: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert has_wandb_key() is known
