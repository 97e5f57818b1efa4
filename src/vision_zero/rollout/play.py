"""Games played by one policy per role, in one of two ways that give the same games.

* Lock-step: every call of a policy holds all its open turns, over all games, so N games of p players and r rounds cost
  p * r + 1 calls however large N is. The longest completion of a call delays all games.
* Continuous, if every policy has a queue: a game's next turn is submitted as soon as its last one is answered, and the
  votes of a finished game start while other games are still at their clues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, open_turns, turn_seed
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.rollout.policy import Policy, QueuedPolicy, TokenLimitsByStage, TurnRequest
from vision_zero.types import Completion, Game, Role, Turn


@dataclass(frozen=True)
class Seating:
    """Policy of each role; in training one policy has all three. The games `past_games` are seated as `past` says."""

    civilian: Policy
    spy: Policy
    voter: Policy
    past: Seating | None = None
    past_games: frozenset[int] = frozenset()

    @classmethod
    def of(cls, policy: Policy) -> Seating:
        return cls(policy, policy, policy)

    def policy(self, game: Game, turn: Turn) -> Policy:
        if self.past is not None and game.index in self.past_games:
            return self.past.policy(game, turn)
        if turn.stage == "decision":
            return self.voter
        return self.spy if game.role(turn.seat) is Role.SPY else self.civilian

    def queues(self) -> list[QueuedPolicy] | None:
        """The distinct policies, or None if one of them has no queue."""
        seatings = [self, *([self.past] if self.past and self.past_games else [])]
        policies = {id(one): one for seats in seatings for one in (seats.civilian, seats.spy, seats.voter)}.values()
        queued = [policy for policy in policies if isinstance(policy, QueuedPolicy)]
        return queued if len(queued) == len(policies) else None


@dataclass(frozen=True)
class Rollout:
    """Games in the order given, and the cost: `calls` of `answer` in lock-step, else of `poll` that returned turns."""

    games: list[Game]
    images: GameImages
    calls: int
    seconds: float


def play(
    games: Sequence[Game],
    seating: Seating,
    token_limits: TokenLimitsByStage,
    *,
    images: GameImages | None = None,
    template: str = "auto",
    lock_step: bool = False,
    on_call: Callable[[int], None] | None = None,
) -> Rollout:
    """Play `games` to their end, on `images` if they are open already; continuously if possible and not `lock_step`.

    `on_call` gets the number of turns that each call answered. Raises whatever the policies and `open_images` raise.
    """
    start = time.perf_counter()
    images = open_images(games) if images is None else images
    batch = _Batch(_by_index(games), seating, token_limits, images, template)
    queues = None if lock_step else seating.queues()
    calls = 0
    for n_turns in _play_in_lock_step([batch]) if queues is None else _play_continuously(batch, queues):
        calls += 1
        if on_call is not None:
            on_call(n_turns)
    return Rollout(list(batch.games.values()), images, calls, time.perf_counter() - start)


def play_side_by_side(
    tables: Sequence[tuple[Sequence[Game], Seating]],
    token_limits: TokenLimitsByStage,
    *,
    images: GameImages,
    template: str = "auto",
    on_call: Callable[[int], None] | None = None,
) -> list[list[Game]]:
    """The games of every table, played in lock-step as `play` would, all tables in the same calls.

    Tables may be of the same deals with other seatings, and then ask their policies for much in common.
    """
    batches = [
        _Batch(_by_index(games), seating, token_limits, images, template, number)
        for number, (games, seating) in enumerate(tables)
    ]
    for n_turns in _play_in_lock_step(batches):
        if on_call is not None:
            on_call(n_turns)
    return [list(batch.games.values()) for batch in batches]


def _by_index(games: Sequence[Game]) -> dict[int, Game]:
    found = {game.index: game for game in games}
    if len(found) != len(games):
        raise ValueError("two games of a batch have the same index, so they would be the same game")
    return found


@dataclass(frozen=True)
class _Batch:
    """Games in progress, by index; `record_completion` replaces them."""

    games: dict[int, Game]
    seating: Seating
    token_limits: TokenLimitsByStage
    images: GameImages
    template: str
    number: int = 0

    def open_requests(self, game: Game) -> list[tuple[Policy, TurnRequest]]:
        """Requests for the open turns of `game`, each with its policy."""
        requests = []
        for turn in open_turns(game):
            prompt = render(game, turn, self.template)
            image = self.images[game.index, prompt.view]
            limits = self.token_limits[turn.stage]
            request = TurnRequest(game, turn, prompt, image, turn_seed(game.seed, turn), limits, self.number)
            requests.append((self.seating.policy(game, turn), request))
        return requests

    def record_completion(self, request: TurnRequest, completion: Completion) -> Game:
        index = request.turn.game
        self.games[index] = answer(self.games[index], request.turn, completion)
        return self.games[index]


def _play_in_lock_step(batches: Sequence[_Batch]) -> Iterator[int]:
    """Yields the number of turns of each call. A completion's seconds are an even share of its call's."""
    while pending := [
        request for batch in batches for game in batch.games.values() for request in batch.open_requests(game)
    ]:
        by_policy: dict[int, tuple[Policy, list[TurnRequest]]] = {}
        for policy, request in pending:
            by_policy.setdefault(id(policy), (policy, []))[1].append(request)
        for policy, requests in by_policy.values():
            start = time.perf_counter()
            completions = policy.answer(requests)
            seconds = (time.perf_counter() - start) / len(requests)
            if len(completions) != len(requests):
                raise RuntimeError(f"{type(policy).__name__} answered {len(completions)} of {len(requests)} turns")
            for request, completion in zip(requests, completions, strict=True):
                batches[request.table].record_completion(request, replace(completion, seconds=seconds))
            yield len(requests)


def _play_continuously(batch: _Batch, queues: Sequence[QueuedPolicy]) -> Iterator[int]:
    """Yields the number of turns of each answer. A completion's seconds are those between `submit` and `poll`."""
    submitted: dict[Turn, float] = {}

    def submit_open_turns(game: Game) -> None:
        for policy, request in batch.open_requests(game):
            assert isinstance(policy, QueuedPolicy)  # checked by `Seating.queues`
            policy.submit(request)
            submitted[request.turn] = time.perf_counter()

    for game in list(batch.games.values()):
        submit_open_turns(game)
    while submitted:
        done = [answered for queue in queues for answered in queue.poll()]
        if not done:
            raise RuntimeError(f"{len(submitted)} turns were handed over and never answered")
        for request, completion in done:
            seconds = time.perf_counter() - submitted.pop(request.turn)
            game = batch.record_completion(request, replace(completion, seconds=seconds))
            # All votes of a game are submitted after its last clue; a vote opens no further turn.
            if request.turn.stage == "clue":
                submit_open_turns(game)
        yield len(done)
