"""Initial weights with a look-up: heads that attend to earlier tokens and heads that attend to equal words.

To find who said a word takes two steps, copying the seat to the word and finding the word again, and neither lowers the
loss alone: from random weights it stays at chance for thousands of steps, from these it is learnt in two hundred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from tiny_vlm.files import HEAD_DIM, HIDDEN, ROPE_THETA, first_release_config


def new_model(folder: Path, seed: int) -> Any:
    """Random weights, with the look-up wired into the first heads of three layers.

    The usual standard deviation of 0.02 is for widths in the thousands; at a width of 128 it trains far too slowly.
    Weights start at 0.08 (about 1 / sqrt(128)), token embeddings at 1, so that a token outweighs what layers add to it.
    """
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(first_release_config(folder), dtype=torch.float32)
    text = model.model.language_model
    with torch.no_grad():
        text.embed_tokens.weight.normal_(0, 1.0)
        text.norm.weight.fill_(0.1)
        for layer in text.layers:
            layer.mlp.down_proj.weight.mul_(0.4)
            layer.self_attn.o_proj.weight.mul_(0.2)
        wire_lookup([layer.self_attn for layer in text.layers])
    return model


def wire_lookup(attentions: Sequence[Any]) -> None:
    r"""Wire the path from a word in a completion, `said cube \boxed{`, to the seat before it, `3: red cube`.

    In the first layer, heads copy tokens 2 and 3 positions back into a subspace of their own (32 directions); in the
    second, two heads attend to equal tokens and copy that subspace; in the last, one head copies it from 3 positions
    back. None of the three lowers the loss alone.
    """
    directions, _ = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))
    token, note, found, also_token = directions.split(HEAD_DIM, dim=1)
    first, second, last = attentions[0], attentions[1], attentions[-1]
    attend_back(first, (1, 2, 3, 4))
    attend_back(last, (3, 1))
    for head in (1, 2):
        copy_subspace(first, head, token, note, 1.0)
    for head, alike in ((0, token), (1, also_token)):
        attend_to_equal_tokens(second, head, alike)
        copy_subspace(second, head, note, found, 3.0)
    copy_subspace(last, 0, found, token, 3.0)


def copy_subspace(attention: Any, head: int, source: torch.Tensor, target: torch.Tensor, gain: float) -> None:
    """Let the head copy the subspace `source` [hidden, head_dim] of the attended token into `target`."""
    rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    attention.v_proj.weight[rows] = source.T
    attention.o_proj.weight[:, rows] = gain * target


def attend_to_equal_tokens(attention: Any, head: int, directions: torch.Tensor, scale: float = 1.5) -> None:
    """Set equal queries and keys, in the slow rotary frequencies only, which hardly depend on distance."""
    start, half = head * HEAD_DIM, HEAD_DIM // 2
    slow = [dim for dim in range(HEAD_DIM) if dim % half >= 5]
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[start : start + HEAD_DIM] = 0
        for column, dim in enumerate(slow):
            projection.weight[start + dim] = scale * directions[:, column]


def attend_back(attention: Any, offsets: Sequence[int], scale: float = 6.0) -> None:
    """Let heads 0, 1, ... attend `offsets` tokens back, by biases in the fast rotary frequencies."""
    rows = len(offsets) * HEAD_DIM
    attention.q_proj.weight[:rows] *= 0.3
    attention.k_proj.weight[:rows] *= 0.3
    for head, offset in enumerate(offsets):
        for frequency in range(3):
            angle = offset * ROPE_THETA ** (-frequency / (HEAD_DIM // 2))
            first, second = head * HEAD_DIM + frequency, head * HEAD_DIM + frequency + HEAD_DIM // 2
            attention.k_proj.bias[first] = scale
            attention.q_proj.bias[first] = scale * math.cos(angle)
            attention.q_proj.bias[second] = -scale * math.sin(angle)
