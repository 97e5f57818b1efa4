"""Attention of grouped queries: the numbers are those of transformers' sdpa, and no key or value is copied."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.tiny_families import save_gemma3, save_qwen3_vl
from tests.trainer.test_families import saved_family
from vision_zero.models import attention
from vision_zero.models.attention import GROUPED_SDPA, SegmentPath, grouped_sdpa, use_grouped_sdpa


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v in float64, head h looking at the keys of group h // (H / K): [B, Q, H, d]."""
    query, key, value = (states.double() for states in (query, key, value))
    outputs = []
    for head in range(query.shape[1]):
        group = head // (query.shape[1] // key.shape[1])
        scores = query[:, head] @ key[:, group].transpose(1, 2) / query.shape[-1] ** 0.5
        outputs.append(scores.masked_fill(~mask[:, 0], float("-inf")).softmax(-1) @ value[:, group])
    return torch.stack(outputs, dim=2)


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_output_and_gradient_are_those_by_hand(rng: random.Random) -> None:
    torch.manual_seed(rng.randrange(1000))
    batch, groups, heads_of_a_group = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 4)
    length = rng.randint(2, 9)
    n_queries = rng.choice([1, 1, rng.randint(2, length)])
    mask = torch.rand(batch, 1, n_queries, length) < 0.6
    mask[..., 0] = True
    states = [
        torch.randn(batch, heads, n, 8, requires_grad=True)
        for heads, n in ((groups * heads_of_a_group, n_queries), (groups, length), (groups, length))
    ]
    module = torch.nn.Module()
    module.num_key_value_groups = heads_of_a_group
    ours, none = grouped_sdpa(module, *states, mask, scaling=8**-0.5)
    hand = by_hand(*states, mask)
    assert none is None
    torch.testing.assert_close(ours, hand.float(), rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((one * weight).sum(), states) for one in (ours, hand)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_queries", [1, 5])
def test_a_bias_of_positions_is_added_as_by_transformers(n_queries: int) -> None:
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    states = [torch.randn(1, heads, n, 8) for heads, n in ((4, n_queries), (2, 7), (2, 7))]
    mask = torch.ones(1, 1, n_queries, 7).bool()
    bias = torch.randn(1, 4, n_queries, 7)
    ours, theirs = (
        forward(module, *states, mask, position_bias=bias)[0] for forward in (grouped_sdpa, sdpa_attention_forward)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n_queries", [1, 5])
def test_keys_and_values_are_not_repeated(monkeypatch: pytest.MonkeyPatch, n_queries: int) -> None:
    seen: list[tuple[int, int]] = []
    real = attention.scaled_dot_product_attention

    def watched(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((key.data_ptr(), value.data_ptr()))
        return real(query, key, value, *args, **kwargs)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    key, value = torch.randn(2, 1, 2, 7, 8)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    grouped_sdpa(module, torch.randn(1, 4, n_queries, 8), key, value, torch.ones(1, 1, n_queries, 7).bool())
    assert seen == [(key.data_ptr(), value.data_ptr())]


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_along_its_paths_a_mask_is_the_same_mask(rng: random.Random) -> None:
    torch.manual_seed(rng.randrange(1000))
    paths: list[list[SegmentPath]] = []
    masks = []
    for _ in range(rng.randint(1, 3)):
        segments: list[SegmentPath] = []
        left = 14
        while left:
            length = rng.randint(1, left)
            parent = rng.choice([None, *range(len(segments))])
            segments.append((length, () if parent is None else (*segments[parent][1], parent)))
            left -= length
        of_token = [number for number, (length, _) in enumerate(segments) for _ in range(length)]
        seen = [{*leads, number} for number, (_, leads) in enumerate(segments)]
        masks.append([[b in seen[a] for b in of_token] for a in of_token])
        paths.append(segments)
    mask = torch.tensor(masks).tril()[:, None]
    states = [torch.randn(len(paths), heads, 14, 8, requires_grad=True) for heads in (4, 2, 2)]
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    plain, _ = grouped_sdpa(module, *states, mask)
    mask.paths = paths  # type: ignore[attr-defined]
    along, _ = grouped_sdpa(module, *states, mask)
    torch.testing.assert_close(along, plain, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(plain)
    gradients = [torch.autograd.grad((one * weight).sum(), states) for one in (plain, along)]
    for left_one, right_one in zip(*gradients, strict=True):
        torch.testing.assert_close(left_one, right_one, rtol=1e-4, atol=1e-5)


FAMILIES = ["qwen2.5-vl", "internvl3 in tiles", "qwen3-vl", "qwen3-vl experts", "gemma3"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    if request.param.startswith("qwen3"):
        return save_qwen3_vl(path, experts="experts" in request.param)
    return save_gemma3(path) if request.param == "gemma3" else saved_family(request.param, path).folder


def prompt_then_token(model: Any) -> tuple[torch.Tensor, ...]:
    """Logits of left-padded prompts without an image, and of a token behind them, and the loss's gradient."""
    torch.manual_seed(0)
    ids = torch.randint(20, 300, (3, 12))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    output = model(input_ids=ids, attention_mask=mask, use_cache=True)
    cache = output.past_key_values
    next_mask = torch.cat([mask, mask.new_ones(3, 1)], dim=1)
    behind = model(input_ids=ids[:, :1], attention_mask=next_mask, past_key_values=cache).logits
    output.logits[mask.bool()].log_softmax(-1)[:, 0].sum().backward()
    projections = [p for name, p in model.named_parameters() if name.endswith("k_proj.weight") and p.grad is not None]
    return (output.logits[mask.bool()].detach(), behind.detach(), *(one.grad for one in projections))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("other", ["sdpa", "eager"])
def test_a_model_of_any_family_says_the_same(folder: Path, dtype: torch.dtype, other: str) -> None:
    def load(implementation: str) -> Any:
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation=implementation)

    plain, ours = load(other), use_grouped_sdpa(load("sdpa"))
    assert ours.config.get_text_config()._attn_implementation == GROUPED_SDPA
    close = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    before, after = prompt_then_token(plain), prompt_then_token(ours)
    assert len(before) == len(after) > 3
    for left, right in zip(before, after, strict=True):
        scale = left.abs().max()
        torch.testing.assert_close(right / scale, left / scale, **close)


def test_the_files_of_a_model_do_not_know_and_eager_stays(folder: Path, tmp_path: Path) -> None:
    model = use_grouped_sdpa(AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa"))
    model.save_pretrained(tmp_path)
    assert GROUPED_SDPA not in (tmp_path / "config.json").read_text("utf-8")
    eager = use_grouped_sdpa(AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager"))
    assert eager.config.get_text_config()._attn_implementation == "eager"
