"""A run that was killed and resumed is the run that was not, to the last digit, wherever the kill fell."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.process_helpers import (
    BENCH_MODEL,
    DRAWN,
    PHOTOS,
    ROOT,
    TINY_VLM,
    TRAIN,
    Finished,
    assert_same_run,
    flags,
    kill,
    metrics,
    run_program,
    running,
    train,
    train_well,
    wait_for,
)
from vision_zero import export, run_folder
from vision_zero.config.parse import parse, resolved
from vision_zero.data.folder_lock import locked
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import pair_of_game
from vision_zero.models import check_model, check_saved
from vision_zero.report.page import make_report
from vision_zero.run_folder import STATE, RunFolderError, complete_checkpoints, read_json_lines
from vision_zero.train import main, open_folder
from vision_zero.trainer import resume

KILLS = 30
LONG: dict[str, Any] = {"iterations": 6, "save_steps": 1, "save_total_limit": 2}
LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_well(run, **LONG, fresh=True)  # so a fork with the same seeds is shown to do the same
    return run


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoint-*"))


def train_and_kill_after(run: Path, step: int, processes: int = 1, **options: Any) -> None:
    """SIGKILL as soon as checkpoint-`step` is complete."""
    with running(*flags(output_dir=run, **options), processes=processes) as process:
        wait_for((run / f"checkpoint-{step}" / "COMPLETE").exists, process)
        kill(process)


def train_killed_at(where: str, step: int, run: Path, **options: Any) -> Finished:
    program = [str(ROOT / "tests" / "killed_train.py"), where, str(step)]
    finished = train(run, program=program, **options)
    assert finished.status != 0
    return finished


@pytest.mark.fault("SIGKILL")
def test_killed_after_a_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_and_kill_after(run, 3, **LONG)
    assert "checkpoint-6" not in checkpoints(run), "killed too late to show anything"
    assert_resumes(run, uninterrupted)


def assert_resumes(run: Path, uninterrupted: Path) -> None:
    finished = train_well(run, **LONG, resume=True)
    assert f"resuming from {run}/checkpoint-" in finished.output
    assert_same_run(run, uninterrupted, last=6)
    assert checkpoints(run) == checkpoints(uninterrupted) == ["checkpoint-5", "checkpoint-6"]
    assert len(complete_checkpoints(run)) == 2


@pytest.mark.fault("SIGKILL in a save")
def test_killed_before_the_checkpoint_was_complete(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("mark", 4, run, **LONG)
    # The broken one is there, whole but for the mark, and rotation did not count it.
    assert checkpoints(run) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-2", "checkpoint-3"]
    assert (run / "checkpoint-4" / "model.safetensors").is_file()
    assert len(read_json_lines(run / "metrics.jsonl")) == 4
    assert_resumes(run, uninterrupted)


@pytest.mark.fault("SIGKILL in a save")
@pytest.mark.slow
def test_killed_with_half_a_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("model", 4, run, **LONG)
    assert not (run / "checkpoint-4" / "iterative_spo.json").exists()
    assert_resumes(run, uninterrupted)


@pytest.mark.fault("SIGKILL in a save")
@pytest.mark.slow
def test_killed_while_an_old_checkpoint_was_removed(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_killed_at("rotation", 4, run, **LONG)
    assert checkpoints(run) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-3", "checkpoint-4"]
    assert_resumes(run, uninterrupted)


@pytest.mark.fault("SIGKILL")
@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(
    uninterrupted: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """30 times in all, in as many runs as that takes."""
    rng, kills, begins, lost = random.Random(0), 0, 0, 0
    while kills < KILLS:
        run = tmp_path / f"run {begins}"
        begins += 1
        of_this_run = 0
        while not (run / "checkpoint-6" / "COMPLETE").exists():
            begun = (run / "config.yaml").exists()
            with running(*flags(output_dir=run, **LONG, resume=begun)) as process:
                wait_for((run / "config.yaml").exists, process)
                try:
                    process.wait(rng.uniform(0.0, 1.5 + 0.5 * of_this_run))  # a slow machine gets on in the end
                except Exception:
                    kill(process)
                    of_this_run += 1
                    saved = max([0, *map(run_folder.step_of, complete_checkpoints(run))])
                    again = len(read_json_lines(run / "metrics.jsonl")) - saved
                    assert again in (0, 1), "no more than the iteration that was not yet saved"
                    lost += again
        kills += of_this_run
        assert of_this_run < KILLS, "no run gets to its end"
        assert_same_run(run, uninterrupted, last=6)
    record_property("tried", kills)
    record_property("lost", lost)


@pytest.mark.fault("SIGKILL")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"processes": 2, "per_device_train_batch_size": 2}, id="two processes"),
        pytest.param({"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero2.json"}, id="ZeRO-2"),
        pytest.param({"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero3.json"}, id="ZeRO-3"),
        pytest.param(LORA, id="LoRA"),
        pytest.param(
            {"updates_per_iteration": 2, "save_steps": 2, "schedule": "iterative", "k_min": 2}, id="2 updates"
        ),
        pytest.param({"lr_scheduler_type": "cosine", "warmup_steps": 0.3, "optim": "sgd"}, id="schedule"),
    ],
)
def test_resumed_run_is_the_same_with(options: dict[str, Any], tmp_path: Path) -> None:
    options = {**LONG, **options}
    steps = 12 if "updates_per_iteration" in options else 6
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_well(whole, **options)
    train_and_kill_after(run, 4, **options)
    assert f"checkpoint-{steps}" not in checkpoints(run)
    train_well(run, **options, resume=True)
    assert_same_run(run, whole, last=steps)


def test_finished_run_is_resumed_without_a_step(uninterrupted: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    finished = train_well(uninterrupted, **LONG, resume=True)
    assert "done: load" in finished.output
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


# ------------------------------------------------------------------------------------------ damaged, locked, changed


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "truncated": lambda file, data: file.write_bytes(data[:-1]),
    "cut in half": lambda file, data: file.write_bytes(data[: len(data) // 2]),
    "flipped": lambda file, data: file.write_bytes(
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "removed": lambda file, data: file.unlink(),
    "emptied": lambda file, data: file.write_bytes(b""),
    "added to": lambda file, data: file.write_bytes(data + b"\n"),
}


@pytest.fixture
def copied(uninterrupted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(uninterrupted, tmp_path / "copied")


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.fault("file of a checkpoint damaged")
def test_every_damage_of_every_file_of_a_checkpoint_is_named(
    copied: Path, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # 200 times the same file
    config, last = run_folder.options_at(copied), copied / "checkpoint-6"
    files = [file for file in sorted(last.rglob("*")) if file.is_file() and "export" not in file.parts]
    files = [file for file in files if file.name != "EXPORTED"]
    record_property("tried", len(files) * len(DAMAGES) + 1)
    names = {file.name for file in files}
    assert names >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "COMPLETE", STATE}
    for file in files:
        data = file.read_bytes()
        for damage, apply in DAMAGES.items():
            apply(file, data)
            if (file.name, damage) == ("COMPLETE", "removed"):  # what a kill at a save leaves: said at the resume
                assert run_folder.find_start(copied, True, config) == copied / "checkpoint-5"
            else:
                with pytest.raises(RunFolderError, match=r"--resume_from 5 goes on from .*checkpoint-5") as refused:
                    run_folder.find_start(copied, True, config)
                assert file.name in str(refused.value), damage
                assert "\n" not in str(refused.value)
        file.write_bytes(data)
    (last / "adapter_config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"adapter_config.json was not saved with it"):
        run_folder.find_start(copied, True, config)
    (last / "adapter_config.json").unlink()
    (last / ".nfs0001").write_text("a file browser's")
    assert run_folder.find_start(copied, True, config) == last


@pytest.mark.fault("file of a model damaged")
def test_a_damaged_model_is_neither_evaluated_nor_exported(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("checkpoint-6", "checkpoint-6/export"):
        check_model(str(copied / place))
        DAMAGES["flipped"](copied / place / "model.safetensors", (copied / place / "model.safetensors").read_bytes())
        check_saved.cache_clear()
        with pytest.raises(ValueError, match=rf"{place} is damaged: model.safetensors has other bytes"):
            check_model(str(copied / place))
    monkeypatch.setattr("sys.argv", ["export", str(copied / "checkpoint-6"), str(tmp_path / "target")])
    with pytest.raises(SystemExit, match=r"error: .*checkpoint-6 is damaged"):
        export.main()
    assert not (tmp_path / "target").exists()


def test_a_checkpoint_of_before_is_resumed_and_said_not_to_be_verified(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copied / "checkpoint-6"
    state = json.loads((last / STATE).read_text())
    del state["step"]
    (last / STATE).write_text(json.dumps(state))
    (last / "COMPLETE").write_bytes(b"")
    config = run_folder.options_at(copied)
    assert run_folder.find_start(copied, True, config) == last
    assert capsys.readouterr().err.count("\n") == 1
    assert resume.read_state(last, config)["games_dealt"] == 24


def test_parts_of_two_checkpoints_are_no_checkpoint(copied: Path) -> None:
    config, last = run_folder.options_at(copied), copied / "checkpoint-6"
    for name in (STATE, "trainer_state.json"):
        data = (last / name).read_bytes()
        shutil.copyfile(copied / "checkpoint-5" / name, last / name)
        with pytest.raises(RunFolderError, match=r"checkpoint-6 holds parts of different moments"):
            resume.read_state(last, config)
        (last / name).write_bytes(data)
    (last / "optimizer.pt").unlink()
    with pytest.raises(RunFolderError, match=r"has no optimizer"):
        resume.read_state(last, config)


@pytest.mark.fault("file of a checkpoint damaged")
def test_a_damaged_checkpoint_is_not_resumed_and_the_one_before_is_on_request(
    uninterrupted: Path, copied: Path
) -> None:
    """Nothing but the folder is given: the run goes on with its own options, and ends as if nothing had happened."""
    DAMAGES["truncated"](copied / "checkpoint-6" / "optimizer.pt", (copied / "checkpoint-6/optimizer.pt").read_bytes())
    before, log = files_below(copied), copied.with_name("log")
    for words, message in (
        (["--resume", "true"], "checkpoint-6 is damaged: optimizer.pt has"),
        (["--resume_from", "6"], "--resume_from 5 goes on from"),
        (["--resume_from", "4"], "is no complete checkpoint; complete ones: 5, 6"),
    ):
        refused = run_program([*TRAIN, "--output_dir", str(copied), *words], log)
        assert (refused.status, message in refused.output, files_below(copied) == before) == (1, True, True)
        log.unlink()
    finished = run_program([*TRAIN, "--output_dir", str(copied), "--resume_from", "5"], log)
    assert finished.status == 0
    assert f"resuming from {copied}/checkpoint-5" in finished.output
    assert "resumed with" not in finished.output
    assert_same_run(copied, uninterrupted, last=6)
    aside = copied / "set_aside" / "after-5"
    assert f"checkpoint-6 and what was recorded up to there are kept in {aside}" in finished.output
    assert files_below(aside / "checkpoint-6") == {
        path.relative_to("checkpoint-6"): data for path, data in before.items() if path.parts[0] == "checkpoint-6"
    }
    assert (aside / "metrics.jsonl").read_bytes() == before[Path("metrics.jsonl")]


@pytest.mark.fault("two runs in one folder, resume of a live run")
def test_a_live_run_is_left_alone_and_a_killed_one_is_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(*flags(output_dir=run, **{**LONG, "iterations": 60})) as process:
        wait_for((run / "checkpoint-1" / "COMPLETE").exists, process)
        for more in ({}, {"resume": True}):
            refused = train(run, **LONG, **more)
            assert refused.status == 1
            assert f"error: {run} is in use by process {process.pid} on {socket.gethostname()}" in refused.output
        kill(process)
    assert (run / ".lock").read_text().startswith(f"process {process.pid}")
    with locked(run):  # the dead process holds nothing
        assert f"process {os.getpid()}" in (run / ".lock").read_text()
    assert not (run / ".lock").exists()


@pytest.mark.fault("records lost")
def test_lost_lines_are_told_and_those_of_metrics_come_back(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last, whole = copied / "checkpoint-6", metrics(copied)
    lines = (copied / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    damaged = {"cut": lines[:1] + lines[4:], "half": [lines[0][:30] + b"\n", *lines[1:]], "emptied": [], "gone": None}
    told = {"cut": "step 2, 3, 4; w", "half": "line 1: damaged", "emptied": "step 1, 2, 3,", "gone": "step 1, 2, 3,"}
    for how, left in damaged.items():
        (copied / "metrics.jsonl").unlink() if left is None else (copied / "metrics.jsonl").write_bytes(b"".join(left))
        run_folder.rewind(copied, last)
        resume.restore_records(copied, last)
        assert told[how] in capsys.readouterr().err
        assert metrics(copied) == whole
    switches, game = copied / "switches.jsonl", copied / "games" / "step-000003.jsonl"
    switches.write_bytes(switches.read_bytes().splitlines(keepends=True)[0])
    game.write_bytes(game.read_bytes()[:-40])
    (copied / "games" / "step-000001.jsonl").unlink()
    run_folder.rewind(copied, last)
    resume.restore_records(copied, last)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{switches}: lost or not whole, step 1, 2, 3, 4, 5",
        f"{copied / 'games'}: lost or not whole, step 1, 3",
    ]


CHANGES: dict[str, Any] = {"reward_beta": 0.2, "temperature": 0.7, "iterations": 8, "save_total_limit": 5}


@pytest.mark.fault("options changed")
def test_changed_options_stand_in_the_run_from_their_step_on(
    copied: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tried", len(CHANGES))
    config = run_folder.options_at(copied)
    run_folder.write_changes(copied, {**config, **CHANGES}, 5)
    assert {name: run_folder.read_config(copied)[name] for name in CHANGES} == CHANGES
    (line,) = run_folder.read_json_lines(copied / "changes.jsonl")
    assert (line["step"], line["iteration"]) == (5, 5)
    assert line["options"] == {name: [config[name], value] for name, value in CHANGES.items()}
    assert run_folder.options_at(copied, 4) == config
    assert run_folder.options_at(copied, 5)["reward_beta"] == 0.2
    assert any("reward_beta=0.2 (was 0.1)" in note for note in make_report(copied).notes)
    # Back before the change, the run's options are those of then.
    words = ["--output_dir", str(copied), "--resume_from", "4"]
    assert run_folder.changed_options(copied, resolved(*parse(words)), 4) == {}
    run_folder.rewind(copied, copied / "checkpoint-4")
    run_folder.write_changes(copied, config, 4)
    assert run_folder.read_json_lines(copied / "changes.jsonl") == []
    assert run_folder.options_at(copied) == config


FIXED: dict[str, Any] = {
    "civilians": 3,
    "rounds": 2,
    "spy_view": "blank",
    "voter": "civilian",
    "template": "auto",
    "images": PHOTOS,
    "model_name_or_path": BENCH_MODEL,
    "games_per_iteration": 8,
    "seed": 4,
    "num_generations": 6,
    "learning_rate": 1e-4,
    "optim": "sgd",
    "schedule": "clue",
    "weight_decay": 0.5,
    "holdout": 0.2,
    "use_peft": True,
}


@pytest.mark.fault("options changed")
def test_what_would_make_it_another_run_is_refused_all_at_once(
    copied: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tried", len(FIXED))
    before = files_below(copied)
    words = [word for name, value in FIXED.items() for word in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(copied), "--resume", *words])
    message = str(stopped.value)
    assert "\n" not in message
    for name in FIXED:
        assert f"was started with {name}=" in message
    assert files_below(copied) == before


def test_options_of_a_resumed_run_are_its_own(copied: Path, tmp_path: Path) -> None:
    game, args, model = parse(["--output_dir", str(copied), "--resume"])
    assert (game.template, game.images, model.model_name_or_path) == ("compact", [str(DRAWN)], str(TINY_VLM))
    assert (args.learning_rate, args.iterations, args.resume) == (1e-3, 6, True)
    file = tmp_path / "options.yaml"
    file.write_text(f"output_dir: {copied}\nresume: true\nreward_beta: 0.3\niterations: 7\n")
    game, args, _ = parse(["--config", str(file), "--iterations", "8"])
    assert (game.template, args.reward_beta, args.iterations) == ("compact", 0.3, 8)
    with (copied / "config.yaml").open("a") as config:
        config.write("an_option_of_before: 1\nlogging_nan_inf_filter: true\n")  # as an earlier version wrote it
    changed = run_folder.changed_options(copied, resolved(*parse(["--output_dir", str(copied), "--resume"])))
    assert changed == {"an_option_of_before": (1, None), "logging_nan_inf_filter": (True, False)}
    relative = os.path.relpath(DRAWN)
    same = resolved(*parse(["--output_dir", str(copied), "--resume", "--images", relative]))
    assert "images" not in run_folder.changed_options(copied, same)


@pytest.fixture
def pairs_of_a_run(tmp_path: Path) -> tuple[Path, Path]:
    images, run = shutil.copytree(DRAWN, tmp_path / "images"), tmp_path / "run"
    resume.write_inputs(run, resume.fingerprint_pairs(load_pairs(images)), {})
    return images, run


def compare(images: Path, run: Path, dealt: int = 24, bad: tuple[int, ...] = ()) -> None:
    state = {"games_dealt": dealt, "bad_images": list(bad)}
    resume.check_pairs_unchanged(run, resume.fingerprint_pairs(load_pairs(images)), state, seed=3)


@pytest.mark.fault("pairs removed, added, swapped")
def test_pairs_that_are_not_those_of_the_run_are_refused(pairs_of_a_run: tuple[Path, Path]) -> None:
    images, run = pairs_of_a_run
    one, other = (images / f"drawn_{number:03d}_original.png" for number in (3, 8))
    compare(images, run)
    for kind in ("original", "modified"):
        shutil.copyfile(images / f"drawn_003_{kind}.png", images / f"drawn_0035_{kind}.png")
    with pytest.raises(RunFolderError, match=r"begun with 24 .* now there are 25: 1 added \(as 'drawn_0035'\)"):
        compare(images, run)
    for kind in ("original", "modified"):
        (images / f"drawn_0035_{kind}.png").unlink()
        (images / f"drawn_005_{kind}.png").rename(images.parent / f"{kind}.png")
    with pytest.raises(RunFolderError, match=r"now there are 23: 1 removed \(as 'drawn_005'\)"):
        compare(images, run)
    for kind in ("original", "modified"):
        (images.parent / f"{kind}.png").rename(images / f"drawn_005_{kind}.png")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    for dealt in (24, 0):
        with pytest.raises(RunFolderError, match=r"2 image pairs are not those .* as 'drawn_003'"):
            compare(images, run, dealt)


@pytest.mark.fault("pairs removed, added, swapped")
def test_pairs_in_another_order_are_refused(pairs_of_a_run: tuple[Path, Path]) -> None:
    images, run = pairs_of_a_run
    turned = list(reversed(resume.fingerprint_pairs(load_pairs(images))))
    with pytest.raises(RunFolderError, match=r"in another order \(pair 1 was 'drawn_000', is 'drawn_023'\)"):
        resume.check_pairs_unchanged(run, turned, {}, seed=3)


def test_an_image_that_no_game_has_shown_may_be_repaired(
    pairs_of_a_run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    images, run = pairs_of_a_run
    row = pair_of_game(3, 20, 24)
    Image.new("RGB", (112, 112), "red").save(images / f"drawn_{row:03d}_original.png")
    for shown in ({"dealt": 20}, {"dealt": 24, "bad": (row,)}):
        compare(images, run, **shown)
        assert f"'drawn_{row:03d}' has another image" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match=f"1 image pairs are not those .* as 'drawn_{row:03d}'"):
        compare(images, run, dealt=21)


@pytest.mark.fault("another model")
def test_another_model_in_the_same_place_is_refused(tmp_path: Path) -> None:
    model, run = shutil.copytree(TINY_VLM, tmp_path / "model"), tmp_path / "run"
    resume.write_inputs(run, [], resume.fingerprint_model(str(model), None))
    resume.check_model_unchanged(run, str(model), resume.fingerprint_model(str(model), None))
    weights = model / "model.safetensors"
    changed = {name: tensor * 1.01 for name, tensor in load_file(weights).items()}
    weights.unlink()
    save_file(changed, weights, metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match=r"model .*: model.safetensors is not as it was"):
        resume.check_model_unchanged(run, str(model), resume.fingerprint_model(str(model), None))


def test_the_command_compares_its_pairs(copied: Path, tmp_path: Path) -> None:
    lines = run_folder.read_json_lines(copied / "pairs.jsonl")
    run_folder.write_json_lines(copied / "pairs.jsonl", lines[1:])
    before = files_below(copied)
    with pytest.raises(SystemExit, match=r"error: the run was begun with 23 image pairs, now there are 24"):
        main(["--output_dir", str(copied), "--resume"])
    assert files_below(copied) == before


# ------------------------------------------------------------------------------------ what people do to a run


def refusal_of(run: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as refused:
        main(["--output_dir", str(run), "--resume", *words])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_fewer_iterations_than_are_done_are_refused(copied: Path) -> None:
    before = files_below(copied)
    said = refusal_of(copied, "--iterations", "5")
    assert f"error: iterations=5, but {copied / 'checkpoint-6'} is of iteration 6" in said
    assert files_below(copied) == before


def test_another_number_of_processes_is_told(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "checkpoint-6" / "rng_state.pth").rename(copied / "checkpoint-6" / "rng_state_0.pth")
    (copied / "checkpoint-6" / "rng_state_1.pth").touch()
    game, args, model = parse(["--output_dir", str(copied), "--resume"])
    open_folder(args, resolved(game, args, model), copied / "checkpoint-6")
    assert "resumed on 1 processes (was 2)" in capsys.readouterr().err


@pytest.mark.fault("options changed")
def test_options_that_were_edited_in_the_runs_own_file_are_refused(copied: Path) -> None:
    file = copied / "config.yaml"
    file.write_text(file.read_text().replace("\nseed: 3\n", "\nseed: 2\n"))
    before = files_below(copied)
    said = refusal_of(copied)
    assert f"checkpoint-6 was saved with seed=3, {file} has seed=2" in said
    assert files_below(copied) == before


@pytest.mark.fault("file of a checkpoint damaged")
def test_a_checkpoint_of_another_run_is_refused(copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(copied, other)
    (other / "config.yaml").write_text((copied / "config.yaml").read_text().replace("\nseed: 3\n", "\nseed: 4\n"))
    run_folder.mark_complete(other / "checkpoint-6")
    shutil.rmtree(copied / "checkpoint-6")
    shutil.copytree(other / "checkpoint-6", copied / "checkpoint-6")
    assert "is of another run, or that file was edited" in refusal_of(copied)


@pytest.mark.fault("file of a checkpoint damaged")
def test_nothing_is_removed_where_a_copy_left_the_marks_out(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in copied.glob("checkpoint-*/COMPLETE"):
        path.unlink()
    before = files_below(copied)
    assert "checkpoint-5, checkpoint-6 have no COMPLETE, as if a copy had left it out" in refusal_of(copied)
    assert files_below(copied) == before
    run_folder.mark_complete(copied / "checkpoint-5")
    run_folder.rewind(copied, copied / "checkpoint-5")  # one without is what a kill leaves
    assert "checkpoint-6 has no COMPLETE: kept in set_aside/" in capsys.readouterr().err
    assert (copied / "set_aside" / "checkpoint-6" / "model.safetensors").is_file()
    run_folder.verify(copied / "checkpoint-5")


def test_a_template_file_that_was_edited_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "words.txt"
    shutil.copyfile(ROOT / "src" / "vision_zero" / "game" / "templates" / "compact.txt", template)
    run = tmp_path / "run"
    train_well(run, iterations=1, save_steps=1, template=template)
    template.write_text(template.read_text() + "\n")
    assert f"{template} is not as it was when the run was begun" in refusal_of(run, "--iterations", "2")


def test_files_beside_those_of_the_games_are_none_of_them(copied: Path) -> None:
    copy = shutil.copyfile(copied / "games" / "step-000001.jsonl", copied / "games" / "step-000001 (copy).jsonl")
    assert [step for step, _ in run_folder.recorded(copied)["games"]] == list(range(6))
    run_folder.rewind(copied, copied / "checkpoint-5")
    assert copy.is_file()


def test_a_checkpoint_on_another_disk_is_unlinked_and_not_removed(copied: Path, tmp_path: Path) -> None:
    (copied / "checkpoint-5").rename(tmp_path / "elsewhere")
    (copied / "checkpoint-5").symlink_to(tmp_path / "elsewhere")
    run_folder.rotate(copied, 1)
    assert checkpoints(copied) == ["checkpoint-6"]
    run_folder.verify(tmp_path / "elsewhere")


def test_a_damaged_export_is_made_again(copied: Path) -> None:
    weights = copied / "checkpoint-6" / "export" / "model.safetensors"
    whole = weights.read_bytes()
    DAMAGES["flipped"](weights, whole)
    finished = train_well(copied, **LONG, resume=True)
    assert "export is damaged: model.safetensors has other bytes than were saved; it is made again" in finished.output
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("there", ["a run", "a checkpoint", "a file", "inside"])
def test_an_export_replaces_nothing(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    (tmp_path / "file").write_text("kept")
    places = {"a run": copied, "a checkpoint": copied / "checkpoint-5", "a file": tmp_path / "file"}
    target = places.get(there, copied / "checkpoint-5" / "hf")
    before = files_below(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", str(copied / "checkpoint-6"), str(target)])
    with pytest.raises(SystemExit, match="is inside a checkpoint" if there == "inside" else "is there already"):
        export.main()
    assert files_below(tmp_path) == before
