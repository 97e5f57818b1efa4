"""Merged weights of a LoRA model: PEFT's own merge of a float32 copy, for each kind of layer that is taken."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.tiny_games import bench_model
from vision_zero.rollout.lora import check_adapter, merged_parameters


class Experts(nn.Module):
    """A mixture's weights as transformers keeps them: one parameter for all experts, in one of two orders."""

    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        self.up = nn.Parameter(torch.randn(3, 8, 12) if is_transposed else torch.randn(3, 12, 8))
        self.down = nn.Parameter(torch.randn(3, 12, 8) if is_transposed else torch.randn(3, 8, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        equation = "bi,eio->beo" if self.is_transposed else "bi,eoi->beo"
        second = equation.replace("bi", "bei")
        return torch.einsum(second, torch.einsum(equation, x, self.up), self.down).sum(1)


class Layers(nn.Module):
    """One layer of each kind, each with its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.transposed = nn.Linear(8, 12), Conv1D(12, 8)
        self.embedding = nn.Embedding(10, 8)
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(2, 6, 3), nn.Conv2d(2, 6, 1), nn.Conv3d(2, 6, 2)
        self.experts, self.others = Experts(is_transposed=False), Experts(is_transposed=True)
        self.head = nn.Sequential(nn.Linear(8, 4))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        image = torch.linspace(-1, 1, 2 * 3**3, dtype=x.dtype).view(1, 2, 3, 3, 3)
        return [
            *(layer(self.norm(x)) for layer in (self.linear, self.transposed, self.experts, self.others, self.head)),
            self.embedding(torch.arange(10)),
            self.conv1(image[:, :, 0, 0]),
            self.conv2(image[:, :, 0]),
            self.conv3(image),
        ]


KINDS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["linear"]},
    "fan_in_fan_out": {"target_modules": ["transposed"], "fan_in_fan_out": True},
    "embedding": {"target_modules": ["embedding"]},
    "convolutions": {"target_modules": ["conv1", "conv2", "conv3"]},
    "rslora": {"target_modules": ["linear", "conv2"], "use_rslora": True},
    "patterns": {"target_modules": ["linear", "conv2"], "rank_pattern": {"linear": 2}, "alpha_pattern": {"conv2": 5}},
    "modules_to_save": {"target_modules": ["linear"], "modules_to_save": ["head", "norm"]},
    "dora": {"target_modules": ["linear", "conv1", "conv2", "conv3"], "use_dora": True, "use_rslora": True},
    "dora embedding": {"target_modules": ["embedding"], "use_dora": True},
    "dora fan_in_fan_out": {"target_modules": ["transposed"], "fan_in_fan_out": True, "use_dora": True},
    "experts": {"target_modules": [], "target_parameters": ["experts.up", "experts.down", "others.up"]},
    "parameters": {"target_modules": ["conv2"], "target_parameters": ["linear.weight", "others.down"]},
}


def adapted(dtype: torch.dtype, seed: int = 0, **options: Any) -> PeftModel:
    """`Layers` with an adapter, all of whose numbers are random."""
    torch.manual_seed(seed)
    model = get_peft_model(Layers().to(dtype), LoraConfig(**{"r": 4, "lora_alpha": 6, "lora_dropout": 0.0, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter + 0.3 * torch.randn(parameter.shape))
    return model


@contextmanager
def whole(parameters: list[nn.Parameter]) -> Iterator[None]:
    yield


def merged_by_peft(model: PeftModel) -> nn.Module:
    return copy.deepcopy(model).float().merge_and_unload()


@pytest.mark.parametrize("kind", KINDS)
@given(dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 2**16), low=st.booleans())
@settings(max_examples=4, deadline=None)
def test_they_are_those_of_pefts_own_merge(kind: str, dtype: torch.dtype, seed: int, low: bool) -> None:
    """Nothing of the model that trains changes, neither values nor storage; `low`: its adapter is in 16 bit too.

    PEFT's forward rounds the adapters of experts to the dtype of their weights, its merge of a float32 copy does not.
    """
    model = adapted(dtype, seed, **KINDS[kind])
    if low or "target_parameters" in KINDS[kind]:
        model = model.to(dtype)
    check_adapter(model)
    before = {name: (one.data_ptr(), one.clone()) for name, one in model.state_dict(keep_vars=True).items()}
    merged = dict(merged_parameters(model, whole))
    after = model.state_dict(keep_vars=True)
    assert {name: one.data_ptr() for name, one in after.items()} == {name: at for name, (at, _) in before.items()}
    assert all(torch.equal(after[name], one) for name, (_, one) in before.items())

    expected = dict(merged_by_peft(model).named_parameters())
    assert list(merged) == list(expected)
    changed = 0
    for name, weight in merged.items():
        changed += not torch.equal(weight.float(), dict(Layers().named_parameters())[name])
        torch.testing.assert_close(weight.float(), expected[name].to(weight.dtype).float(), rtol=1e-6, atol=1e-6)
    assert changed


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_model_with_them_computes_what_the_adapted_one_does(kind: str) -> None:
    model, plain = adapted(torch.float32, **KINDS[kind]).eval(), Layers()
    plain.load_state_dict(dict(merged_parameters(model, whole)))
    x = torch.randn(5, 8)
    with torch.no_grad(), model.disable_adapter():
        bases = model(x)
    with torch.no_grad():
        gaps = [(one - other).abs().max().item() for one, other in zip(model(x), plain(x), strict=True)]
        moved = [(one - base).abs().max().item() for one, base in zip(model(x), bases, strict=True)]
    assert max(gaps) < 1e-4
    assert max(moved) > 1e-2


def test_parameters_are_gathered_one_layer_at_a_time() -> None:
    """As ZeRO-3 needs it: a base weight with its own adapter, and no two base weights at once."""
    model = adapted(torch.float32, target_modules=["linear", "conv2"], modules_to_save=["head"])
    names = {id(parameter): name for name, parameter in model.get_base_model().named_parameters()}
    gathered: list[list[str]] = []

    @contextmanager
    def gather(parameters: list[nn.Parameter]) -> Iterator[None]:
        gathered.append([names[id(parameter)] for parameter in parameters])
        yield

    sent = [name for name, _ in merged_parameters(model, gather)]
    assert len(gathered) == len(sent) == len(dict(Layers().named_parameters()))
    assert ["linear.base_layer.weight", "linear.lora_A.default.weight", "linear.lora_B.default.weight"] in gathered
    assert all(len(one) == 1 or one[0].split(".")[0] in ("linear", "conv2") for one in gathered)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["embed_tokens"]}, "embed_tokens shares its weight .* leave it out of the targets"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head shares its weight"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head shares its weight"),
        ({"target_modules": ["q_proj"], "bias": "all"}, "bias=all changes the base model; leave it out"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "bias=lora_only"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias=True"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3]}, r"embed_tokens .*is neither LoRA nor DoRA"),
        ({"target_modules": ["q_proj"], "alora_invocation_tokens": [3]}, "q_proj .*is neither LoRA nor DoRA"),
    ],
)
def test_what_has_no_such_weights_is_refused(options: dict[str, Any], words: str) -> None:
    model = get_peft_model(bench_model(), LoraConfig(r=4, **options))
    with pytest.raises(ValueError, match=words):
        check_adapter(model)


def test_a_weight_that_two_adapters_change_is_refused() -> None:
    model = adapted(torch.float32, target_modules=["linear"])
    model.get_base_model().head = nn.Sequential(model.get_base_model().linear)
    with pytest.raises(ValueError, match="shares its weight"):
        check_adapter(model)


def test_grouped_convolutions_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="Conv2d of Conv2d"):
        check_adapter(get_peft_model(model, LoraConfig(r=2, target_modules=["0"])))


def test_other_adapters_than_lora_are_refused() -> None:
    model = get_peft_model(bench_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="give one LoraConfig"):
        check_adapter(model)
