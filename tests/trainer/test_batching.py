"""Rows in another order, without their padding: which order is chosen, and that nothing but the work changes."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from tests.by_hand import largest_difference
from tests.trainer_helpers import Relabelled, Step, make_trainer, of_many_lengths, one_step
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.play import Seating
from vision_zero.rollout.policy import Policy
from vision_zero.trainer import packed_forward
from vision_zero.trainer.batching import (
    OVER_BOTH,
    OVER_COMPLETION,
    OVER_PROMPT,
    Batch,
    order_by_cost,
    real_and_padded_tokens,
    score_in_chunks,
    split_into_chunks,
    trim,
)
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.trainer.packed_forward import PackedForward
from vision_zero.trainer.samples import TrainingSample
from vision_zero.types import GameRules, Stage

IMAGES = [GameImage(f"image{k}", Image.new("RGB", (4, 4))) for k in range(8)]


def row(game: int, prompt: int, completion: int, image: int | None = None) -> TrainingSample:
    return TrainingSample(
        game=game,
        stage="clue",
        prompt="",
        image=IMAGES[game if image is None else image],
        prompt_ids=(1,) * prompt,
        token_ids=(2,) * completion,
        logprobs=(-1.0,) * completion,
        reward=0.0,
        advantage=0.0,
    )


# ------------------------------------------------------------------------------------------------------ order of rows


def test_free_images_make_an_order_by_length_and_dear_ones_an_order_by_game() -> None:
    rows = [row(0, 10, 1), row(0, 50, 1), row(1, 12, 1), row(1, 48, 1), row(2, 11, 1), row(2, 49, 1)]
    assert order_by_cost(rows, 2, 1, image_cost=0.0) == [1, 5, 3, 2, 4, 0]
    assert order_by_cost(rows, 3, 1, image_cost=1000.0) == [1, 0, 5, 4, 3, 2]


def test_the_order_in_between_is_found() -> None:
    """Four games of two long and two short rows, in micro-batches of four: widths with the image cost c

    by game     90 + 89 + 85 + 84, 4 images     4 * 348 + 4 c
    in twos     90 + 20 + 85 + 15, 8 images     4 * 210 + 8 c
    by length   90 + 80 + 20 + 10, 16 images    4 * 200 + 16 c
    """
    lengths = [(90, 80, 20, 10), (89, 79, 19, 9), (85, 75, 15, 5), (84, 74, 14, 4)]
    rows = [row(game, prompt - 1, 1) for game, prompts in enumerate(lengths) for prompt in prompts]
    assert order_by_cost(rows, 4, 1, image_cost=1000.0) == list(range(16))
    assert order_by_cost(rows, 4, 1, image_cost=50.0) == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert order_by_cost(rows, 4, 1, image_cost=0.0) == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.floats(0, 500))
def test_rows_stay_in_their_update(
    rng: random.Random, n_updates: int, accumulated: int, size: int, image_cost: float
) -> None:
    per_update = accumulated * size
    rows = [row(rng.randrange(8), rng.randint(1, 30), rng.randint(1, 9)) for _ in range(n_updates * per_update)]
    order = order_by_cost(rows, n_updates * accumulated, n_updates, image_cost)
    for update in range(n_updates):
        numbers = range(update * per_update, (update + 1) * per_update)
        assert sorted(order[numbers.start : numbers.stop]) == list(numbers)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 200))
def test_chunks_hold_all_rows_and_no_more_tokens_than_allowed(rng: random.Random, n: int, budget: int) -> None:
    rows = [row(0, rng.randint(1, 30), rng.randint(1, 9)) for _ in range(n)]
    order = rng.sample(range(n), n)
    parts = split_into_chunks(rows, order, budget)
    assert [number for part in parts for number in part] == order

    def cells(part: list[int]) -> int:
        return len(part) * sum(max(len(getattr(rows[k], name)) for k in part) for name in ("prompt_ids", "token_ids"))

    assert all(cells(part) <= budget or len(part) == 1 for part in parts)
    for part, following in pairwise(parts):
        assert cells([*part, following[0]]) > budget


# -------------------------------------------------------------------------------------------------------------- trimmed


def padded_batch(lengths: list[tuple[int, int]], columns: tuple[int, int]) -> Batch:
    """Rows of (prompt, completion) tokens, prompts on the right and completions on the left of their columns."""
    n_prompt, n_completion = columns
    prompt_mask = torch.tensor([[0] * (n_prompt - p) + [1] * p for p, _ in lengths])
    completion_mask = torch.tensor([[1] * r + [0] * (n_completion - r) for _, r in lengths])
    both = torch.cat([prompt_mask, completion_mask], dim=1)
    return {
        **dict.fromkeys(OVER_PROMPT, prompt_mask),
        **dict.fromkeys(OVER_COMPLETION, completion_mask),
        **dict.fromkeys(OVER_BOTH, both),
        "num_images": [1] * len(lengths),
        "advantages": torch.zeros(len(lengths)),
        "num_items_in_batch": torch.tensor(3),
    }


def shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in batch.items()
        if name in (*OVER_PROMPT, *OVER_COMPLETION, *OVER_BOTH)
    }


def test_trimmed_batches_lose_empty_columns_alone() -> None:
    batch = trim(padded_batch([(3, 2), (5, 4)], (9, 7)))
    expected = (
        dict.fromkeys(OVER_PROMPT, (2, 5)) | dict.fromkeys(OVER_COMPLETION, (2, 4)) | dict.fromkeys(OVER_BOTH, (2, 9))
    )
    assert shapes(batch) == expected
    assert batch["prompt_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch["completion_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["mm_token_type_ids"].tolist()[0] == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert batch["num_items_in_batch"] == 3


def test_two_completion_columns_stay_and_a_ratio_per_row_too() -> None:
    batch = {**padded_batch([(3, 1)], (9, 7)), "importance_sampling_ratio": torch.ones(1, 1)}
    trimmed = trim(batch)
    assert trimmed["completion_mask"].shape == (1, 2)
    assert trimmed["importance_sampling_ratio"].shape == (1, 1)


def test_columns_are_a_multiple_where_trl_pads_to_one() -> None:
    trimmed = trim(padded_batch([(3, 1), (5, 2)], (8, 12)), multiple=4)
    assert (trimmed["prompt_mask"].shape, trimmed["completion_mask"].shape) == ((2, 8), (2, 4))


def test_padding_share_counts_dummy_samples_as_padding() -> None:
    batch = padded_batch([(3, 2), (5, 4)], (5, 4))
    assert real_and_padded_tokens([batch]) == (14, 18)
    batch["tool_mask"] = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])  # nothing of the first row trains
    assert real_and_padded_tokens([batch, batch]) == (2 * 9, 2 * 18)


# -------------------------------------------------------------------------------------------- nothing but work changes


def as_trl_cuts(packed: PackedForward, batch: Batch) -> list[Batch]:
    """In the order of games, padded to the longest row of all."""
    parts = split_tensor_dict(split_pixel_values_by_grid(batch), packed.args.steps_per_generation)
    return [unsplit_pixel_values_by_grid(part) for part in parts]


NOT_OF_ROWS = ("seconds/", "step_time", "update/")


def many_rows(tmp_path: Path, **config: Any) -> tuple[Step, list[list[Any]]]:
    """A step of four games of nine rows and more in micro-batches of four, and what each of them held."""
    options: dict[str, Any] = {
        "games": 4,
        "rules": GameRules(n_civilians=2, n_rounds=3, n_votes=4),
        "players": of_many_lengths,
        "max_clue_tokens": 12,
        "max_vote_tokens": 12,
        **config,
    }
    trainer = make_trainer(tmp_path, **options)
    held: list[list[Any]] = []
    compute_loss = trainer._compute_loss

    def looking(model: Any, inputs: Batch) -> Any:
        held.append([inputs["prompt_ids"].shape[1], inputs["completion_ids"].shape[1], inputs["num_images"]])
        return compute_loss(model, inputs)

    trainer._compute_loss = looking
    return one_step(trainer), held


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_order_and_trimming_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage, loss_type: str
) -> None:
    config: dict[str, Any] = {
        "schedule": stage,
        "loss_type": loss_type,
        "updates_per_iteration": 2,
        "logprob_tokens": 500,
        "share_prefixes": False,
    }
    monkeypatch.setattr(packed_forward, "image_cost", lambda *_: 0.0)
    ours, held = many_rows(tmp_path / "ours", **config)
    monkeypatch.setattr(PackedForward, "split_micro_batches", as_trl_cuts)
    monkeypatch.setattr(packed_forward, "split_into_chunks", lambda rows, order, tokens: [list(range(len(rows)))])
    plain, held_by_plain = many_rows(tmp_path / "plain", **config)

    assert len(held) == len(held_by_plain) == 4
    assert len({tuple(one[:2]) for one in held}) > 1
    assert len({tuple(one[:2]) for one in held_by_plain}) == 1
    assert ours.log["update/padding"] < 0.7 * plain.log["update/padding"]
    assert largest_difference(ours.gradient, plain.gradient)[0] < 1e-5
    logs = [{k: v for k, v in one.log.items() if not k.startswith(NOT_OF_ROWS)} for one in (ours, plain)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-6)


def test_completions_of_one_token_keep_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch of one column would count its dummy row's entropy as if it were a token's."""

    def of_one_token(policy: Policy, stage: Stage) -> Seating:
        return Seating.of(Relabelled(policy, length=lambda request: 1 if request.turn.round == 1 else 9))

    config: dict[str, Any] = {
        "schedule": "clue",
        "per_device_train_batch_size": 2,
        "players": of_one_token,
        "share_prefixes": False,
    }
    monkeypatch.setattr(packed_forward, "image_cost", lambda *_: 0.0)
    ours, held = many_rows(tmp_path / "ours", **config)
    monkeypatch.setattr(PackedForward, "split_micro_batches", as_trl_cuts)
    plain, _ = many_rows(tmp_path / "plain", **config)
    assert min(columns for _, columns, _ in held) == 2
    for name in ("entropy", "kl", "loss", "grad_norm"):
        assert ours.log[name] == pytest.approx(plain.log[name], rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("tokens", [1, 400, 10**9])
@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_logprobs_in_chunks_are_those_of_trl(tmp_path: Path, stage: Stage, tokens: int) -> None:
    """Reference log-probs, and those before an update, which more than one update per iteration asks for."""
    trainer = make_trainer(
        tmp_path,
        games=4,
        schedule=stage,
        updates_per_iteration=2,
        logprob_tokens=tokens,
        players=of_many_lengths,
        trainer_class=ComparesWithTRL,
    )
    one_step(trainer)
    assert isinstance(trainer, ComparesWithTRL)
    assert len(trainer.gaps) == 2
    assert max(trainer.gaps) < 1e-5
    n_rows = sum(len(part) for part in trainer.packed.chunks)
    assert len(trainer.packed.chunks) == (
        n_rows if tokens == 1 else 1 if tokens == 10**9 else len(trainer.packed.chunks)
    )


class ComparesWithTRL(IterativeSPOTrainer):
    """Scores every batch in TRL's own way too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gaps: list[float] = []
        super().__init__(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        ours = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if kwargs.get("batch_size") is not None:
            theirs = GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)
            mask = args[2][:, -args[3] :].bool()
            assert ours[0].shape == theirs[0].shape
            self.gaps.append(float((ours[0] - theirs[0])[mask].abs().max()))
        return ours


def test_chunks_that_repeat_are_scored_again_and_change_nothing() -> None:
    """As a process does that needs fewer of them than another."""
    batch = padded_batch([(3, 2), (5, 4), (1, 1)], (9, 7))
    scored: list[int] = []

    def score(part: Batch) -> torch.Tensor:
        scored.append(len(part["prompt_mask"]))
        return part["completion_mask"] * part["prompt_mask"].sum(dim=1, keepdim=True).float()

    once = score_in_chunks(score, batch, [[1, 0], [2]])
    assert once.tolist() == [[3, 3, 0, 0, 0, 0, 0], [5, 5, 5, 5, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert torch.equal(once, score_in_chunks(score, batch, [[1, 0], [2], [2], [2]]))
    assert scored == [2, 1, 2, 1, 1, 1]
