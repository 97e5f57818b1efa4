"""Rows that share beginnings: where their tokens stand, and that loss, gradient and metrics stay what they were."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from tests.by_hand import largest_difference
from tests.trainer.test_families import Family, family_fixture
from tests.trainer_helpers import Step, make_trainer, of_many_lengths, one_step, random_pairs
from vision_zero.models import attention as grouped
from vision_zero.models import load_processor
from vision_zero.trainer.packed_forward import PackedForward
from vision_zero.trainer.prefix_sharing import (
    PADDING,
    Layout,
    attention_mask,
    gather_completions,
    pair_cost,
    real_and_padded_shared_tokens,
    shared_layout,
)
from vision_zero.types import GameRules

IMAGE = 99


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids and mask of (prompt, completion) rows as TRL pads them, and the columns of completions."""
    n_prompt, n_completion = (max(len(row[part]) for row in rows) for part in (0, 1))
    ids = np.zeros((len(rows), n_prompt + n_completion), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, (prompt, completion) in enumerate(rows):
        here = slice(n_prompt - len(prompt), n_prompt + len(completion))
        ids[number, here] = prompt + completion
        mask[number, here] = 1
    return ids, mask, n_completion


def layout_by_hand() -> tuple[Layout, np.ndarray, int]:
    rows = [([IMAGE, 1, 2, 3], [7, 8]), ([IMAGE, 1, 2, 4], [9]), ([IMAGE, 5], [6])]
    ids, mask, n_completion = padded(rows)
    return shared_layout(ids, mask, n_completion, [0, 0, 1], IMAGE), ids, n_completion


def test_a_layout_by_hand() -> None:
    """Columns: 4 of prompts, 2 of completions, so row r starts at 6 r. The third row has another image."""
    layout, ids, _ = layout_by_hand()
    #                                     shared  row 1    row 2  row 3
    assert layout.source_PL.tolist() == [[0, 1, 2, 3, 4, 5, 9, 10, 14, 15, 16]]
    assert ids.flatten()[layout.source_PL[0]].tolist() == [IMAGE, 1, 2, 3, 7, 8, 4, 9, IMAGE, 5, 6]
    assert layout.segment_PL.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]]
    assert layout.leads_SS.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert layout.rows == [[0, 1], [0], [1], [2], []]
    assert layout.shown == [0, 2]


def test_a_tree_by_hand() -> None:
    """Rows 0 and 2 go on together behind what all three share; the last token of a prompt is never shared."""
    rows = [([IMAGE, 1, 2, 3], [7]), ([IMAGE, 4], [8]), ([IMAGE, 1, 2, 3, 5], [9, 9])]
    ids, mask, n_completion = padded(rows)
    layout = shared_layout(ids, mask, n_completion, [0, 0, 0], IMAGE)
    assert ids.flatten()[layout.source_PL[0]].tolist() == [IMAGE, 1, 2, 3, 7, 3, 5, 9, 9, 4, 8]
    assert layout.segment_PL.tolist() == [[0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4]]
    assert layout.leads_SS.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert layout.rows == [[0, 2, 1], [0, 2], [0], [2], [1], []]
    paths = attention_mask(layout, torch.device("cpu")).paths  # type: ignore[attr-defined]
    assert paths == [[(1, ()), (2, (0,)), (2, (0, 1)), (4, (0, 1)), (2, (0,))]]
    assert layout.shown == [0]


def test_a_dummy_counts_where_a_row_that_trains_shares_with_it() -> None:
    layout, _, _ = layout_by_hand()
    _, mask, n_completion = padded([([IMAGE, 1, 2, 3], [7, 8]), ([IMAGE, 1, 2, 4], [9]), ([IMAGE, 5], [6])])
    batch = {
        "prompt_mask": torch.as_tensor(mask[:, :-n_completion]),
        "completion_mask": torch.as_tensor(mask[:, -n_completion:]),
        "tool_mask": torch.tensor([[0, 0], [1, 1], [0, 0]]),
    }
    assert real_and_padded_shared_tokens(layout, batch) == (5, 11)  # three shared tokens and the second row's own two


def test_a_mask_by_hand() -> None:
    layout, _, _ = layout_by_hand()
    mask = attention_mask(layout, torch.device("cpu"))
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert mask.shape == (1, 1, 11, 11)
    assert mask.any(dim=-1).all(), "a token that attends to nothing is not a number"


def test_values_go_back_to_their_rows() -> None:
    layout, ids, n_completion = layout_by_hand()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]])
    ids_PL = torch.as_tensor(ids.flatten()[layout.source_PL])
    assert gather_completions(ids_PL, layout, mask, n_completion).tolist() == [[7, 8], [9, 0], [6, 0]]


