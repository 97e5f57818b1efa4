"""Rows with common prefixes are computed together: every prefix once, the rest of every row behind it.

The G votes of a game have one prompt; a clue's prompt is an image, the rules and the clues so far, so the prompts of an
image are a tree. Instead of rows that each repeat it, a forward sees its segments, depth first:

    shared by all | shared by rows 1 and 2 | rest of row 1 | rest of row 2 | rest of row 3 | ...

in which a token attends to its own segment and to those that lead to it, and has the position that it had in its row.
Every token sees what it saw, so log-probabilities and gradients are those of whole rows, up to rounding; a shared
segment is computed once, forward and backward, and its image stands there once. (Prefix Grouper, arXiv 2506.05433, does
the same for groups of one prompt with two attention calls; one call with a mask needs nothing of the model but to take
a mask.)
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from vision_zero.models.attention import GROUPED_SDPA, SegmentPath, attends_to_all
from vision_zero.rollout.transformers_policy import positions_of
from vision_zero.trainer.batching import Batch, n_weights, weights_per_token

MASKED_ATTENTION = (GROUPED_SDPA, "sdpa", "eager")
PADDING = -1
PACKED_TOKENS = 2048
"""Of a shared row of several groups; its mask has this many places squared."""


@dataclass(frozen=True)
class Layout:
    """Places of the tokens of rows [B, T] in shared rows [P, L].

    `source_PL` is the place of each token in the flattened rows, PADDING where there is none; `segment_PL` the number
    of its segment. `leads_SS` says which segments (columns) a segment's tokens attend to, `rows` which rows pass
    through it; the last segment is padding. `shown` are the rows whose images stand in the shared rows, in order.
    """

    source_PL: np.ndarray
    segment_PL: np.ndarray
    leads_SS: np.ndarray
    rows: list[list[int]]
    shown: list[int]


@dataclass(frozen=True)
class _Segment:
    """Tokens `start` to `end` of each of `rows`, the same for all; `parent` is the place of the segment before."""

    rows: list[int]
    start: int
    end: int
    parent: int | None


_Group = list[_Segment]
"""Rows that begin alike, as a tree: segments, each behind its parent."""


def length_of(group: _Group) -> int:
    return sum(segment.end - segment.start for segment in group)


def tree_of(rows: Sequence[int], prompts: Mapping[int, np.ndarray], lengths: Mapping[int, int]) -> _Group:
    """Segments of `rows`, each behind its parent; a row is its prompt and then what nobody shares."""
    segments: list[_Segment] = []

    def grow(rows: Sequence[int], start: int, parent: int | None) -> None:
        if len(rows) == 1:
            segments.append(_Segment(list(rows), start, lengths[rows[0]], parent))
            return
        end = start + common_prefix_length([prompts[row][start:] for row in rows])
        if end > start:
            segments.append(_Segment(list(rows), start, end, parent))
            parent = len(segments) - 1
        branches: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in rows:  # a prompt that ends here is alone: its last token is never shared
            alone = len(prompts[row]) == end + 1
            branches[int(prompts[row][end]), row if alone else PADDING].append(row)
        for branch in branches.values():
            grow(branch, end, parent)

    grow(rows, 0, None)
    return segments


def shared_layout(
    ids_BT: np.ndarray,
    mask_BT: np.ndarray,
    n_completion: int,
    images: Sequence[int],
    image_token: int,
    pair_cost: float = 0.0,
) -> Layout:
    """Layout of rows [prompt | completion], prompts padded left and completions right, with shared prefixes.

    `images` tells the rows' images apart; each row has one. The last token of a prompt is never shared, because what
    follows it differs. With a mask a long shared row is computed whole, with all pairs of its tokens, also those that
    do not attend to each other; of groups of at most 1, 2, 4 ... rows, in shared rows as long as the longest group or
    of PACKED_TOKENS, the cheapest are taken by P (L + pair_cost L^2), with `pair_cost` in tokens.
    """
    n_columns = ids_BT.shape[1]
    starts_B = mask_BT.argmax(axis=1)
    prompt_end = n_columns - n_completion
    prompts = {row: ids_BT[row, start:prompt_end] for row, start in enumerate(starts_B)}
    lengths = {row: len(prompts[row]) + int(mask_BT[row, prompt_end:].sum()) for row in prompts}
    by_image: dict[int, list[int]] = defaultdict(list)
    for row in sorted(prompts, key=lambda row: prompts[row].tolist()):  # neighbours have most in common
        by_image[images[row]].append(row)

    def groups_of(most: int) -> list[_Group]:
        found = []
        for rows in by_image.values():
            for start in range(0, len(rows), most):
                some = rows[start : start + most]
                first = prompts[some[0]]
                n_shared = common_prefix_length([prompts[row] for row in some])
                # An image behind words that differ is not shared.
                together = [some] if image_token not in first[n_shared:] else [[row] for row in some]
                found += [tree_of(rows, prompts, lengths) for rows in together]
        return found

    largest = max(len(rows) for rows in by_image.values())
    groupings = [groups_of(min(1 << k, largest)) for k in range((largest - 1).bit_length() + 1)]
    candidates = [
        pack_groups(groups, max(least, *map(length_of, groups))) for groups in groupings for least in (0, PACKED_TOKENS)
    ]

    def cost(places: list[list[_Group]]) -> float:
        length = _longest(places)
        return len(places) * (length + pair_cost * length**2)

    places = min(candidates, key=cost)
    n_segments = sum(len(group) for some in places for group in some)
    leads_SS = np.eye(n_segments + 1, dtype=bool)
    shape = (len(places), _longest(places))
    source_PL, segment_PL = np.full(shape, PADDING), np.full(shape, n_segments)
    rows_of: list[list[int]] = []
    for place, some in enumerate(places):
        column = 0
        for group in some:
            first_number = len(rows_of)
            for segment in group:
                number = len(rows_of)
                if segment.parent is not None:
                    leads_SS[number] |= leads_SS[first_number + segment.parent]
                row = segment.rows[0]
                here = slice(column, column + segment.end - segment.start)
                source_PL[place, here] = row * n_columns + starts_B[row] + np.arange(segment.start, segment.end)
                segment_PL[place, here] = number
                rows_of.append(segment.rows)
                column = here.stop
    shown = [group[0].rows[0] for some in places for group in some]
    return Layout(source_PL, segment_PL, leads_SS, [*rows_of, []], shown)


def pack_groups(groups: list[_Group], most: int) -> list[list[_Group]]:
    """Groups in shared rows, behind each other as long as that makes no row longer than `most` tokens."""
    places: list[list[_Group]] = []
    for group in sorted(groups, key=lambda one: -length_of(one)):
        for row in places:
            if sum(map(length_of, row)) + length_of(group) <= most:
                row.append(group)
                break
        else:
            places.append([group])
    return places


def _longest(places: list[list[_Group]]) -> int:
    return max(sum(map(length_of, row)) for row in places)


def common_prefix_length(prompts: Sequence[np.ndarray]) -> int:
    """Leading tokens that all prompts have in common, the last token of the shortest left out."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    differs = np.zeros(shortest, dtype=bool)
    for prompt in prompts[1:]:
        differs |= prompt[:shortest] != prompts[0][:shortest]
    return int(differs.argmax()) if differs.any() else shortest


