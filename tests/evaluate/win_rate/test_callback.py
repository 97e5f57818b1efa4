"""The arena in real training runs: it changes nothing of them, its opponent is frozen, it is resumed with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from tests.process_helpers import (
    TINY_VLM,
    assert_same_run,
    flags,
    kill,
    metrics,
    running,
    train_well,
    wait_for,
)
from tests.trainer_helpers import make_trainer
from vision_zero.config.game import GameConfig
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.evaluate.win_rate import callback
from vision_zero.evaluate.win_rate.callback import HIGH, LOGGED, LOW, SECONDS, ArenaCallback, training_arena
from vision_zero.models import load_processor
from vision_zero.run_folder import read_json_lines, rewind
from vision_zero.spo.alarms import Alarm
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer, every_role

ROOT = Path(__file__).resolve().parents[3]
GAME = GameConfig(civilians=2, rounds=1, template="compact")
ONE_HALF = [0.5, 0.146201, 0.853799]
"""Three pairs were alike, so at most 1 - 0.025^(1/3) = 0.7076 of all pairs are not: half of it to each side."""
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
TIMINGS = ("seconds/", "step_time", "train_runtime", "train_samples", "train_steps")


def tiny_trainer(folder: Path, *, arena: bool = True, **options: Any) -> IterativeSPOTrainer:
    """Four iterations of two games of the tiny model on drawings, watched by an arena of 6 games every other one."""
    trainer = make_trainer(
        folder,
        model=TINY_VLM,
        processor=load_processor(str(TINY_VLM), max_pixels=56 * 56),
        pairs=drawn_pairs(range(4)),
        players=every_role,
        **{
            "iterations": 4,
            "max_clue_tokens": 8,
            "max_vote_tokens": 8,
            "learning_rate": 1e-3,
            "arena_every": 2,
            "arena_games": 6,
            "arena_images": ["drawn:4@heldout"],
            **options,
        },
    )
    if arena:
        built = training_arena(GAME, trainer.args)
        assert built is not None
        trainer.add_callback(ArenaCallback(trainer, built))
    return trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    found = read_json_lines(folder / "arena.jsonl")
    for line in found:
        assert line.pop("seconds") > 0
    return found


def logs(trainer: IterativeSPOTrainer) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in log.items() if not name.startswith((*TIMINGS, "arena/"))}
        for log in trainer.state.log_history
    ]


def test_a_run_with_an_arena_is_the_run_without(tmp_path: Path) -> None:
    watched, alone = tiny_trainer(tmp_path / "watched"), tiny_trainer(tmp_path / "alone", arena=False)
    watched.train()
    alone.train()
    assert logs(watched) == logs(alone)
    theirs = dict(alone.model.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in watched.model.named_parameters())
    assert not (tmp_path / "alone" / "arena.jsonl").exists()

    found = lines(tmp_path / "watched")
    assert [line["step"] for line in found] == [0, 2, 4]
    assert found[0]["figures"]["win_rate"] == ONE_HALF
    assert found[0]["start"] == found[1]["start"] == found[2]["start"], "the frozen model moved"
    assert found[0]["figures"] != found[1]["figures"] != found[2]["figures"], "the policy did not move"
    logged = {log["step"]: log for log in watched.state.log_history if "loss" in log}
    names = {*(f"arena/{name}" for name in LOGGED), LOW, HIGH, SECONDS}
    for step, line in zip((2, 4), found[1:], strict=True):
        assert names <= logged[step].keys()
        assert logged[step]["arena/win_rate"] == pytest.approx(line["figures"]["win_rate"][0], abs=1e-6)
    assert not names & logged[1].keys()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"beta": 0.04}, id="against the reference model"),
        pytest.param({"beta": 0.0}, id="against a copy"),
        pytest.param({"beta": 0.04, "peft_config": LORA}, id="against the policy without its adapter"),
    ],
)
def test_what_does_not_learn_wins_exactly_half(tmp_path: Path, options: dict[str, Any]) -> None:
    """The policy and its frozen start are two players here; with equal weights they play equal games."""
    tiny_trainer(tmp_path, iterations=2, learning_rate=0.0, **options).train()
    first, last = lines(tmp_path)
    assert last["figures"]["win_rate"] == ONE_HALF
    assert last["figures"] == first["figures"]


def test_the_start_of_a_lora_run_is_the_model_without_its_adapter(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, peft_config=LORA, learning_rate=0.05, beta=0.0, iterations=2, arena_every=1)
    trainer.train()
    first, _, last = lines(tmp_path)
    assert last["start"] == first["start"]
    assert last["figures"] != first["figures"]
    assert all(p.requires_grad for name, p in trainer.model.named_parameters() if "lora_" in name)


def test_there_must_be_pairs_that_are_not_trained_on(tmp_path: Path) -> None:
    args = tiny_trainer(tmp_path, arena=False, arena_images=[]).args
    with pytest.raises(ValueError, match="--holdout"):
        training_arena(GAME, args)
    heldout = training_arena(GameConfig(images=["drawn:10"], holdout=0.3), args)
    assert heldout is not None
    assert len({deal.pair.id for deal in heldout.deals}) == 3
    args.arena_images = ["drawn:4@2"]
    with pytest.raises(
        ValueError, match=r"--arena_images drawn:4@2: 2 of its 4 pairs are trained on, as drawn-2; give"
    ):
        training_arena(GAME, args, drawn_pairs(range(4)))
    assert training_arena(GAME, args, drawn_pairs(range(2))) is not None
    args.arena_every = 0
    assert training_arena(GAME, args) is None


def test_rewinding_drops_what_came_after(tmp_path: Path) -> None:
    (tmp_path / "arena.jsonl").write_text('{"step": 0}\n{"step": 2}\n{"step": 4}\n')
    rewind(tmp_path, tmp_path / "checkpoint-2")
    assert [line["step"] for line in read_json_lines(tmp_path / "arena.jsonl")] == [0, 2]
    rewind(tmp_path, None)
    assert read_json_lines(tmp_path / "arena.jsonl") == []


WATCHED: dict[str, Any] = {"arena_every": 1, "arena_games": 6, "arena_images": "drawn:4@heldout"}


def test_resumed_it_is_the_same_arena(tmp_path: Path) -> None:
    """Not from the start model but from a checkpoint: the opponent must still be the start."""
    saving = {"save_strategy": "steps", "save_steps": 1, "arena_every": 1, "iterations": 2}
    tiny_trainer(tmp_path, **saving).train()
    whole = lines(tmp_path)
    assert [line["step"] for line in whole] == [0, 1, 2]
    rewind(tmp_path, tmp_path / "checkpoint-1")
    assert len(lines(tmp_path)) == 2
    tiny_trainer(tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert lines(tmp_path) == whole


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_arena(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_well(whole, **WATCHED)
    with running(*flags(output_dir=run, **WATCHED)) as process:
        wait_for((run / "checkpoint-2" / "COMPLETE").exists, process)
        wait_for(lambda: len(read_json_lines(run / "arena.jsonl")) >= 4, process)
        kill(process)
    train_well(run, **WATCHED, resume=True)
    assert_same_run(run, whole, last=4)
    assert lines(run) == lines(whole)
    assert [line["step"] for line in lines(run)] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_two_processes_share_the_games(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, **WATCHED, iterations=1, per_device_train_batch_size=2)
    train_well(two, **WATCHED, iterations=1, per_device_train_batch_size=2, processes=2)
    assert lines(two)[0] == lines(one)[0]
    assert [line["step"] for line in lines(two)] == [0, 1]
    assert [round(m["arena/win_rate"], 6) for m in metrics(two)] == [lines(two)[1]["figures"]["win_rate"][0]]


@pytest.mark.slow
def test_split_weights_play_the_same_arena(tmp_path: Path) -> None:
    """ZeRO-3 splits both models over the processes; each gathers them and plays its own games."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, **WATCHED, iterations=1, per_device_train_batch_size=2)
    zero3 = ROOT / "configs" / "deepspeed" / "zero3.json"
    train_well(two, **WATCHED, iterations=1, per_device_train_batch_size=2, processes=2, deepspeed=zero3)
    assert lines(two)[0] == lines(one)[0]
    assert [line["step"] for line in lines(two)] == [0, 1]
    assert metrics(two)[0]["reward/vote"] == metrics(one)[0]["reward/vote"]  # and the run is the same


def test_one_pair_kept_out_is_refused_with_the_share_that_would_do(tmp_path: Path) -> None:
    args = tiny_trainer(tmp_path, arena=False, arena_images=[]).args
    few = replace(GAME, images=["drawn:12"], holdout=0.1)
    with pytest.raises(ValueError, match=r"--holdout 0\.1 keeps 1 of 12 pairs .* give --holdout 0\.17 or more"):
        training_arena(few, args, few.pairs("train"))
    enough = replace(few, holdout=0.17)
    assert training_arena(enough, args, enough.pairs("train")) is not None


def test_an_alarm_is_told_when_it_begins_to_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always = Alarm("always", "win_rate", "it is {:.2f}", above=-1.0)
    never = Alarm("never", "win_rate", "never", below_start=-1.0)
    monkeypatch.setattr(callback, "OF_THE_ARENA", (always, never))
    tiny_trainer(tmp_path, iterations=2).train()
    told = [line for line in capsys.readouterr().err.splitlines() if "warning: arena" in line]
    assert [line for line in told if "it is" in line] == [
        "warning: arena after iteration 0: it is 0.50, and go on from an earlier checkpoint (--resume_from)"
    ]
    assert not [line for line in told if "never" in line]
