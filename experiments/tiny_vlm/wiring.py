"""Weights that begin with a look-up: heads that look back and heads that look for the same word.

Who said a word takes two steps, carrying the seat to the word and finding the word again, and neither pays without the
other: from plain random weights it stays at chance for thousands of steps. Begun like this it takes two hundred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from tiny_vlm.files import HEAD_DIM, HIDDEN, ROPE_THETA, _first_release_config


def new_model(folder: Path, seed: int) -> Any:
    """Random weights, except that looking up who said a word is wired into the first heads of three layers.

    The usual standard deviation of 0.02 is made for widths in the thousands; at a width of 128 the same training stays
    blind for an hour. Weights start at 0.08 (about 1 / sqrt(128)), token embeddings at 1, so that a token stays louder
    than what the layers add to it.
    """
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(_first_release_config(folder), dtype=torch.float32)
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
    r"""Start with the path from a word in a reply, `said cube \boxed{`, to the seat before it, `3: red cube`.

    It needs three things at once (a seat moves to the words after it, a word finds its like, what was found moves to
    the box), none of which is of use alone, so chance takes an hour to find them. Here each is a head: in the first
    layer heads look 2 and 3 tokens back and note what they see, in the second two heads look at tokens like their own
    and take the note, in the last one head looks 3 tokens back. Every note has 32 directions of its own.
    """
    directions, _ = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))
    token, note, found, also_token = directions.split(HEAD_DIM, dim=1)
    first, second, last = attentions[0], attentions[1], attentions[-1]
    look_back(first, (1, 2, 3, 4))
    look_back(last, (3, 1))
    for head in (1, 2):
        carry(first, head, token, note, 1.0)
    for head, alike in ((0, token), (1, also_token)):
        look_for_the_same(second, head, alike)
        carry(second, head, note, found, 3.0)
    carry(last, 0, found, token, 3.0)


def carry(attention: Any, head: int, source: torch.Tensor, target: torch.Tensor, gain: float) -> None:
    """The head reads the directions `source` [hidden, head_dim] where it looks and writes them into `target`."""
    rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    attention.v_proj.weight[rows] = source.T
    attention.o_proj.weight[:, rows] = gain * target


def look_for_the_same(attention: Any, head: int, directions: torch.Tensor, loudness: float = 1.5) -> None:
    """Equal queries and keys, in the slow rotary frequencies only, for which near and far are alike."""
    start, half = head * HEAD_DIM, HEAD_DIM // 2
    slow = [dim for dim in range(HEAD_DIM) if dim % half >= 5]
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[start : start + HEAD_DIM] = 0
        for column, dim in enumerate(slow):
            projection.weight[start + dim] = loudness * directions[:, column]


def look_back(attention: Any, offsets: Sequence[int], loudness: float = 6.0) -> None:
    """Heads 0, 1, ... look `offsets` tokens back, by biases in the fast rotary frequencies."""
    rows = len(offsets) * HEAD_DIM
    attention.q_proj.weight[:rows] *= 0.3
    attention.k_proj.weight[:rows] *= 0.3
    for head, offset in enumerate(offsets):
        for frequency in range(3):
            angle = offset * ROPE_THETA ** (-frequency / (HEAD_DIM // 2))
            first, second = head * HEAD_DIM + frequency, head * HEAD_DIM + frequency + HEAD_DIM // 2
            attention.k_proj.bias[first] = loudness
            attention.q_proj.bias[first] = loudness * math.cos(angle)
            attention.q_proj.bias[second] = -loudness * math.sin(angle)
