"""What a training step does to the weights: its gradient against one written by hand, padding, stages, KL weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from tests.by_hand import HandStep, hand_rows, hand_step, largest_difference, row_logps
from tests.trainer_helpers import (
    BENCH_MODEL,
    GradientRecorder,
    Relabelled,
    Step,
    make_trainer,
    of_many_lengths,
    one_step,
    record_rollouts,
    relabelled,
    seeded_length,
)
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.play import Seating
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.trainer.samples import TrainingSample
from vision_zero.types import Completion, GameRules, Stage

STAGES: tuple[Stage, ...] = ("decision", "clue")
TEMPERATURE = 0.8
TOLERANCE = 1e-5
FIVE_PLAYERS = GameRules(n_civilians=4, n_rounds=2, n_votes=8)


def load_model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(BENCH_MODEL, dtype=torch.float32)


def move_policy(trainer: IterativeSPOTrainer) -> Any:
    """Change the policy's weights, so that it differs from the reference, and return a copy of it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    copy = load_model()
    copy.load_state_dict(trainer.model.state_dict())
    return copy


def by_hand(policy: Any, games: Sequence[Any], stage: Stage, kl_weight: float, loss_type: str) -> HandStep:
    return hand_step(
        policy,
        load_model(),
        AutoProcessor.from_pretrained(BENCH_MODEL),
        hand_rows(games, stage),
        temperature=TEMPERATURE,
        kl_weight=kl_weight,
        loss_type=loss_type,
    )


