"""Options that follow from others, and options that are refused, each by name and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig

from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.spo.stages import CycleStages, FixedStage, StageSwitch


def config(tmp_path: Path, **options: Any) -> IterativeSPOConfig:
    return IterativeSPOConfig(
        **{
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": [],
            "games_per_iteration": 6,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "iterations": 10,
            **options,
        }
    )


@pytest.mark.parametrize(
    ("options", "processes", "steps_per_generation", "accumulation", "max_steps"),
    [
        # 6 games x 4 votes = 24 rows; / 8 rows per micro-batch = 3 micro-batches, one optimizer step per iteration
        ({}, 1, 3, 3, 10),
        # on 3 processes 8 rows each: one micro-batch
        ({}, 3, 1, 1, 10),
        # 24 / 4 = 6 micro-batches, 2 updates of 3 per iteration
        ({"per_device_train_batch_size": 4, "updates_per_iteration": 2, "save_steps": 2}, 1, 6, 3, 20),
        # every batch twice: 3 micro-batches, 2 optimizer steps per iteration
        ({"num_iterations": 2, "save_steps": 2}, 1, 3, 3, 20),
    ],
)
def test_steps_follow_from_games_and_processes(
    options: dict[str, Any],
    processes: int,
    steps_per_generation: int,
    accumulation: int,
    max_steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What TRL adds would wait for the other processes.
    monkeypatch.setattr(GRPOConfig, "__post_init__", lambda self: None)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    args = config(tmp_path, **options)
    assert args.steps_per_generation == steps_per_generation
    assert args.gradient_accumulation_steps == accumulation
    assert args.max_steps == max_steps
    rows = 24 // processes
    assert args.per_device_train_batch_size * args.steps_per_generation == rows


@pytest.mark.parametrize(
    ("options", "save_steps"),
    [
        ({"save_every": 5}, 5),
        ({"save_every": 5, "updates_per_iteration": 3, "per_device_train_batch_size": 4}, 15),
        ({"save_every": 1, "num_iterations": 2}, 2),
        ({"save_every": 5, "save_steps": 7}, 5),
        ({"save_steps": 7}, 7),
    ],
)
def test_save_every_counts_iterations(options: dict[str, Any], save_steps: int, tmp_path: Path) -> None:
    args = config(tmp_path, **options)
    assert args.save_steps == save_steps
    assert args.save_every is None  # config.yaml has save_steps, and a resumed run may be given either


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"games_per_iteration": 0}, "games_per_iteration=0 must be at least 1"),
        ({"updates_per_iteration": -1}, "updates_per_iteration=-1 must be at least 1"),
        ({"rollout_batch_size": 0}, "rollout_batch_size=0 must be at least 1"),
        ({"export_every": -1}, "export_every=-1 must be at least 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        ({"num_generations": 0}, "num_generations=0 must be at least 2"),
        ({"num_iterations": 0}, "num_iterations=0 must be at least 1"),
        ({"save_every": 0}, "save_every=0 must be at least 1"),
        ({"save_steps": 0}, "save_steps=0 must be at least 1"),
        ({"save_steps": 1.5}, "save_steps=1.5 must be a whole number"),
        ({"per_device_train_batch_size": 7}, "24 rows per iteration"),
        ({"per_device_train_batch_size": 8, "updates_per_iteration": 2}, "24 rows per iteration"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2, but it follows"),
        ({"steps_per_generation": 2}, "steps_per_generation=2, but it follows"),
        ({"max_steps": 5}, "max_steps=5, but it follows from the other options and would be 10"),
        ({"generation_batch_size": 24}, "generation_batch_size=24 is not used"),
        ({"num_iterations": 2, "save_steps": 3}, "save_steps=3 falls inside an iteration of 2 optimizer steps"),
        ({"save_strategy": "epoch"}, "save_strategy=epoch is not supported"),
        ({"save_strategy": "best"}, "save_strategy=best is not supported"),
        ({"loss_type": "dr_grpo"}, "loss_type='dr_grpo' is not supported"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch' is not supported"),
        ({"use_vllm": True, "vllm_mode": "serve"}, "vllm_mode=serve must be one of colocate, server"),
        ({"use_vllm": True, "vllm_mode": "server", "vllm_dtype": "float32"}, "--dtype of run_scripts/vllm_server.sh"),
        (
            {"use_vllm": True, "vllm_mode": "server", "vllm_block_size": 8},
            "vllm_block_size=8 is for vllm_mode=colocate",
        ),
        ({"vllm_request_timeout": 0.5}, "vllm_request_timeout=0.5 must be at least 1"),
        ({"min_p": 0.1}, "min_p=0.1 is not supported: games are sampled by"),
        ({"reward_weights": [1.0, 2.0]}, "use format_weight"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint=x is not supported: --resume"),
        ({"save_only_model": True}, "save_only_model=True is not supported"),
        ({"ignore_data_skip": True}, "ignore_data_skip=True is not supported"),
        ({"logging_strategy": "no"}, "logging_strategy must be steps"),
        ({"eval_strategy": "steps"}, "eval_strategy=steps would move the stage averages"),
        ({"max_completion_length": 64}, "max_completion_length=64 is not used"),
        ({"shuffle_dataset": True}, "shuffle_dataset=True must stay False"),
        ({"temperature": 0.0}, "temperature=0.0 must be at least 0.01"),
        ({"output_dir": "runs/\udce9"}, "is not UTF-8"),
        ({"temperature": 1e-9}, "temperature=1e-09 must be at least 0.01"),
        ({"adam_epsilon": 0.0}, "adam_epsilon=0.0 must be at least 1e-15"),
        ({"arena_games": 7}, "arena_games=7 must be even"),
        ({"past_players": 0.5}, "past_players=0.5 needs past_role: voter, civilian, spy or clue"),
        ({"past_role": "voter"}, "past_role=voter has no effect without past_players: give both"),
        ({"past_model": "runs/x"}, "past_model=runs/x has no effect without past_players: give both"),
        ({"past_players": 1.5, "past_role": "spy"}, "past_players=1.5 must be at most 1"),
        ({"past_players": 1e-9, "past_role": "spy"}, "past_players=1e-09 is less than one of the run's 60 games"),
        ({"past_players": -0.5, "past_role": "spy"}, "past_players=-0.5 must be at least 0"),
        ({"past_players": 0.5, "past_role": "both"}, "past_role=both must be one of voter, clue, civilian, spy"),
        (
            {"past_players": 0.5, "past_role": "voter", "schedule": "decision"},
            "schedule=decision has no clue stages, in which past_role=voter plays",
        ),
        (
            {"past_players": 0.5, "past_role": "spy", "schedule": "clue"},
            "schedule=clue has no decision stages, in which past_role=spy plays",
        ),
        (
            {"past_players": 0.5, "past_role": "clue", "train_stages": "both"},
            "train_stages=both trains on clues and votes of all games",
        ),
        (
            {"past_players": 0.9, "past_role": "clue"},
            "past_players=0.9 leaves iterations without a game of the policy alone, which the stage's averages count: "
            "of 6 games give at most 0.8333, or all (1)",
        ),
        ({"past_players": 0.6667, "past_role": "clue", "games_per_iteration": 3}, "of 3 games give at most 0.6666, or"),
        ({"past_players": 0.5, "past_role": "clue", "games_per_iteration": 1}, "of 1 games give 1"),
        (
            {"past_players": 0.5, "past_role": "spy", "rae_stages": "always"},
            "rae_stages=always moves the baselines by clues of past_role=spy",
        ),
        (
            {"past_players": 0.5, "past_role": "clue", "use_vllm": True, "vllm_tensor_parallel_size": 2},
            "vllm_tensor_parallel_size=2 is an engine that its processes must ask equally often",
        ),
        ({"min_clue_tokens": 9, "max_clue_tokens": 8}, "9 and 8"),
        ({"max_vote_tokens": 0}, "token limits"),
        ({"top_p": 0.0}, "top_p"),
        ({"rho": 1.5}, "rho"),
        ({"rae_alpha": -0.1}, "alpha"),
        ({"schedule": "alternating"}, "alternating"),
        ({"schedule": "cycle", "cycle_clue": 0}, "cycle"),
        ({"beta": -0.1}, "beta=-0.1 must be at least 0"),
        ({"kl_clue": -0.1}, "kl_clue=-0.1 must be at least 0"),
        ({"deepspeed": "none"}, "deepspeed=none is no file; leave it out to train without ZeRO"),
        (
            {
                "use_vllm": True,
                "vllm_mode": "server",
                "vllm_server_base_url": "http://a:1",
                "vllm_server_port": 8100,
            },
            "vllm_server_port=8100 has no effect with vllm_server_base_url",
        ),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number"),
    ],
)
def test_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        config(tmp_path, **options)
    assert message in str(refused.value)


@pytest.mark.parametrize("schedule", ["iterative", "cycle"])
@pytest.mark.parametrize(("role", "stage"), [("voter", "clue"), ("clue", "decision"), ("spy", "decision")])
def test_past_players_act_in_the_stage_that_does_not_train_them(
    schedule: str, role: str, stage: str, tmp_path: Path
) -> None:
    for share in (0.1, 0.8333, 1.0):
        assert config(tmp_path, schedule=schedule, past_players=share, past_role=role).past_stage == stage


def test_games_that_processes_cannot_share_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="games_per_iteration=6 cannot be shared evenly by 4 processes"):
        config(tmp_path)


def test_a_cpu_trains_in_float32_and_has_no_number(tmp_path: Path) -> None:
    args = config(tmp_path)
    assert args.bf16 is False
    assert args.device == torch.device("cpu")
    assert args.device.index is None


def test_each_stage_has_its_kl_weight_and_its_lengths(tmp_path: Path) -> None:
    same = config(tmp_path, beta=0.1)
    assert (same.kl_weight("clue"), same.kl_weight("decision")) == (0.1, 0.1)
    own = config(tmp_path, kl_clue=0.0, kl_decision=0.2, min_clue_tokens=2, max_clue_tokens=9, max_vote_tokens=5)
    assert (own.kl_weight("clue"), own.kl_weight("decision")) == (0.0, 0.2)
    token_limits = own.token_limits()
    assert (token_limits["clue"].minimum, token_limits["clue"].maximum) == (2, 9)
    assert (token_limits["decision"].minimum, token_limits["decision"].maximum) == (0, 5)
    assert own.max_completion_length == 9


def test_server_options(tmp_path: Path) -> None:
    usual = config(tmp_path, vllm_server_host="10.0.0.7", vllm_server_port=8100, vllm_server_timeout=9.0)
    (options,) = usual.server_options()
    assert (options.url, options.start_timeout, options.silence_timeout) == ("http://10.0.0.7:8100", 9.0, 300.0)
    assert options.requests_at_once == 24, "all votes of a process"
    (given,) = config(tmp_path, vllm_server_base_url="http://node:1/", vllm_max_num_seqs=5).server_options()
    assert (given.url, given.requests_at_once) == ("http://node:1", 5)
    (many,) = config(tmp_path, games_per_iteration=600).server_options()
    assert many.requests_at_once == 512
    both = config(tmp_path, vllm_server_base_url="http://a:1/, http://b:2").server_options()
    assert [(one.url, one.group_port) for one in both] == [("http://a:1", 51216), ("http://b:2", 51217)]


def test_schedules(tmp_path: Path) -> None:
    assert isinstance(config(tmp_path).make_schedule(), StageSwitch)
    assert isinstance(config(tmp_path, schedule="cycle").make_schedule(), CycleStages)
    for stage in ("clue", "decision"):
        schedule = config(tmp_path, schedule=stage).make_schedule()
        assert isinstance(schedule, FixedStage)
        assert schedule.stage == stage
    endless = config(tmp_path, patience=0, acc_up=0.99, k_min=1).make_schedule()
    assert [endless.update(0.5, 0.0) for _ in range(50)] == ["decision"] * 50, "patience=0 never forces a switch"


def test_rules_take_every_option_of_the_game() -> None:
    game = GameConfig(civilians=3, rounds=1, spy_view="masked", mask_share=0.25, voter="civilian")
    rules = game.rules(6)
    assert (rules.n_civilians, rules.n_rounds, rules.n_votes) == (3, 1, 6)
    assert (rules.spy_view, rules.mask_share, rules.voter) == ("masked", 0.25, "civilian")