def real_and_padded_shared_tokens(layout: Layout, batch: Batch) -> tuple[float, float]:
    """Tokens that are computed for rows that train, and all places of the shared rows.

    A dummy sample has no token that trains; what it shares with a row that does counts.
    """
    trains_B = (batch["completion_mask"] * batch.get("tool_mask", 1)).any(dim=1).tolist()
    counts_S = np.array([any(trains_B[row] for row in rows) for rows in layout.rows])
    return float(counts_S[layout.segment_PL].sum()), float(layout.source_PL.size)


def attention_mask(layout: Layout, device: torch.device) -> torch.Tensor:
    """[P, 1, L, L], True where a token attends: to its segment and those that lead to it, up to itself."""
    segment_PL = torch.as_tensor(layout.segment_PL, device=device)
    leads_SS = torch.as_tensor(layout.leads_SS, device=device)
    # Row after row: one index of all pairs takes four times as long, or more.
    masks = [leads_SS.index_select(1, numbers_L).index_select(0, numbers_L) for numbers_L in segment_PL]
    mask = torch.stack(masks).tril_()[:, None]
    mask.paths = [_paths(row, layout.leads_SS) for row in layout.segment_PL]  # type: ignore[attr-defined]
    return mask


def _paths(segment_L: np.ndarray, leads_SS: np.ndarray) -> list[SegmentPath]:
    """The segments of a shared row for `models.attention`, which may take them instead of the mask."""
    numbers, lengths = np.unique(segment_L, return_counts=True)  # they are numbered in their order
    return [
        (int(length), tuple(np.flatnonzero(leads_SS[number][numbers[:place]]).tolist()))
        for place, (number, length) in enumerate(zip(numbers, lengths, strict=True))
    ]


