"""Attention of grouped queries (GQA, arXiv 2305.13245) that copies no keys and values.

With a mask, transformers' "sdpa" repeats keys and values for every query head before it calls PyTorch: for every
sampled token and layer it copies the whole cache. Here the heads of a group are rows of one product instead:

    one query token      queries [B, H, 1, d] are seen as [B, K, H/K, d] against keys [B, K, L, d], masked alike
    more, on a CPU       `enable_gqa` of PyTorch, whose CPU kernel takes it with a mask
    more, on a GPU       as transformers does it: with a mask and `enable_gqa` PyTorch would leave its fused kernels

Rows that share prefixes have a mask of `paths`. A CPU computes them segment by segment, without the pairs of tokens
that do not attend to each other; on a GPU the many small kernels would cost more than these.

The result is that of "sdpa" up to rounding. It is registered under a name of its own, so that other models of the
process keep theirs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

GROUPED_SDPA = "grouped_sdpa"

SegmentPath = tuple[int, tuple[int, ...]]
"""Length of a segment of a row, and the numbers of the segments before it that it attends to, beside itself."""


def grouped_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of queries [B, H, Q, d] to keys and values [B, K, L, d], masked by [B, 1, Q, L]: [B, Q, H, d], None."""
    paths = getattr(attention_mask, "paths", None)
    if paths is not None and query.device.type == "cpu":
        return _along_paths(query, key, value, paths, dropout, scaling), None
    batch, heads, n_queries, _ = query.shape
    n_groups = key.shape[1]
    plain = heads == n_groups or attention_mask is None or attention_mask.shape[1] > 1
    plain = plain or kwargs.get("position_bias") is not None
    if plain or (n_queries > 1 and query.device.type != "cpu"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if n_queries == 1:
        grouped = query.view(batch, n_groups, heads // n_groups, -1)
        output = scaled_dot_product_attention(grouped, key, value, attention_mask, dropout, scale=scaling)
        return output.reshape(batch, 1, heads, -1), None
    output = scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2).contiguous(), None


def _along_paths(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    paths: Sequence[Sequence[SegmentPath]],
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """`grouped_sdpa` of rows in segments: a token attends to the segments that lead to its own, and up to itself."""
    rows = []
    for number, segments in enumerate(paths):
        lengths = [length for length, _ in segments]
        queries, keys, values = (states[number : number + 1].split(lengths, dim=2) for states in (query, key, value))
        outputs = []
        for here, (length, leads) in enumerate(segments):
            seen = [*leads, here]
            some_keys, some_values = (torch.cat([states[k] for k in seen], dim=2) for states in (keys, values))
            n_before = some_keys.shape[2] - length
            mask = query.new_ones(length, n_before + length, dtype=torch.bool).tril(n_before) if leads else None
            outputs.append(
                scaled_dot_product_attention(
                    queries[here], some_keys, some_values, mask, dropout, not leads, scale=scaling, enable_gqa=True
                )
            )
        rows.append(torch.cat(outputs, dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous()


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)


def attends_to_all(model: PreTrainedModel) -> bool:
    """Whether every layer of the language model attends to all tokens before. Raises ValueError for other layers
    than attention: their state is not one of single tokens, which could be cut, joined and padded.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise ValueError(f"{type(model).__name__} has {', '.join(other)} layers, which no player here can play")
    if kinds:
        return kinds == {"full_attention"}
    return not (getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None))


def use_grouped_sdpa(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with this attention in its language model, if that uses "sdpa"; its files will not know of it."""
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = GROUPED_SDPA
    return model