def test_an_image_behind_words_that_differ_is_not_shared() -> None:
    ids, mask, n_completion = padded([([1, 2, IMAGE, 3], [7]), ([1, 4, IMAGE, 3], [8])])
    layout = shared_layout(ids, mask, n_completion, [0, 0], IMAGE)
    assert layout.shown == [0, 1]
    assert layout.source_PL.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_completion_token_attends_to_its_own_row_and_nothing_else(rng: random.Random) -> None:
    rows, images = [], []
    for image in range(rng.randint(1, 4)):
        begin = [IMAGE] + [rng.randint(1, 3) for _ in range(rng.randint(0, 6))]
        for _ in range(rng.randint(1, 4)):
            prompt = begin[: rng.randint(1, len(begin))] + [rng.randint(1, 3) for _ in range(rng.randint(1, 4))]
            rows.append((prompt, [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]))
            images.append(image)
    ids, mask, n_completion = padded(rows)
    layout = shared_layout(ids, mask, n_completion, images, IMAGE)
    attends = attention_mask(layout, torch.device("cpu"))[:, 0].numpy()
    n_columns = ids.shape[1]
    found: dict[int, list[int]] = {}
    for row, column in zip(*np.nonzero(layout.source_PL != PADDING), strict=True):
        source = layout.source_PL[row, column]
        assert source not in found, "no token stands twice"
        seen = layout.source_PL[row, attends[row, column]]
        found[int(source)] = ids.flatten()[seen].tolist()
    for number, (prompt, completion) in enumerate(rows):
        for place in range(len(completion)):
            source = number * n_columns + n_columns - n_completion + place
            assert found[source] == (prompt + completion)[: len(prompt) + place + 1]
    assert {images[row] for row in layout.shown} == set(images)
    assert layout.source_PL.size <= len(rows) * max(len(prompt + completion) for prompt, completion in rows)


def test_dear_pairs_make_shorter_rows() -> None:
    """Four rows of 11 tokens that have one in common. P (L + c L^2): 41 + 1681 c, 42 + 882 c, 44 + 484 c."""
    ids, mask, n_completion = padded([([IMAGE, 1], [2] * 9)] * 4)

    def shape(pair_cost: float) -> tuple[int, ...]:
        return shared_layout(ids, mask, n_completion, [0] * 4, IMAGE, pair_cost).source_PL.shape

    assert shape(0.0) == shape(0.0012) == (1, 41)
    assert shape(0.0013) == shape(0.0049) == (2, 21)
    assert shape(0.0051) == (4, 11)


# -------------------------------------------------------------------------------------------- nothing but work changes


FAMILIES = ["qwen2.5-vl", "internvl3 in tiles", "qwen3-vl"]
MORE_FAMILIES = ["qwen2-vl", "qwen3-vl-moe", "smolvlm2", "llava-onevision", "glm-4.1v"]
family = family_fixture(FAMILIES, MORE_FAMILIES)


def step_of(family: Family, tmp_path: Path, **config: Any) -> Step:
    """One step of four games in micro-batches of four rows."""
    options: dict[str, Any] = {"games": 4, "rules": GameRules(n_civilians=2, n_rounds=2, n_votes=4), **config}
    attention = options.pop("attention", "sdpa")
    trainer = make_trainer(
        tmp_path,
        model=family.folder,
        processor=load_processor(str(family.folder)),
        pairs=random_pairs(size=family.image_size),
        players=of_many_lengths,
        beta=0.05,
        model_init_kwargs={"dtype": "float32", "attn_implementation": attention},
        **options,
    )
    along: list[int] = []
    real = grouped._along_paths
    with patch.object(grouped, "_along_paths", lambda *args: along.append(1) or real(*args)):
        step = one_step(trainer)
    assert trainer.packed.shares_prefixes == options["share_prefixes"]
    assert bool(along) == (options["share_prefixes"] and attention == "sdpa")
    return step


@pytest.mark.parametrize(
    "config",
    [
        {"schedule": "decision", "updates_per_iteration": 2},
        {"schedule": "decision", "attention": "eager", "loss_type": "dapo"},
        {"schedule": "clue", "gradient_checkpointing": True},
        {"schedule": "clue", "freeze_vision": True, "logprob_tokens": 400},
        {"schedule": "decision", "train_stages": "both", "per_device_train_batch_size": 16},
        {"schedule": "decision", "peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])},
    ],
    ids=lambda config: "-".join(str(value) if isinstance(value, (str, int)) else "lora" for value in config.values()),
)
def test_loss_gradient_and_metrics_are_those_of_whole_rows(
    family: Family, tmp_path: Path, config: dict[str, Any]
) -> None:
    ours = step_of(family, tmp_path / "ours", share_prefixes=True, **config)
    plain = step_of(family, tmp_path / "plain", share_prefixes=False, **config)
    assert ours.log["update/shared"] > 0.2
    assert plain.log.get("update/shared", 0) == 0
    moved = [name for name, gradient in plain.gradient.items() if gradient.any()]  # an adapter begins with zeros
    assert len(moved) > 2
    assert not any(ours.gradient[name].any() for name in plain.gradient.keys() - set(moved))
    gradients = [{name: one.gradient[name] for name in moved} for one in (ours, plain)]
    assert largest_difference(*gradients)[0] < 1e-5
    skipped = ("seconds/", "step_time", "update/")
    logs = [{k: v for k, v in one.log.items() if not k.startswith(skipped)} for one in (ours, plain)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-6)


def test_pairs_cost_nothing_where_attention_goes_along_paths(family: Family) -> None:
    """With DeepSpeed the model is still in the CPU's memory when a trainer for a GPU is made."""
    model = grouped.use_grouped_sdpa(family.load())
    assert model.device.type == "cpu"
    assert pair_cost(model, torch.device("cpu")) == 0
    assert pair_cost(model, torch.device("cuda")) > 0


def test_a_model_that_takes_no_mask_computes_whole_rows_and_says_so(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, model=family.folder, processor=load_processor(str(family.folder)))
    capsys.readouterr()
    monkeypatch.setattr(trainer.model.config.get_text_config(), "_attn_implementation_internal", "flash_attention_2")
    packed = PackedForward(trainer.args, trainer.model, trainer.accelerator, trainer.images, has_aux_loss=False)
    assert not packed.shares_prefixes
    said = capsys.readouterr().err
    assert "share_prefixes is off: attn_implementation=flash_attention_2 takes no mask; sdpa and eager do" in said
