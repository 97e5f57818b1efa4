"""Random weights say nothing that can be read, so every reward would be equal and every gradient 0.

These players answer with the tokens that the model sampled, under texts drawn from the turn's seed: votes for some
player, clues of about 60 characters. What is trained on are the tokens; the texts give them rewards, and the next
prompts the length they would have.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from vision_zero.rollout.play import Table
from vision_zero.rollout.policy import Policy, QueuedPolicy, TurnRequest
from vision_zero.types import Reply, Stage


def with_text(request: TurnRequest, reply: Reply) -> Reply:
    draw = random.Random(request.seed)
    if request.turn.stage == "decision":
        return replace(reply, text=f"\\boxed{{{draw.randint(1, request.game.rules.n_players)}}}")
    return replace(
        reply, text=f"\\boxed{{there are {draw.randrange(100)} objects left of the red cylinder near the wall}}"
    )


class Readable:
    """A policy that is asked for all turns at once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        replies = self.policy.answer(requests)
        return [with_text(request, reply) for request, reply in zip(requests, replies, strict=True)]


class ReadableQueue(QueuedPolicy):
    """A policy with a queue; it keeps it, so games do not wait for each other."""

    def __init__(self, policy: QueuedPolicy) -> None:
        self.policy = policy

    def submit(self, request: TurnRequest) -> None:
        self.policy.submit(request)

    def advance(self) -> list[tuple[TurnRequest, Reply]]:
        return [(request, with_text(request, reply)) for request, reply in self.policy.advance()]


def readable(policy: Policy, stage: Stage) -> Table:
    """`players` of a trainer: the policy that trains in every role."""
    return Table.of(ReadableQueue(policy) if isinstance(policy, QueuedPolicy) else Readable(policy))
