"""Memory and time of an iteration on a card, by part: formulas alone, no torch.

Times are floors: what the card's peak rates allow if all else were free. FLOPs of the update do not count what
gradient checkpointing computes twice, so floor / measured time of the update is the MFU. Bytes of activations and head
are those of the real step on fake tensors, within 5% (tests/plan/test_plan_fake_step.py).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from vision_zero.plan.shape import HERE, ModelShape

Mode = Literal["full", "lora"]
GIB = 2**30
HEAD_TOKENS, HEAD_COLUMNS = 4096, 32768  # TRL computes logits in such tiles


@dataclass(frozen=True)
class Card:
    """Peak rates of a card by its data sheet: dense bfloat16 FLOP/s, bytes/s of its memory and to another; GiB."""

    flops: float
    bandwidth: float
    link: float = 0.0
    gib: float = 0.0


CARDS = {
    name: Card(row["tflops"] * 1e12, row["bandwidth"] * 1e12, row["link"] * 1e9, row["memory"])
    for name, row in yaml.safe_load((HERE / "cards.yaml").read_text("utf-8")).items()
}
KINDS = {"24": "RTX 4090", "48": "L40S", "80": "A100"}


def card_of(name: str) -> Card | None:
    """The card whose name the driver gives, the first that fits; None for one that is not in the table, or a part."""
    name = KINDS.get(name, name)
    if re.search(r"MIG|Laptop|GH200", name):
        return None
    return next((card for known, card in CARDS.items() if known.lower() in name.lower()), None)


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
    # To make one token the layers and the head are read; of an embedding, one row.
    weights = 2 * (shape.language_parameters - (0 if shape.tied else shape.head_weights)) + adapter_bytes
    for call in calls:
        alike = Counter(call).items()
        for step in range(1, max(completion.completion for completion in call)):
            live = [(completion.prompt + step, times) for completion, times in alike if completion.completion > step]
            bytes_read = weights + shape.kv_bytes() * sum(context * times for context, times in live)
            flops = sum(times * shape.token_flops(context, head=True) for context, times in live)
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


def forward_bytes(shape: ModelShape, tokens: int, mode: Mode) -> int:
    """Of a forward of `tokens` tokens without gradients: the MLP of one layer."""
    i = shape.intermediate * (shape.experts_per_token or 1)
    return tokens * (6 * i + 7 * shape.hidden if mode == "full" else 8 * i + 13 * shape.hidden)


def layer_bytes(shape: ModelShape, tokens: int, mode: Mode, *, pairs: int = 0) -> int:
    """Of the layer that gradient checkpointing computes again, and its backward: so many values of each width a token.

    All weights also need the gradient of the largest matrix before it is added, `pairs` (places of masks) a bias.
    """
    h, q, kv = shape.hidden, shape.query_width, shape.kv_width
    i = shape.intermediate * (shape.experts_per_token or 1)
    if mode == "full":
        values = 18 * h + 10 * i + (14 * q + 6 * kv if shape.qk_norm else 8 * q)
    else:
        values = 28 * h + 14 * i + (14 * q + 4 * kv if shape.qk_norm else 11 * q)
    return tokens * (values + 700) + 2 * pairs + (2 * h * shape.intermediate if mode == "full" else 0)


def head_bytes(shape: ModelShape, scored: int, mode: Mode) -> int:
    """Of log-probabilities of `scored` tokens and their backward: a tile, gradients of hidden states, and for all
    weights the head's, in float32 and rounded."""
    tile = 2 * min(scored, HEAD_TOKENS) * HEAD_COLUMNS
    return tile + 6 * scored * shape.hidden + (6 * shape.head_weights if mode == "full" else 0)


def activation_bytes(shape: ModelShape, tokens: int, scored: int, mode: Mode, *, pairs: int = 0) -> tuple[int, int]:
    """Of an update of `tokens` tokens: inputs of all layers with one layer, and what the head takes beyond that layer.

    The head runs when no layer is computed, behind the last norm (in float32 and rounded).
    """
    layer = layer_bytes(shape, tokens, mode, pairs=pairs)
    head = head_bytes(shape, scored, mode) + 6 * tokens * shape.hidden + 2 * scored * shape.hidden
    return 2 * tokens * shape.layers * shape.hidden + layer, max(0, head - layer)
