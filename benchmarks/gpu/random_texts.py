"""Players that keep the tokens a model samples and replace their texts by random votes and clues.

Completions of random weights cannot be parsed, so every reward would be equal and every gradient 0. The texts are drawn
from the turn's seed: votes for some player, clues of about 60 characters. The tokens are trained on; the texts give
them rewards, and the next prompts their usual length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from vision_zero.rollout.play import Seating
from vision_zero.rollout.policy import Policy, QueuedPolicy, TurnRequest
from vision_zero.types import Completion, Stage


def with_text(request: TurnRequest, completion: Completion) -> Completion:
    draw = random.Random(request.seed)
    if request.turn.stage == "decision":
        return replace(completion, text=f"\\boxed{{{draw.randint(1, request.game.rules.n_players)}}}")
    return replace(
        completion, text=f"\\boxed{{there are {draw.randrange(100)} objects left of the red cylinder near the wall}}"
    )


class RandomTexts:
    """The player for a policy without a queue."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        completions = self.policy.answer(requests)
        return [with_text(request, completion) for request, completion in zip(requests, completions, strict=True)]


class QueuedRandomTexts(QueuedPolicy):
    """The player for a policy with a queue, which it keeps: games do not wait for each other."""

    def __init__(self, policy: QueuedPolicy) -> None:
        self.policy = policy

    def submit(self, request: TurnRequest) -> None:
        self.policy.submit(request)

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        return [(request, with_text(request, completion)) for request, completion in self.policy.poll()]


def random_texts(policy: Policy, stage: Stage) -> Seating:
    """`players` of a trainer: the policy that trains in every role."""
    return Seating.of(QueuedRandomTexts(policy) if isinstance(policy, QueuedPolicy) else RandomTexts(policy))
