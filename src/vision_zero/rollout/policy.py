"""Interface of a policy, and the requests that it answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vision_zero.rollout.game_images import GameImage
from vision_zero.types import Completion, Game, Prompt, Stage, Turn


@dataclass(frozen=True)
class TokenLimits:
    """Bounds of the sampled tokens of a completion: no end token before `minimum`, cut at `maximum`."""

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ValueError(f"token limits need 0 <= minimum <= maximum >= 1, got {self.minimum} and {self.maximum}")


TokenLimitsByStage = dict[Stage, TokenLimits]


@dataclass(frozen=True)
class TurnRequest:
    """Turn to answer. A model sees `prompt` and `image`; only scripted players look at `game`.

    `table` tells apart what is played at once on one deal, in an arena.
    """

    game: Game
    turn: Turn
    prompt: Prompt
    image: GameImage
    seed: int
    token_limits: TokenLimits
    table: int = 0


class NotFiniteError(RuntimeError):
    """A number of the model or of its training is NaN or infinite."""


class PromptTooLongError(RuntimeError):
    """A prompt and its longest completion exceed the context of an engine."""


class Policy(Protocol):
    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        """One completion per request, in the order of `requests`."""
        ...


class QueuedPolicy(ABC):
    """Policy with a queue, such as a serving engine: turns are returned as they finish, in any order."""

    @abstractmethod
    def submit(self, request: TurnRequest) -> None:
        """Add a turn to the queue."""

    @abstractmethod
    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        """Wait until at least one turn is answered; all that are. Empty only if the queue is empty."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        """Completions of `requests`, in their order, when all of them are done."""
        if len({request.turn for request in requests}) < len(requests):
            raise ValueError(f"{type(self).__name__} cannot tell apart two tables of one deal")
        for request in requests:
            self.submit(request)
        completions: dict[Turn, Completion] = {}
        while len(completions) < len(requests):
            done = self.poll()
            if not done:
                raise RuntimeError(f"{type(self).__name__} answered {len(completions)} of {len(requests)} turns")
            completions |= {request.turn: completion for request, completion in done}
        return [completions[request.turn] for request in requests]
