"""Play N games with a policy per role: every call holds every turn that can be asked now, over all games.

Games advance in lock-step, so N games of p players and r rounds cost p * r + 1 calls however large N is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, open_turns, turn_seed
from vision_zero.rollout.policy import GameImages, LimitsByStage, Policy, TurnRequest, open_images
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


@dataclass(frozen=True)
class Rollout:
    """Finished games, in the order they were given, and what playing them took."""

    games: list[Game]
    images: GameImages
    calls: int
    seconds: float


def _ask(policy: Policy, requests: Sequence[TurnRequest]) -> list[Reply]:
    """One call. A reply's seconds are its even share of the call, since all its turns ran together."""
    start = time.perf_counter()
    replies = policy.answer(requests)
    if len(replies) != len(requests):
        raise RuntimeError(f"{type(policy).__name__} answered {len(replies)} of {len(requests)} turns")
    seconds = (time.perf_counter() - start) / len(requests)
    return [replace(reply, seconds=seconds) for reply in replies]


def play(
    games: Sequence[Game],
    table: Table,
    limits: LimitsByStage,
    *,
    images: GameImages | None = None,
    template: str = "auto",
    on_call: Callable[[int], None] | None = None,
) -> Rollout:
    """Play `games` to their end. `images` may be given if they are open already.

    The same games give the same prompts and the same seed per turn in any batch. `on_call` is told the number of turns
    of each call when it is done (for a progress bar). Raises what the policies and `open_images` raise.
    """
    start = time.perf_counter()
    images = open_images(games) if images is None else images
    state = {game.index: game for game in games}
    if len(state) != len(games):
        raise ValueError("two games of a batch have the same index, so they would be the same game")
    calls = 0
    while waiting := [(game, turn) for game in state.values() for turn in open_turns(game)]:
        by_policy: dict[int, tuple[Policy, list[TurnRequest]]] = {}
        for game, turn in waiting:
            policy = table.player(game, turn)
            prompt = render(game, turn, template)
            request = TurnRequest(
                game=game,
                turn=turn,
                prompt=prompt,
                image=images[game.index, prompt.view],
                seed=turn_seed(game.seed, turn),
                limits=limits[turn.stage],
            )
            by_policy.setdefault(id(policy), (policy, []))[1].append(request)
        for policy, requests in by_policy.values():
            for request, reply in zip(requests, _ask(policy, requests), strict=True):
                state[request.turn.game] = answer(state[request.turn.game], request.turn, reply)
            calls += 1
            if on_call is not None:
                on_call(len(requests))
    return Rollout(list(state.values()), images, calls, time.perf_counter() - start)
