"""Upper bound of the prompt tokens that a prefix cache reuses, from the prompts alone."""

from __future__ import annotations

from collections.abc import Sequence


def best_possible_reuse(asked: Sequence[tuple[str, Sequence[int]]], block: int) -> int:
    """Prompt tokens that an unlimited prefix cache would reuse, for requests (image, prompt ids) in order.

    Whole blocks only, and never the last token, which must be computed for there to be something to sample from.
    """
    seen: set[tuple[str, tuple[int, ...]]] = set()
    reused = 0
    for image, ids in asked:
        prefixes = [(image, tuple(ids[:end])) for end in range(block, len(ids) + 1, block)]
        known = 0
        while known < len(prefixes) and prefixes[known] in seen and (known + 1) * block < len(ids):
            known += 1
        reused += known * block
        seen.update(prefixes)
    return reused
