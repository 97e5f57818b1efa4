"""Cache of a policy's completions, for match-ups that share turns.

Match-ups that differ in one role share most of their turns: with the same clues, image and seed the completion is the
same, so it is computed once. A cache can be handed to another policy of the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.types import Completion

CacheKey = tuple[str, str, int]
"""Image key, prompt, seed: what a completion depends on. Scripted players look at the game too, which these determine
for a given deal."""


class CachedPolicy:
    """A policy that answers as `policy` and looks up what it was asked before or what `cache` holds at the start.

    Prompt tokens and log-probabilities are dropped, since nobody trains on an evaluation: texts and lengths stay.
    """

    def __init__(self, policy: Policy, cache: Mapping[CacheKey, Completion] | None = None) -> None:
        self.policy = policy
        self.cache: dict[CacheKey, Completion] = dict(cache or {})

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        keys = [(request.image.key, request.prompt.text, request.seed) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.cache}
        if new:
            completions = self.policy.answer(list(new.values()))
            for key, completion in zip(new, completions, strict=True):
                self.cache[key] = replace(completion, prompt_ids=(), logprobs=())
        return [self.cache[key] for key in keys]
