"""What the engine asks of a player: `Policy`, the requests it gets, and the images that go with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vision_zero.rollout.game_images import GameImage
from vision_zero.types import Game, Prompt, Reply, Stage, Turn


@dataclass(frozen=True)
class TokenLimits:
    """Sampled tokens per reply: no end token before `minimum`, cut at `maximum`."""

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ValueError(f"token limits need 0 <= minimum <= maximum >= 1, got {self.minimum} and {self.maximum}")


@dataclass(frozen=True)
class TurnRequest:
    """One turn to answer. A model sees `prompt` and `image`; only scripted players look at `game`."""

    game: Game
    turn: Turn
    prompt: Prompt
    image: GameImage
    seed: int
    limits: TokenLimits


class PromptTooLongError(RuntimeError):
    """A prompt and its longest reply do not fit into what an engine can hold."""


class Policy(Protocol):
    """Anything that answers turns, in the order asked."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]: ...


class QueuedPolicy(ABC):
    """A policy with a queue of its own, such as a serving engine: turns are answered in the order they get done.

    Turns that wait at the same time are worked on together, so a game need not wait for the others of its batch.
    """

    @abstractmethod
    def submit(self, request: TurnRequest) -> None:
        """Put a turn into the queue."""

    @abstractmethod
    def advance(self) -> list[tuple[TurnRequest, Reply]]:
        """Work until at least one turn is answered, and return what is. Empty only if no turn waits."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        """All of `requests` at once, waiting for the slowest."""
        for request in requests:
            self.submit(request)
        replies: dict[Turn, Reply] = {}
        while len(replies) < len(requests):
            done = self.advance()
            if not done:
                raise RuntimeError(f"{type(self).__name__} answered {len(replies)} of {len(requests)} turns")
            replies |= {request.turn: reply for request, reply in done}
        return [replies[request.turn] for request in requests]


LimitsByStage = dict[Stage, TokenLimits]
