"""`train_stages=both`, the public code's lost phase mask: clues and votes in one batch, whichever stage is active."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.by_hand import HandRow, hand_rows, hand_step, largest_difference
from tests.trainer_helpers import BENCH_MODEL, make_trainer, of_many_lengths, one_step
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.game_images import GameImage
from vision_zero.trainer.samples import TrainingSample, final_advantages
from vision_zero.types import GameRules, Stage

TEMPERATURE = 0.8
TOLERANCE = 1e-5
FIVE_PLAYERS = GameRules(n_civilians=4, n_rounds=2, n_votes=8)


def load_model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(BENCH_MODEL, dtype=torch.float32)


def in_batch_order(games: list[Any]) -> list[HandRow]:
    return [row for game in games for row in rows_of(game)]


def rows_of(game: Any) -> list[HandRow]:
    return [*hand_rows([game], "clue"), *hand_rows([game], "decision")]


@pytest.mark.parametrize("stage", ["decision", "clue"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_gradient_is_the_one_by_hand(tmp_path: Path, stage: Stage, loss_type: str) -> None:
    """One game, so that the role baselines by hand are those of the iteration; 3 clues and 4 votes, 1 row padded."""
    trainer = make_trainer(
        tmp_path,
        games=1,
        schedule=stage,
        train_stages="both",
        loss_type=loss_type,
        temperature=TEMPERATURE,
        per_device_train_batch_size=1,
        players=of_many_lengths,
    )
    policy = load_model()
    step = one_step(trainer)
    rows = in_batch_order(step.rollout.games)
    assert len(rows) == 7
    assert any(row.advantage for row in rows[:3])
    assert any(row.advantage for row in rows[3:])
    hand = hand_step(
        policy,
        load_model(),
        AutoProcessor.from_pretrained(BENCH_MODEL),
        rows,
        temperature=TEMPERATURE,
        kl_weight=0.04,
        loss_type=loss_type,
    )
    assert largest_difference(step.gradient, hand.gradient)[0] < TOLERANCE
    assert step.log["loss"] == pytest.approx(hand.loss, abs=1e-6)


def test_it_is_not_the_gradient_of_the_active_stage(tmp_path: Path) -> None:
    both = one_step(make_trainer(tmp_path / "both", schedule="decision", train_stages="both"))
    active = one_step(make_trainer(tmp_path / "active", schedule="decision"))
    assert [game.votes for game in both.rollout.games] != []
    assert largest_difference(both.gradient, active.gradient)[0] > 0.01


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_votes_are_normalised_as_trl_does(tmp_path: Path, scale_rewards: str) -> None:
    """TRL's own advantages of a decision stage, against ours for the same rows, readability included."""
    trainer = make_trainer(
        tmp_path, schedule="decision", rules=FIVE_PLAYERS, format_weight=0.3, scale_rewards=scale_rewards
    )
    seen: list[list[TrainingSample]] = []
    batches: list[dict[str, Any]] = []
    replay = trainer._replay

    def recording(rows: list[TrainingSample], stage: Stage) -> dict[str, Any]:
        # Every third vote as if it had been unparsed, so that the second reward differs too.
        signs = [1.0 if number % 3 else -1.0 for number in range(len(rows))]
        rows = [
            replace(row, extra_rewards={**row.extra_rewards, "format": sign})
            for row, sign in zip(rows, signs, strict=True)
        ]
        seen.append(rows)
        batches.append(replay(rows, stage))
        return batches[-1]

    trainer._replay = recording  # type: ignore[method-assign]
    one_step(trainer)
    ours = final_advantages(seen[0], {"format": 0.3}, scale=scale_rewards == "group")
    assert len(ours) == 16
    assert len({round(advantage, 3) for advantage in ours}) > 3
    assert ours == pytest.approx(batches[0]["advantages"].tolist(), abs=1e-5)


def row(
    stage: Stage, game: int, reward: float, advantage: float = 0.0, format: float = 1.0, **other: Any
) -> TrainingSample:
    from PIL import Image

    image = GameImage("one", Image.new("RGB", (1, 1)))
    return TrainingSample(game, stage, "", image, (1,), (2,), (0.0,), reward, advantage, {"format": format}, **other)


def test_advantages_in_numbers() -> None:
    """Votes 1, 1, -1, -1: mean 0, deviation sqrt(4/3) = 1.1547; the other game's votes are equal, so they say nothing.

    A clue keeps its role advantage, plus or minus the format weight; padding is 0 and in nobody's group.
    """
    rows = [
        row("clue", 0, 0.3, 0.25),
        row("clue", 0, 0.3, 0.25, format=-1.0),
        row("decision", 0, 1.0),
        row("decision", 0, 1.0),
        row("decision", 0, -1.0),
        row("decision", 0, -1.0),
        row("decision", 1, 1.0),
        row("decision", 1, 1.0),
        row("decision", 0, 1.0, is_dummy=True),
        row("clue", 0, 0.3, 0.25, is_dummy=True),
    ]
    up = 1 / (1.1547005 + 1e-4)
    wanted = [0.35, 0.15, up, up, -up, -up, 0, 0, 0, 0]
    assert final_advantages(rows, {"format": 0.1}, scale=True) == pytest.approx(wanted, abs=1e-6)
    wanted = [0.25, 0.25, 1, 1, -1, -1, 0, 0, 0, 0]
    assert final_advantages(rows, {"format": 0.0}, scale=False) == pytest.approx(wanted)


def test_two_kl_weights_in_one_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kl_clue=0.3 and kl_decision=0.04"):
        IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, train_stages="both", kl_clue=0.3)
    same = IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, train_stages="both", kl_clue=0.3, kl_decision=0.3)
    assert same.trained_stages("clue") == same.trained_stages("decision") == ("clue", "decision")
