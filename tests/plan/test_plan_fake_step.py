"""Memory by part, by formula and by the real step on fake tensors, within 5%."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.fake_step import fake_step
from vision_zero.plan.cost import activation_bytes, head_bytes
from vision_zero.plan.fit import memory, setup
from vision_zero.plan.shape import read_config, read_shape

CLOSE = 0.05


def compare(name: str, rank: int, rows: int, length: int, completion: int, layers: int | None = None) -> None:
    step = fake_step(read_config(name), rank=rank, rows=rows, length=length, completion=completion, layers=layers)
    shape = read_shape(name)
    shape = replace(shape, layers=layers or shape.layers)
    mode = "lora" if rank else "full"
    # A GPU alone, so that nothing is shared out; the step has no image.
    parts = memory(shape, setup(train=mode, rank=rank, gpus=1, zero=0 if rank else 2))["update"]
    by_plan = {name: parts.get(name, 0.0) * 2**30 for name in ("weights", "adapters", "optimizer", "gradients")}
    if not rank:
        by_plan["gradients"] -= 2 * shape.vision.parameters
    scored = rows * completion
    together = activation_bytes(shape, rows * length, scored, mode, pairs=rows * length**2)
    by_plan |= {"activations": sum(together), "head": head_bytes(shape, scored, mode)}
    assert by_plan == pytest.approx({part: getattr(step, part) for part in by_plan}, rel=CLOSE)


@pytest.mark.parametrize("rank", [0, 32], ids=["all weights", "LoRA"])
def test_a_few_layers(rank: int) -> None:
    """Two layers with the widths of the 7B: the formula is linear in layers."""
    compare("qwen2.5-vl-7b", rank, rows=1, length=1500, completion=1000, layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 32], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-14b", "qwen2.5-vl-32b"])
@pytest.mark.parametrize(("rows", "length", "completion"), [(1, 4600, 4000), (8, 900, 500)], ids=["shared", "rows"])
def test_whole_models(name: str, rank: int, rows: int, length: int, completion: int) -> None:
    """All layers: a micro-batch of 8 votes of 500 tokens, in one shared row and in rows of their own."""
    compare(name, rank, rows, length, completion)