def pair_cost(model: PreTrainedModel, device: torch.device) -> float:
    """Cost of a pair of tokens in attention on `device`, in tokens of the language model, by multiplications.

    A pair takes two per layer and channel of the heads (query with key, weight with value), a token one per weight.
    0 where attention goes along paths, since any rows then have the same pairs. DeepSpeed moves a model to its device
    when training starts, so its weights do not tell.
    """
    config = model.config.get_text_config()
    if config._attn_implementation == GROUPED_SDPA and device.type == "cpu":
        return 0.0
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_pair = 2 * config.num_hidden_layers * config.num_attention_heads * head_size
    return float(per_pair / (weights_per_token(model) + n_weights([model.get_output_embeddings().weight])))


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """The reason why this model cannot be given shared rows, None if it can."""
    config = model.config.get_text_config()
    attention = config._attn_implementation
    if attention not in MASKED_ATTENTION:
        return f"attn_implementation={attention} takes no mask; sdpa and eager do"
    if not attends_to_all(model):
        return f"{type(model).__name__} has layers that do not attend to all of a row: its player reuses no prefix"
    if "token_type_ids" in signature(type(model.model).forward).parameters:
        return f"tokens of an image see each other in {type(model).__name__}"
    return None


def shared_inputs(
    model: PreTrainedModel,
    layout: Layout,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    n_completion: int,
    fields: dict[str, Any],
    grids: torch.Tensor | None,
) -> dict[str, Any]:
    """Arguments of `model`'s forward in place of the rows; labels are the completion tokens.

    `fields` has what TRL hands over with the rows: the numbers of images [B, 1] as `pixel_values`, and
    `mm_token_type_ids`; `grids` are the patch grids of these images.
    """
    device = ids_BT.device
    source = torch.as_tensor(layout.source_PL, device=device)
    is_token, place = source != PADDING, source.clamp(min=0)
    is_completion_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    is_completion_BT[:, -n_completion:] = mask_BT[:, -n_completion:].bool()
    ids_PL = ids_BT.flatten()[place].masked_fill(~is_token, int(ids_BT[0, -1]))
    labels_PL = ids_PL.masked_fill(~(is_token & is_completion_BT.flatten()[place]), -100)
    positions = positions_of(model.model, ids_BT, mask_BT, fields.get("mm_token_type_ids"), grids).flatten(-2)[
        ..., place
    ]
    mask = attention_mask(layout, device)
    if model.config.get_text_config()._attn_implementation == "eager":  # it adds its mask to the scores
        mask = torch.zeros(mask.shape, dtype=model.dtype, device=device).masked_fill(
            ~mask, torch.finfo(model.dtype).min
        )
    return {
        "input_ids": ids_PL,
        "attention_mask": mask,
        "position_ids": positions.masked_fill(~is_token, 0),
        "labels": labels_PL,
        "pixel_values": fields["pixel_values"][torch.tensor(layout.shown, device=device)],
    }


def gather_completions(
    values_PL: torch.Tensor, layout: Layout, mask_BT: torch.Tensor, n_completion: int
) -> torch.Tensor:
    """Values of the completion tokens [B, n_completion], 0 where there is none."""
    n_rows, n_columns = mask_BT.shape
    place_of = np.zeros(n_rows * n_columns, dtype=np.int64)
    is_token = layout.source_PL != PADDING
    place_of[layout.source_PL[is_token]] = np.flatnonzero(is_token)
    place_BT = torch.as_tensor(place_of.reshape(n_rows, n_columns)[:, -n_completion:], device=values_PL.device)
    return values_PL.flatten()[place_BT].masked_fill(mask_BT[:, -n_completion:] == 0, 0)
