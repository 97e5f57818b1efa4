"""Past players: which games have one, that none trains and nothing else moves, and that a run with them is exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.process_helpers import BENCH_MODEL, ROOT, TINY_VLM, games, metrics, train, train_well
from tests.trainer.test_distributed import assert_same_games, assert_same_metrics
from tests.trainer_helpers import make_trainer, one_step, record_rollouts
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.evaluate.win_rate.callback import ArenaCallback
from vision_zero.models import load_processor
from vision_zero.rollout.load_policy import Loading, load_player
from vision_zero.rollout.play import Rollout, Seating, play
from vision_zero.rollout.policy import Policy, TokenLimits, TokenLimitsByStage, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.run_folder import read_json_lines
from vision_zero.trainer.frozen_players import SEATS, has_past_player
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer, every_role
from vision_zero.types import Completion, Game, Stage

PIXELS = 56 * 56
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
KINDS = {
    "full, reference": {"beta": 0.04},
    "full, copy": {"beta": 0.0},
    "LoRA, KL": {"beta": 0.04, "peft_config": LORA},
    "LoRA": {"beta": 0.0, "peft_config": LORA},
}
IN_TURN: dict[str, Any] = {"schedule": "cycle", "cycle_decision": 1, "cycle_clue": 1}


def tiny_trainer(folder: Path, **options: Any) -> IterativeSPOTrainer:
    """Iterations of four games of the tiny model, which speaks the game, on drawings; one iteration per stage."""
    return make_trainer(
        folder,
        model=TINY_VLM,
        processor=load_processor(str(TINY_VLM), max_pixels=PIXELS),
        pairs=drawn_pairs(range(4)),
        players=options.pop("players", every_role),
        **{
            "games": 4,
            "iterations": 2,
            "max_clue_tokens": 8,
            "max_vote_tokens": 8,
            "learning_rate": 1e-3,
            **IN_TURN,
            **options,
        },
    )


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights, which says other things."""
    copy = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(TINY_VLM, copy)
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: weight + 0.3 * weight.std() * torch.randn(weight.shape, generator=generator).to(weight.dtype)
        for name, weight in load_file(copy / "model.safetensors").items()
    }
    save_file(moved, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


# ---------------------------------------------------------------------------------------------------------- which games


@pytest.mark.parametrize(
    ("share", "first"),
    [("0.1", [9, 19, 29]), ("0.25", [3, 7, 11]), ("1/3", [2, 5, 8]), ("0.7", [1, 2, 4]), ("1", [0, 1, 2])],
)
def test_games_by_hand(share: str, first: list[int]) -> None:
    assert [game for game in range(31) if has_past_player(game, Fraction(share))][:3] == first


@given(st.fractions(0, 1, max_denominator=1000), st.integers(0, 10**6), st.integers(1, 256))
def test_the_share_is_exact_in_every_run_of_games(share: Fraction, start: int, n: int) -> None:
    found = sum(has_past_player(game, share) for game in range(start, start + n))
    assert found in (floor(n * share), floor(n * share) + 1)
    assert found == floor((start + n) * share) - floor(start * share)


# ------------------------------------------------------------------------------------------------------ who says what


@cache
def published() -> Policy:
    return load_player(str(TINY_VLM), Loading(Sampling(), max_pixels=PIXELS))


def start_says(game: Game, role: str) -> Game:
    """The turns of `role`, said again by the start model as it is published, the other turns as they were."""

    class Recorded:
        def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
            said = {one.turn: one.completion for one in (*game.clues, *game.votes)}
            return [said[request.turn] for request in requests]

    seating = replace(Seating.of(Recorded()), **dict.fromkeys(SEATS[role], published()))
    limits: TokenLimitsByStage = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}
    return play([replace(game, clues=(), votes=())], seating, limits, template="compact").games[0]


def tokens(game: Game) -> list[tuple[int, ...]]:
    return [said.completion.token_ids for said in (*game.clues, *game.votes)]