# ------------------------------------------------------------------------------------------------ against one by hand


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
@pytest.mark.parametrize("stage", STAGES)
def test_gradient_is_the_one_by_hand(tmp_path: Path, stage: Stage, kl_weight: float, loss_type: str) -> None:
    trainer = make_trainer(
        tmp_path, schedule=stage, beta=kl_weight, loss_type=loss_type, temperature=TEMPERATURE, players=of_many_lengths
    )
    policy = move_policy(trainer)
    step = one_step(trainer)
    hand = by_hand(policy, step.rollout.games, stage, kl_weight, loss_type)
    assert any(row.advantage for row in hand_rows(step.rollout.games, stage))
    assert largest_difference(step.gradient, hand.gradient)[0] < TOLERANCE
    assert step.log["loss"] == pytest.approx(hand.loss, abs=1e-6)
    assert step.log["entropy"] == pytest.approx(hand.entropy, rel=1e-5)
    if kl_weight:
        assert hand.kl > 0.01
        assert step.log["kl"] == pytest.approx(hand.kl, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_is_the_one_by_hand_from_every_seat(tmp_path: Path, stage: Stage) -> None:
    """Civilians vote from their seats, the spy sees a blank image, two rounds with private thoughts."""
    rules = GameRules(n_civilians=2, n_rounds=2, n_votes=4, voter="civilian", spy_view="blank")
    trainer = make_trainer(tmp_path, rules=rules, schedule=stage, temperature=TEMPERATURE, players=of_many_lengths)
    policy = move_policy(trainer)
    step = one_step(trainer)
    hand = by_hand(policy, step.rollout.games, stage, 0.04, "grpo")
    assert largest_difference(step.gradient, hand.gradient)[0] < TOLERANCE


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_update_uses_the_clipped_ratio(tmp_path: Path, stage: Stage) -> None:
    """The first game's rows make the first update, the second game's the second, with weights that have moved."""
    trainer = make_trainer(
        tmp_path,
        schedule=stage,
        updates_per_iteration=2,
        learning_rate=1e-2,
        temperature=TEMPERATURE,
        players=of_many_lengths,
    )
    sampled_by = move_policy(trainer)
    before: list[dict[str, torch.Tensor]] = []

    class WeightsRecorder(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: Any, **kwargs: Any) -> None:
            before.append({name: value.clone() for name, value in model.state_dict().items()})

    recorder, rollouts = GradientRecorder(), record_rollouts(trainer)
    trainer.add_callback(recorder)
    trainer.add_callback(WeightsRecorder())
    trainer.train()
    rows = hand_rows(rollouts[0].games, stage)
    half = len(rows) // 2
    moved = load_model()
    moved.load_state_dict(before[1])
    processor = AutoProcessor.from_pretrained(BENCH_MODEL)
    second = rows[half:]
    with torch.no_grad():
        ratios = torch.cat(
            [
                row_logps(moved, processor, row, TEMPERATURE) - row_logps(sampled_by, processor, row, TEMPERATURE)
                for row in second
            ]
        ).exp()
    assert ((ratios - 1).abs() > 0.2).any()
    for number, (policy, some) in enumerate(((sampled_by, rows[:half]), (moved, second))):
        hand = hand_step(
            policy,
            load_model(),
            processor,
            some,
            temperature=TEMPERATURE,
            kl_weight=0.04,
            loss_type="grpo",
            sampled_by=copy.deepcopy(sampled_by),
        )
        assert largest_difference(recorder.steps[number], hand.gradient)[0] < TOLERANCE, number


@pytest.mark.parametrize("stage", STAGES)
def test_logprobs_of_sampling_are_those_of_training(tmp_path: Path, stage: Stage) -> None:
    trainer = make_trainer(tmp_path, schedule=stage, temperature=TEMPERATURE, players=of_many_lengths)
    gaps = record_logprob_gaps(trainer)
    step = one_step(trainer)
    assert len(gaps) == 2
    assert max(gaps) < 1e-4
    said = step.rollout.games[0].clues if stage == "clue" else step.rollout.games[0].votes
    processor = AutoProcessor.from_pretrained(BENCH_MODEL)
    for one, row in zip(said, hand_rows(step.rollout.games, stage), strict=False):
        with torch.no_grad():
            by_forward = row_logps(load_model(), processor, row, TEMPERATURE)
        assert one.completion.logprobs == pytest.approx(by_forward.tolist(), abs=1e-4)


def record_logprob_gaps(trainer: IterativeSPOTrainer) -> list[float]:
    """The largest |log-prob of sampling - log-prob of the training forward| of every micro-batch."""
    gaps: list[float] = []
    forward, compute_loss = trainer._get_per_token_logps_and_entropies, trainer._compute_loss
    last: list[torch.Tensor] = []

    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        last.append(result[0].detach())
        return result

    def recording_loss(model: Any, inputs: dict[str, Any]) -> Any:
        loss = compute_loss(model, inputs)
        gap = (last[-1] - inputs["sampling_per_token_logps"]).abs()
        gaps.append(gap[inputs["completion_mask"].bool()].max().item())
        return loss

    trainer._get_per_token_logps_and_entropies = recording_forward
    trainer._compute_loss = recording_loss
    return gaps


# ------------------------------------------------------------------------------------------------------------ padding


def padded_step(tmp_path: Path, rules: GameRules, micro_batch: int, loss_type: str) -> tuple[Step, Any, list[int]]:
    """A clue step of one game, with a copy of the policy before it and the rows that TRL was given."""
    trainer = make_trainer(
        tmp_path,
        games=1,
        rules=rules,
        schedule="clue",
        loss_type=loss_type,
        per_device_train_batch_size=micro_batch,
        temperature=TEMPERATURE,
        players=of_many_lengths,
    )
    policy = move_policy(trainer)
    given: list[int] = []
    compute_loss = trainer._compute_loss

    def counting(model: Any, inputs: dict[str, Any]) -> Any:
        given.append(len(inputs["prompt_ids"]))
        return compute_loss(model, inputs)

    trainer._compute_loss = counting
    return one_step(trainer), policy, given


NOT_OF_TIME = ("seconds/", "step_time", "epoch", "rollout/", "learning_rate", "update/")


def comparable(log: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in log.items() if not name.startswith(NOT_OF_TIME)}


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize(
    ("rules", "n_clues", "n_rows"),
    [(FIVE_PLAYERS, 10, 16), (replace(FIVE_PLAYERS, n_rounds=1), 5, 8)],
    ids=["10 clues in 8 micro-batches", "micro-batches of padding alone"],
)
def test_padding_changes_nothing(tmp_path: Path, rules: GameRules, n_clues: int, n_rows: int, loss_type: str) -> None:
    padded, policy, given = padded_step(tmp_path / "padded", rules, 1, loss_type)
    assert (len(given), sum(given)) == (8, n_rows)
    hand = by_hand(policy, padded.rollout.games, "clue", 0.04, loss_type)
    assert largest_difference(padded.gradient, hand.gradient)[0] < TOLERANCE
    assert padded.log["loss"] == pytest.approx(hand.loss, abs=1e-6)

    plain, _, given = padded_step(tmp_path / "plain", rules, 8 if n_clues == 5 else 4, loss_type)
    assert sum(given) == n_clues
    assert largest_difference(padded.gradient, plain.gradient)[0] < TOLERANCE
    assert comparable(padded.log) == pytest.approx(comparable(plain.log), rel=1e-4, abs=1e-7)
    assert padded.log["kl"] == pytest.approx(hand.kl, rel=1e-4)
    assert padded.log["entropy"] == pytest.approx(hand.entropy, rel=1e-5)
    clues = padded.rollout.games[0].clues
    tokens = [len(clue.completion.token_ids) for clue in clues]
    assert padded.log["length/clue"] == pytest.approx(sum(tokens) / n_clues)
    assert padded.log["num_tokens"] == sum(tokens) + sum(len(clue.completion.prompt_ids) for clue in clues)


# ------------------------------------------------------------------------------------------------------------- stages


class OtherTokens:
    """The completions of `policy` with other tokens and log-probs at the same text, in one stage's turns."""

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self.policy, self.stage = policy, stage

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return [
            replace(
                completion,
                token_ids=tuple(300 + token % 300 for token in completion.token_ids),
                logprobs=tuple(-1.5 for _ in completion.logprobs),
            )
            if request.turn.stage == self.stage
            else completion
            for request, completion in zip(requests, self.policy.answer(requests), strict=True)
        ]


def step_with_other_tokens(tmp_path: Path, active: Stage, changed: Stage) -> Step:
    def players(policy: Policy, stage: Stage) -> Seating:
        return Seating.of(OtherTokens(Relabelled(policy, length=seeded_length), changed))

    trainer = make_trainer(tmp_path, schedule=active, players=players)
    trainer.logprob_guard.limit = math.inf  # these players say tokens that they did not sample
    return one_step(trainer)


def texts(step: Step) -> list[str]:
    return [said.completion.text for game in step.rollout.games for said in (*game.clues, *game.votes)]


@pytest.mark.parametrize(("active", "inactive"), [("decision", "clue"), ("clue", "decision")])
def test_tokens_of_the_inactive_stage_leave_the_gradient_bit_identical(
    tmp_path: Path, active: Stage, inactive: Stage
) -> None:
    plain = one_step(make_trainer(tmp_path / "plain", schedule=active, players=of_many_lengths))
    inactive_changed = step_with_other_tokens(tmp_path / "inactive", active, inactive)
    active_changed = step_with_other_tokens(tmp_path / "active", active, active)
    assert texts(plain) == texts(inactive_changed) == texts(active_changed)
    assert plain.gradient.keys() == inactive_changed.gradient.keys()
    for name, gradient in plain.gradient.items():
        assert torch.equal(gradient, inactive_changed.gradient[name]), name
        assert not torch.equal(gradient, active_changed.gradient[name]), name


@pytest.mark.parametrize("stage", STAGES)
def test_only_turns_of_the_active_stage_get_a_row(tmp_path: Path, stage: Stage) -> None:
    trainer = make_trainer(tmp_path, schedule=stage)
    made: list[TrainingSample] = []
    replay = trainer._replay

    def recording(rows: list[TrainingSample], of: Stage) -> dict[str, Any]:
        made.extend(rows)
        return replay(rows, of)

    trainer._replay = recording  # type: ignore[method-assign]
    step = one_step(trainer)
    said = [one for game in step.rollout.games for one in (game.clues if stage == "clue" else game.votes)]
    assert [row.token_ids for row in made] == [one.completion.token_ids for one in said]
    assert [row.prompt_ids for row in made] == [one.completion.prompt_ids for one in said]
    assert len(made) == (2 * 3 if stage == "clue" else 2 * 4)


def test_completions_of_other_policies_get_no_row(tmp_path: Path) -> None:
    """The civilians are the model, the spy is scripted: two clues of three are trained on."""

    class Scripted:
        def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
            return [Completion("\\boxed{blue sphere}") for _ in requests]

    def players(policy: Policy, stage: Stage) -> Seating:
        model = Relabelled(policy)
        return Seating(civilian=model, spy=Scripted(), voter=model)

    trainer = make_trainer(tmp_path, schedule="clue", players=players, temperature=TEMPERATURE)
    policy = move_policy(trainer)
    step = one_step(trainer)
    rows = [row for row in hand_rows(step.rollout.games, "clue") if row.token_ids]
    assert len(rows) == 4
    hand = hand_step(
        policy,
        load_model(),
        AutoProcessor.from_pretrained(BENCH_MODEL),
        rows,
        temperature=TEMPERATURE,
        kl_weight=0.04,
        loss_type="grpo",
    )
    assert largest_difference(step.gradient, hand.gradient)[0] < TOLERANCE


# --------------------------------------------------------------------------------------------------- KL weight a stage


def test_rows_get_the_kl_weight_of_their_stage(tmp_path: Path) -> None:
    """One run through both stages, at a learning rate of 0 so that the weights stay those the copy has."""
    trainer = make_trainer(
        tmp_path,
        schedule="cycle",
        cycle_decision=1,
        cycle_clue=1,
        iterations=2,
        learning_rate=0.0,
        beta=0.04,
        kl_decision=0.0,
        kl_clue=0.3,
        temperature=TEMPERATURE,
        players=of_many_lengths,
    )
    policy = move_policy(trainer)
    rollouts, recorder = record_rollouts(trainer), GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    for number, (stage, kl_weight) in enumerate((("decision", 0.0), ("clue", 0.3))):
        hand = by_hand(policy, rollouts[number].games, stage, kl_weight, "grpo")
        assert largest_difference(recorder.steps[number], hand.gradient)[0] < TOLERANCE, stage
    decision, clue = trainer.state.log_history[:2]
    assert (decision["stage/is_clue"], clue["stage/is_clue"]) == (0.0, 1.0)
    assert "kl" not in decision
    assert clue["kl"] == pytest.approx(hand.kl, rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "has_reference"),
    [
        ({"beta": 0.0}, False),
        ({"beta": 0.0, "kl_clue": 0.04}, True),
        ({"beta": 0.0, "kl_decision": 0.04}, True),
        ({"beta": 0.04, "kl_clue": 0.0, "kl_decision": 0.0}, False),
    ],
)
def test_reference_exists_if_a_stage_needs_it(tmp_path: Path, weights: dict[str, float], has_reference: bool) -> None:
    trainer = make_trainer(tmp_path, **weights)
    assert (trainer.ref_model is not None) == has_reference


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "bnpo"}, "loss_type='bnpo'"),
        ({"loss_type": "dr_grpo"}, "loss_type='dr_grpo'"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch'"),
        ({"eval_strategy": "steps"}, "eval_strategy=steps"),
        ({"max_completion_length": 99}, "max_completion_length=99"),
        ({"shuffle_dataset": True}, "shuffle_dataset=True"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"games_per_iteration": 0}, "games_per_iteration=0"),
        ({"iterations": 0}, "iterations=0"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size=3"),
        ({"gradient_accumulation_steps": 5}, "gradient_accumulation_steps=5"),
        ({"save_strategy": "steps", "save_steps": 3, "updates_per_iteration": 2}, "save_steps=3"),
        ({"save_strategy": "epoch"}, "save_strategy=epoch"),
        ({"save_strategy": "steps", "save_steps": 0.3}, "save_steps=0.3"),
        ({"updates_per_iteration": 0}, "updates_per_iteration=0"),
        ({"rollout_batch_size": 0}, "rollout_batch_size=0"),
        ({"export_every": -1}, "export_every=-1"),
        ({"record_games_every": -1}, "record_games_every=-1"),
        ({"min_clue_tokens": 9}, "9 and 6"),
        ({"top_k": -1}, "top_k=-1"),
        ({"rae_alpha": 1.5}, "1.5"),
        ({"rho": 1.0}, "1.0"),
        ({"acc_up": 2.0}, "2.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_would_train_something_else_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    base: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "games_per_iteration": 2,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "max_clue_tokens": 6,
        "save_strategy": "no",
    }
    IterativeSPOConfig(**base)
    with pytest.raises(ValueError, match=re.escape(message)):
        IterativeSPOConfig(**{**base, **options})


def test_games_that_processes_cannot_share_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="games_per_iteration=3 cannot be shared evenly by 2"):
        IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, games_per_iteration=3)


def test_votes_of_rules_and_of_training_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_votes=8 and num_generations=4"):
        make_trainer(tmp_path, rules=FIVE_PLAYERS, num_generations=4, per_device_train_batch_size=4)


def test_a_tokenizer_is_no_processor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read images"):
        make_trainer(tmp_path, processor=AutoProcessor.from_pretrained(BENCH_MODEL).tokenizer, players=relabelled)
