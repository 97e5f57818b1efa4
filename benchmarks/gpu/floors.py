"""Lower bounds of a step's cost on a card, from FLOPs and bytes, and the memory of the training state. No torch.

A floor is the time that the card's peak rates allow if everything else were free. The model FLOPs of the update do not
count what gradient checkpointing computes twice, so floor / measured time of the update is the MFU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.model_shape import ModelShape

Mode = Literal["full", "lora"]
GIB = 2**30


@dataclass(frozen=True)
class Card:
    """Peak rates of a card by its data sheet: dense bfloat16 FLOP/s and bytes/s of its memory."""

    flops: float
    bandwidth: float


CARDS = {
    "H200": Card(989e12, 4.8e12),
    "H100 PCIe": Card(756e12, 2.0e12),
    "H100 NVL": Card(835e12, 3.9e12),
    "H100 80GB HBM3": Card(989e12, 3.35e12),  # how the SXM card calls itself
    "A100-SXM4-40GB": Card(312e12, 1.555e12),
    "A100-PCIE-40GB": Card(312e12, 1.555e12),
    "A100": Card(312e12, 2.0e12),  # 80 GB
}


def card_of(name: str) -> Card | None:
    """The card whose name the driver gives, the first that fits; None for one that is not in the table."""
    return next((card for known, card in CARDS.items() if known in name), None)


@dataclass(frozen=True)
class Tokens:
    """Tokens of one sample without padding: its prompt and its completion."""

    prompt: int
    completion: int


def decode_seconds(
    shape: ModelShape, calls: Sequence[Sequence[Tokens]], card: Card, *, adapter_bytes: int = 0
) -> float:
    """Sampling the completions of each call together: a token reads the weights once, and all live keys and values.

    The first token of a completion comes from the prompt. Weights and cache are 2 bytes a number, `adapter_bytes` come
    on top. Where the FLOPs of a step take longer than its bytes, they count.
    """
    seconds = 0.0
    weights = 2 * shape.decode_weights + adapter_bytes
    for call in calls:
        for step in range(1, max(completion.completion for completion in call)):
            live = [completion.prompt + step for completion in call if completion.completion > step]
            bytes_read = weights + shape.kv_bytes() * sum(live)
            flops = sum(shape.token_flops(context, head=True) for context in live)
            seconds += max(bytes_read / card.bandwidth, flops / card.flops)
    return seconds


def prefill_flops(shape: ModelShape, computed: int, mean_prompt: float, images: int, size: tuple[int, int]) -> float:
    """Prompt tokens that were computed (not those reused from a cache), each looking at half of a mean prompt."""
    per_token = shape.token_flops(round(mean_prompt / 2), head=False)
    return computed * per_token + images * shape.vision.forward_flops(*size)


def forward_flops(
    shape: ModelShape, rows: Sequence[Tokens], images: int, size: tuple[int, int], shared: float = 0.0
) -> float:
    """FLOPs of samples through the model, logits of the completions' tokens only, `images` images encoded.

    `shared`: share of the samples' tokens that are computed for another sample; attention is taken to fall with it.
    """
    matrices = sum(2 * shape.layers * shape.layer_weights * (row.prompt + row.completion) for row in rows)
    attention = sum(shape.attention_flops(row.prompt + row.completion) for row in rows)
    head = sum(2 * shape.head_weights * row.completion for row in rows)
    return (1 - shared) * (matrices + attention) + head + images * shape.vision.forward_flops(*size)


def update_flops(
    shape: ModelShape,
    rows: Sequence[Tokens],
    images: int,
    size: tuple[int, int],
    mode: Mode,
    rank: int = 0,
    shared: float = 0.0,
) -> float:
    """FLOPs of forward and backward. Backward is twice the forward: gradients of the inputs and of the weights.

    With LoRA the weights of the model have no gradient (once the forward instead of twice), attention has all of its
    backward, the encoder has none, and the adapters are trained.
    """
    if mode == "full":
        return 3 * forward_flops(shape, rows, images, size, shared)
    tokens = (1 - shared) * sum(row.prompt + row.completion for row in rows)
    attention = (1 - shared) * sum(shape.attention_flops(row.prompt + row.completion) for row in rows)
    vision = images * shape.vision.forward_flops(*size)
    matrices = forward_flops(shape, rows, images, size, shared) - attention - vision
    return 2 * matrices + 3 * attention + vision + 6 * tokens * shape.adapter_parameters(rank)


def training_bytes(
    shape: ModelShape, mode: Mode, *, rank: int = 0, float32_masters: bool = False, reference: bool = True
) -> dict[str, int]:
    """Bytes in memory between two steps and during an update, without activations.

    full  bfloat16 weights, gradients and two AdamW moments; with `float32_masters` (DeepSpeed) the moments and a copy
          of the weights are float32; a frozen reference model in bfloat16
    lora  bfloat16 weights, float32 adapters with gradients and moments; the reference is the model without adapters
    """
    n = shape.parameters
    if mode == "lora":
        adapters = shape.adapter_parameters(rank)
        return {"weights": 2 * n, "adapters": 4 * adapters, "gradients": 4 * adapters, "optimizer": 8 * adapters}
    return {
        "weights": 2 * n,
        "gradients": 2 * n,
        "optimizer": 12 * n if float32_masters else 4 * n,
        "reference": 2 * n if reference else 0,
    }
