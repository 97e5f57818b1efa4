"""What this repository did before its savings at sizes where arithmetic counts, to be timed beside them in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from transformers import PreTrainedModel

from vision_zero.models.attention import GROUPED_SDPA
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.trainer import prefix_sharing
from vision_zero.trainer.packed_forward import PackedForward
from vision_zero.trainer.prefix_sharing import pack_groups


def one_width(policy: TransformersPolicy, rows: Any) -> Any:
    """All prompts of a turn in one forward, as wide as the one that reuses least."""
    image_token = policy.model.config.image_token_id
    found = [policy._prefixes.find(row.image_key, row.prompt.ids, image_token) for row in rows]
    if not all(length for _, length in found):
        found = [(None, 0)] * len(rows)  # as wide as it was: the width of the longest prompt
    return policy._prefill_together(rows, found)


def one_prefix(
    rows: Sequence[int], prompts: Mapping[int, np.ndarray], lengths: Mapping[int, int]
) -> list[prefix_sharing._Segment]:
    """What all rows share, and then each row by itself."""
    end = prefix_sharing.common_prefix_length([prompts[row] for row in rows]) if len(rows) > 1 else 0
    shared = [prefix_sharing._Segment(list(rows), 0, end, None)] if end else []
    own = [prefix_sharing._Segment([row], end, lengths[row], 0 if shared else None) for row in rows]
    return [*shared, *own]


def rows_of_one_length(groups: list[prefix_sharing._Group], most: int) -> list[list[prefix_sharing._Group]]:
    """Shared rows no longer than the longest group, never all groups in one."""
    return pack_groups(groups, max(map(prefix_sharing.length_of, groups)))


@contextmanager
def as_before(*models: PreTrainedModel, packed: PackedForward | None = None) -> Iterator[None]:
    """Keys and values repeated for every head, one width of prompts in a rollout, one prefix of a group of samples.

    `packed` cuts the samples by what pairs of tokens cost with a mask; that was asked when its trainer was made.
    """
    with ExitStack() as patches:
        for model in models:
            config = model.config.get_text_config()
            if config._attn_implementation == GROUPED_SDPA:
                patches.enter_context(patch.object(config, "_attn_implementation_internal", "sdpa"))
        patches.enter_context(patch.object(TransformersPolicy, "_prefill", one_width))
        patches.enter_context(patch.object(prefix_sharing, "tree_of", one_prefix))
        patches.enter_context(patch.object(prefix_sharing, "pack_groups", rows_of_one_length))
        if packed is not None and packed.shares_prefixes:
            cost = prefix_sharing.pair_cost(packed.model, packed.accelerator.device)
            patches.enter_context(patch.object(packed, "_pair_cost", cost))
        yield
