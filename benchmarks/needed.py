"""FLOPs that playing and training need at least: every distinct beginning of a prompt and every image computed once.

Utilisation is these FLOPs over what a thread's own matrix products would do in the same time. Padding, tokens computed
twice and pairs of tokens that do not attend to each other are not needed, so they lower it. FLOPs of one token, one
pair and one image are those of `vision_zero.plan.shape`; backward is twice the forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from vision_zero.game.spy_game import view_of
from vision_zero.plan.shape import ModelShape, read_config, read_shape
from vision_zero.rollout.play import Rollout

Row = tuple[str, Sequence[int], Sequence[int]]
"""Image key, prompt, completion."""


def shape_of(folder: str | Path) -> ModelShape | None:
    """Sizes of the model of a folder; None if it is no Qwen2.5-VL."""
    config = read_config(str(folder))
    return read_shape(config) if config["model_type"] == "qwen2_5_vl" else None


def tree(sequences: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Tokens of the tree of `sequences`, and pairs of a token with itself and those before it."""
    tokens = pairs = 0
    before: Sequence[int] = ()
    for sequence in sorted(tuple(one) for one in sequences):
        shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(before, sequence, strict=False)))
        tokens += len(sequence) - shared
        pairs += sum(range(shared + 1, len(sequence) + 1))
        before = sequence
    return tokens, pairs


def said_in(rollout: Rollout) -> list[Row]:
    """All completions of a rollout."""
    return [
        (
            rollout.images[game.index, view_of(game, said.turn)].key,
            said.completion.prompt_ids,
            said.completion.token_ids,
        )
        for game in rollout.games
        for said in (*game.clues, *game.votes)
    ]


def forward_flops(shape: ModelShape, rows: Iterable[Row], size: tuple[int, int], *, sampled: bool) -> float:
    """One forward of rows; of `sampled` completions the last token need not be read. Logits of completions alone."""
    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[row[0]].append(row)
    flops = 0.0
    for some in by_image.values():
        tokens, pairs = tree([*prompt, *(said[:-1] if sampled else said)] for _, prompt, said in some)
        flops += 2 * shape.layers * shape.layer_weights * tokens + 4 * shape.layers * shape.query_width * pairs
        flops += 2 * shape.head_weights * sum(len(said) for _, _, said in some)
        flops += shape.vision.forward_flops(*size)
    return flops