@pytest.mark.parametrize("role", ["voter", "clue"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_played_as_it_was_and_does_not_move(kind: str, role: str, tmp_path: Path) -> None:
    acts = 1 if role == "voter" else 2  # when weights have moved
    options = {"past_players": 0.5, "past_role": role, "iterations": acts + 1, "learning_rate": 5e-3}
    trainer = tiny_trainer(tmp_path, **options, **KINDS[kind])
    past = trainer.past.player.policy.model
    before = {name: weight.clone() for name, weight in past.named_parameters() if "lora_" not in name}
    rollouts = record_rollouts(trainer)
    trainer.train()
    frozen = [[one.completion.frozen for one in (*game.clues, *game.votes)] for game in rollouts[acts].games]
    assert [sum(said) for said in frozen] == ([0, 4, 0, 4] if role == "voter" else [0, 3, 0, 3])
    for game in rollouts[acts].games[1::2]:
        assert tokens(start_says(game, role)) == tokens(game)
    if role == "voter":
        said = [one.completion.frozen for game in rollouts[0].games for one in (*game.clues, *game.votes)]
        assert not any(said), "in the decision stage"
    assert all(torch.equal(weight, before[name]) for name, weight in past.named_parameters() if name in before)
    assert all(weight.grad is None for name, weight in past.named_parameters() if name in before)
    if past is not trainer.model:
        assert not any(torch.equal(w, before[n]) for n, w in trainer.model.named_parameters() if w.requires_grad)


def test_arena_and_past_players_share_one_copy(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, past_players=0.5, past_role="voter", beta=0.0)
    copy = trainer.past.player.policy.model
    assert ArenaCallback(trainer, None).start.model is copy  # type: ignore[arg-type]
    assert copy is not trainer.model


@pytest.mark.parametrize(("kind", "words"), [
    ("full, reference", "the reference model, no further memory"),
    ("full, copy", f"a frozen copy of {TINY_VLM}, 0.01 GB"),
    ("LoRA", "the policy without its adapter, no further memory"),
])  # fmt: skip
def test_memory_is_said_once(kind: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_trainer(tmp_path, past_players=0.5, past_role="voter", **KINDS[kind])
    assert capsys.readouterr().err.count(f"past players: {words}") == 1


# ---------------------------------------------------------------------------------------------------------- no gradient


class Repeats:
    """Answers in `games` what was said there, without tokens; else as `policy` does."""

    def __init__(self, policy: Policy, games: Iterable[Game]) -> None:
        self.policy = policy
        self.said = {one.turn: one.completion.text for game in games for one in (*game.clues, *game.votes)}

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        asked = [request for request in requests if request.turn not in self.said]
        new = iter(self.policy.answer(asked) if asked else [])
        return [Completion(self.said[request.turn]) if request.turn in self.said else next(new) for request in requests]


@pytest.mark.parametrize(
    ("stage", "role", "kind"),
    [
        *(("clue", "voter", kind) for kind in KINDS),
        ("decision", "clue", "full, reference"),
        ("decision", "spy", "LoRA"),
    ],
)
def test_the_update_is_that_of_the_same_games_with_scripted_players(
    stage: Stage, role: str, kind: str, other_model: Path, tmp_path: Path
) -> None:
    options = {"schedule": stage, "iterations": 1, **KINDS[kind]}
    past = {"past_players": 0.5, "past_role": role, "past_model": str(other_model)}
    trainer = tiny_trainer(tmp_path / "past", **options, **past)
    played = one_step(trainer)
    said = [one.completion for game in played.rollout.games for one in (*game.clues, *game.votes)]
    assert 0 < sum(one.frozen for one in said) < len(said)
    assert trainer.past.player.policy.model is not trainer.start.model

    def scripted(policy: Policy, stage: Stage) -> Seating:
        repeats = Repeats(policy, played.rollout.games[1::2])
        return replace(Seating.of(policy), **dict.fromkeys(SEATS[role], repeats))

    same = one_step(tiny_trainer(tmp_path / "scripted", players=scripted, **options))
    assert played.gradient.keys() == same.gradient.keys()
    assert any(gradient.any() for gradient in played.gradient.values())
    for name, gradient in played.gradient.items():
        assert torch.equal(gradient, same.gradient[name]), name
    assert played.log["loss"] == same.log["loss"]
    if kind == "full, reference":
        own = one_step(tiny_trainer(tmp_path / "own", **options))
        assert any(not torch.equal(g, own.gradient[name]) for name, g in played.gradient.items()), "nobody else played"


def test_a_past_completion_that_would_be_trained_on_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tmp_path, schedule="clue", past_players=0.5, past_role="voter", iterations=1)
    monkeypatch.setattr(IterativeSPOConfig, "past_stage", "decision")
    trainer.schedule.stage = "decision"
    with pytest.raises(RuntimeError, match="game 1: a decision completion of a frozen player would be trained on"):
        trainer.train()


def test_a_past_player_holds_no_cache_while_the_policy_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tmp_path, schedule="clue", past_players=0.5, past_role="voter", iterations=1)
    player, replay, held = trainer.past.player.policy, trainer._replay, []

    def watched(*arguments: Any) -> Any:
        held.append((len(player._prefixes._by_image), len(player._features)))
        return replay(*arguments)

    monkeypatch.setattr(trainer, "_replay", watched)
    trainer.train()
    assert held == [(0, 0)]
    assert trainer.state.log_history[0]["past/games"] == 0.5


def test_a_frozen_tower_hands_a_copy_its_images_by_number(tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": "clue", "iterations": 1, "beta": 0.0, "freeze_vision": True}
    trainer = tiny_trainer(tmp_path, past_players=0.5, past_role="voter", **options)
    rollout = record_rollouts(trainer)
    trainer.train()
    assert [tokens(game) for game in rollout[0].games[1::2]] == [
        tokens(start_says(game, "voter")) for game in rollout[0].games[1::2]
    ]


# ------------------------------------------------------------------------------------------------- what is not touched


def without_times(trainer: IterativeSPOTrainer) -> list[dict[str, Any]]:
    times = ("seconds/", "step_time", "train_")
    return [{k: v for k, v in log.items() if not k.startswith(times)} for log in trainer.state.log_history]


def test_the_other_stage_is_that_of_a_run_without(tmp_path: Path) -> None:
    """Token by token, and in every number but `past/games`; without a share there is no such number, and no model."""
    runs = [
        tiny_trainer(tmp_path / str(share), iterations=1, past_players=share, past_role="voter" if share else None)
        for share in (0.0, 1.0)
    ]
    rollouts = [record_rollouts(run) for run in runs]
    for run in runs:
        run.train()
    (without,), (with_past,) = rollouts
    assert [tokens(game) for game in without.games] == [tokens(game) for game in with_past.games]
    plain, logged = (without_times(run)[0] for run in runs)
    assert logged.pop("past/games") == 0
    assert plain == logged
    assert not hasattr(runs[0].past, "player")
    assert all(line["past"] is None for run in runs for line in recorded(Path(run.args.output_dir), 0))


def recorded(run: Path, step: int) -> list[dict[str, Any]]:
    return read_json_lines(run / "games" / f"step-{step:06d}.jsonl")


def test_the_averages_count_games_of_the_policy_alone(other_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "schedule": "clue",
        "iterations": 1,
        "past_role": "voter",
        "past_model": str(other_model),
    }
    for share, own in ((0.5, [0, 2]), (1.0, [0, 1, 2, 3])):
        trainer = tiny_trainer(tmp_path / str(share), past_players=share, **options)
        rollout: list[Rollout] = record_rollouts(trainer)
        trainer.train()
        log, lines = trainer.state.log_history[0], recorded(tmp_path / str(share), 0)
        votes = [line["outcome"] for line in lines]
        right = [sum(vote == line["spy"] for vote in line["outcome"]) for line in lines]
        assert log["stage/na_rate"] == sum(votes[game].count(None) for game in own) / (4 * len(own))
        assert log["stage/accuracy_average"] == pytest.approx(0.05 * log["stage/accuracy"])
        assert log["past/games"] == share
        past = [game for game in range(4) if lines[game]["past"]]
        assert past == ([1, 3] if share < 1 else own)
        assert log["past/votes_right"] == sum(right[game] for game in past) / (4 * len(past))
        assert log["votes/right"] == sum(right) / 16, "the other figures count all games"
        assert lines[1]["past"] == {"role": "voter", "model": str(other_model)}
        assert [game.index for game in rollout[0].games] == [0, 1, 2, 3]


# --------------------------------------------------------------------------------------------------------- whole runs


PAST: dict[str, Any] = {"past_players": 0.5, "past_role": "voter"}


def test_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    """From the end of the decision stage: the clue stage's past voters are the same, and still the start."""
    saving = {"save_strategy": "steps", "save_steps": 1, **PAST, "learning_rate": 0.02}
    whole = tiny_trainer(tmp_path / "run", **saving)
    whole.train()
    first = recorded(tmp_path / "run", 1)
    assert [line["past"] for line in first] == [None, {"role": "voter", "model": "start"}] * 2
    resumed = tiny_trainer(tmp_path / "run", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    again = recorded(tmp_path / "run", 1)
    for game in (*first, *again):
        for said in (*game["clues"], *game["votes"]):
            del said["seconds"]
    assert first == again
    assert without_times(whole)[1] == without_times(resumed)[1]
    theirs = dict(resumed.model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in whole.model.named_parameters())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    train_well(run, **PAST)
    return run


def test_two_processes_play_the_games_of_one(one_process: Path, tmp_path: Path) -> None:
    train_well(tmp_path / "two", processes=2, per_device_train_batch_size=2, **PAST)
    assert_same_games(one_process, tmp_path / "two")
    assert_same_metrics(one_process, tmp_path / "two")
    assert [line["past/games"] for line in metrics(one_process)] == [0, 0.5, 0, 0.5]
    played = [[game["past"] is not None for game in games] for games in games(one_process).values()]
    assert played == [[False] * 4, [False, True] * 2] * 2


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_split_weights_play_the_games_of_one_process(lora: bool, tmp_path: Path) -> None:
    """ZeRO-3 splits the past player, here the reference model or the policy without its adapter."""
    options = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]} if lora else {}
    train_well(tmp_path / "one", **PAST, **options)
    zero3 = ROOT / "configs" / "deepspeed" / "zero3.json"
    train_well(tmp_path / "two", processes=2, per_device_train_batch_size=2, deepspeed=zero3, **PAST, **options)
    assert_same_games(tmp_path / "one", tmp_path / "two")
    assert_same_metrics(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_an_engine_plays_beside_a_past_player(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    finished = train_well(
        tmp_path / "run", use_vllm=True, vllm_max_model_length=1024, vllm_block_size=32, iterations=2, **PAST
    )
    assert "past players: the reference model" in finished.output
    first, second = metrics(tmp_path / "run")
    assert (first["past/games"], second["past/games"]) == (0, 0.5)
    assert second["rollout/calls"] == 3 + 2, "lock-step: three clues, and the votes of two players"


def test_a_run_is_a_past_model_by_its_last_checkpoint(one_process: Path, tmp_path: Path) -> None:
    run, past = tmp_path / "run", tmp_path / "past"
    shutil.copytree(one_process, past)
    options = {"past_players": 0.25, "past_role": "clue", "past_model": past, "iterations": 1, "save_steps": 1}
    finished = train_well(run, **options)
    last = str(past / "checkpoint-4")
    assert f"past players: a frozen copy of {last}, 0.01 GB" in finished.output
    (lines,) = games(run).values()
    assert [line["past"] for line in lines] == [None, None, None, {"role": "clue", "model": last}]

    changed = train(run, iterations=2, resume=True, past_players=0.5)
    assert "was started with past_players=0.25 and cannot go on with past_players=0.5" in changed.output
    other = train(run, iterations=2, resume=True, past_model=str(BENCH_MODEL))
    assert f"was started with past_model={last} and cannot go on with past_model={BENCH_MODEL}" in other.output
    with (past / "checkpoint-4" / "config.json").open("a") as file:
        file.write(" ")
    moved = train(run, iterations=2, resume=True)
    assert moved.status == 1
    assert "config.json" in moved.output
    assert json.loads((run / "model.json").read_text())["past_model/config.json"]
