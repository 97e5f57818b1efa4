"""Play N games with a policy per role, in one of two ways that give the same games.

* Lock-step: every call holds every turn that can be asked now, over all games, so N games of p players and r rounds
  cost p * r + 1 calls however large N is. The longest reply of a call holds all games.
* Continuous, where every policy has a queue: a game asks its next turn the moment its last one is answered, and the
  votes of a finished game start while others still speak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, open_turns, turn_seed
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.rollout.policy import LimitsByStage, Policy, QueuedPolicy, TurnRequest
from vision_zero.types import Game, Reply, Role, Turn


@dataclass(frozen=True)
class Table:
    """Who plays which role; usually one policy plays all three."""

    civilian: Policy
    spy: Policy
    voter: Policy

    @classmethod
    def of(cls, policy: Policy) -> Table:
        return cls(policy, policy, policy)

    def player(self, game: Game, turn: Turn) -> Policy:
        if turn.stage == "decision":
            return self.voter
        return self.spy if game.role(turn.seat) is Role.SPY else self.civilian

    def queues(self) -> list[QueuedPolicy] | None:
        """The policies, each once, if every one of them has a queue."""
        players = {id(policy): policy for policy in (self.civilian, self.spy, self.voter)}.values()
        queued = [policy for policy in players if isinstance(policy, QueuedPolicy)]
        return queued if len(queued) == len(players) else None


@dataclass(frozen=True)
class Rollout:
    """Finished games, in the order they were given, and what playing them took.

    `calls` are batches handed to a policy in lock-step, and on a queue how often turns were handed back.
    """

    games: list[Game]
    images: GameImages
    calls: int
    seconds: float


def play(
    games: Sequence[Game],
    table: Table,
    limits: LimitsByStage,
    *,
    images: GameImages | None = None,
    template: str = "auto",
    lock_step: bool = False,
    on_call: Callable[[int], None] | None = None,
) -> Rollout:
    """Play `games` to their end. `images` may be given if they are open already.

    Games are played continuously if every policy of the table has a queue and `lock_step` is not asked for. Either way
    the same games give the same prompts and the same seed per turn. `on_call` is told the number of turns that were
    answered, call by call (for a progress bar). Raises what the policies and `open_images` raise.
    """
    start = time.perf_counter()
    images = open_images(games) if images is None else images
    state = {game.index: game for game in games}
    if len(state) != len(games):
        raise ValueError("two games of a batch have the same index, so they would be the same game")
    in_play = _GamesInPlay(state, table, limits, images, template)
    queues = None if lock_step else table.queues()
    answered = _in_lock_step(in_play) if queues is None else _continuously(in_play, queues)
    calls = 0
    for n_turns in answered:
        calls += 1
        if on_call is not None:
            on_call(n_turns)
    return Rollout(list(state.values()), images, calls, time.perf_counter() - start)


@dataclass(frozen=True)
class _GamesInPlay:
    """Games being played: `state` holds each as it stands."""

    state: dict[int, Game]
    table: Table
    limits: LimitsByStage
    images: GameImages
    template: str

    def open_requests(self, game: Game) -> list[tuple[Policy, TurnRequest]]:
        """What can be asked in this game now, and who is asked."""
        asked = []
        for turn in open_turns(game):
            prompt = render(game, turn, self.template)
            request = TurnRequest(
                game=game,
                turn=turn,
                prompt=prompt,
                image=self.images[game.index, prompt.view],
                seed=turn_seed(game.seed, turn),
                limits=self.limits[turn.stage],
            )
            asked.append((self.table.player(game, turn), request))
        return asked

    def take(self, request: TurnRequest, reply: Reply) -> Game:
        index = request.turn.game
        self.state[index] = answer(self.state[index], request.turn, reply)
        return self.state[index]


def _in_lock_step(games: _GamesInPlay) -> Iterator[int]:
    """Yields the number of turns of each call."""
    while waiting := [asked for game in games.state.values() for asked in games.open_requests(game)]:
        by_policy: dict[int, tuple[Policy, list[TurnRequest]]] = {}
        for policy, request in waiting:
            by_policy.setdefault(id(policy), (policy, []))[1].append(request)
        for policy, requests in by_policy.values():
            for request, reply in zip(requests, _ask(policy, requests), strict=True):
                games.take(request, reply)
            yield len(requests)


def _ask(policy: Policy, requests: Sequence[TurnRequest]) -> list[Reply]:
    """One call. A reply's seconds are its even share of the call, since all its turns ran together."""
    start = time.perf_counter()
    replies = policy.answer(requests)
    if len(replies) != len(requests):
        raise RuntimeError(f"{type(policy).__name__} answered {len(replies)} of {len(requests)} turns")
    seconds = (time.perf_counter() - start) / len(requests)
    return [replace(reply, seconds=seconds) for reply in replies]


def _continuously(games: _GamesInPlay, queues: Sequence[QueuedPolicy]) -> Iterator[int]:
    """Yields the number of turns answered, each time some are. A reply's seconds are those it waited in the queue."""
    submitted: dict[Turn, float] = {}

    def ask(asked: Sequence[tuple[Policy, TurnRequest]]) -> None:
        for policy, request in asked:
            assert isinstance(policy, QueuedPolicy)  # `Table.queues` found all of them to be
            policy.submit(request)
            submitted[request.turn] = time.perf_counter()

    for game in list(games.state.values()):
        ask(games.open_requests(game))
    while submitted:
        done = [answered for queue in queues for answered in queue.advance()]
        if not done:
            raise RuntimeError(f"{len(submitted)} turns were handed over and never answered")
        for request, reply in done:
            seconds = time.perf_counter() - submitted.pop(request.turn)
            game = games.take(request, replace(reply, seconds=seconds))
            # The votes of a game are asked together, when its last clue is there; after that nothing new opens.
            if request.turn.stage == "clue":
                ask(games.open_requests(game))
        yield len(done)
