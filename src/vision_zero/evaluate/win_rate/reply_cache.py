"""A player that is asked nothing twice.

Line-ups that differ in one role share most of their turns: with the same clues, image and seed the reply is the same,
so it is computed once. What a player remembers can be handed to another that stands for the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.types import Reply

Question = tuple[str, str, int]
"""Image key, prompt, seed: what a reply depends on. (Scripted players look at the game too, which these determine for
a given deal.)"""


class RememberingPlayer:
    """Answers as `policy`; what was asked before, or is in `known`, is looked up.

    Prompt tokens and log-probabilities are dropped, since nobody trains on an evaluation: texts and lengths stay.
    """

    def __init__(self, policy: Policy, known: Mapping[Question, Reply] | None = None) -> None:
        self.policy = policy
        self.known: dict[Question, Reply] = dict(known or {})

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        questions = [(request.image.key, request.prompt.text, request.seed) for request in requests]
        new = {
            question: request
            for question, request in zip(questions, requests, strict=True)
            if question not in self.known
        }
        if new:
            replies = self.policy.answer(list(new.values()))
            for question, reply in zip(new, replies, strict=True):
                self.known[question] = replace(reply, prompt_ids=(), logprobs=())
        return [self.known[question] for question in questions]
