"""A frozen start model, and one trained model after another against it, on the same deals.

What the frozen model plays with itself is played once; its answers are looked up wherever line-ups share turns. Every
contest starts from the same memory and with empty caches, so that its figures do not depend on what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision_zero.evaluate.win_rate.arena import Arena, LineUp, Outcome, Part
from vision_zero.evaluate.win_rate.metrics import (
    FROZEN,
    ITSELF,
    NEW,
    OTHER,
    START,
    Figures,
    play_figures,
    win_rate_figures,
)
from vision_zero.evaluate.win_rate.reply_cache import RememberingPlayer
from vision_zero.rollout.load_policy import ModelPlayer

Gather = Callable[[list[Outcome]], list[Outcome]]
"""All processes' outcomes from those of each; with one process, the same."""


@dataclass(frozen=True)
class Verdict:
    """What a contest found. `figures` are `win_rate_figures`, `start` those of the frozen model's own games."""

    figures: Figures
    start: Figures


class Contest:
    """`other`: players of another seed, for line-ups that have them. `part`: the deals that this process plays."""

    def __init__(
        self,
        arena: Arena,
        start: ModelPlayer,
        other: ModelPlayer | None = None,
        *,
        part: Part = (0, 1),
        gather: Gather = list,
        on_call: Callable[[int], None] | None = None,
    ) -> None:
        self.arena, self.start, self.other = arena, start, other
        self.part, self.gather, self.on_call = part, gather, on_call
        self._frozen: list[Outcome] = []
        self._known = RememberingPlayer(start).known

    def size(self, line_ups: Sequence[LineUp], n_models: int = 1) -> tuple[int, int]:
        """Games, and turns of this process, when `n_models` are held against the start: what `on_call` will be told.

        Turns that are answered from memory count: these are quicker, so that a rate so far is rather too low.
        """
        asked = [line_up for line_up in line_ups if line_up != FROZEN] * n_models
        if not self._frozen:
            asked.append(FROZEN)
        deals = self.arena.deals[self.part[0] :: self.part[1]]
        blind = sum(line_up in (FROZEN, ITSELF) for line_up in asked)
        turns = sum(
            len(asked) * (deal.rules.n_players * deal.rules.n_rounds + deal.rules.n_votes) + blind * deal.rules.n_votes
            for deal in deals
        )
        return len(asked) * len(self.arena.deals), turns

    def against(self, new: ModelPlayer, line_ups: Sequence[LineUp]) -> Verdict:
        """The figures of `line_ups`, and how `new` and the start play by themselves, seeing and blind.

        `new` may be the start itself.
        """
        if not self._frozen:
            alone = RememberingPlayer(self.start)
            self._frozen = self._play([FROZEN], {START: alone}, self.start)[FROZEN]
            self._known = alone.known
        start = RememberingPlayer(self.start, self._known)
        players = {START: start, NEW: start if new is self.start else RememberingPlayer(new)}
        if self.other is not None:
            players[OTHER] = RememberingPlayer(self.other)
        asked = [line_up for line_up in line_ups if line_up != FROZEN]
        results = self._play(asked, players, new, self.start, *([self.other] if self.other else []))
        return Verdict(win_rate_figures({FROZEN: self._frozen, **results}), play_figures(self._frozen))

    def _play(
        self, line_ups: Sequence[LineUp], players: dict[str, RememberingPlayer], *models: ModelPlayer
    ) -> dict[LineUp, list[Outcome]]:
        def forget() -> None:
            for model in models:
                model.forget()

        forget()
        results = self.arena.play(
            line_ups,
            players,
            blind=(FROZEN, ITSELF),
            part=self.part,
            on_call=self.on_call,
            after_chunk=forget,
        )
        return {
            line_up: sorted(self.gather(outcomes), key=lambda outcome: outcome.summary.game)
            for line_up, outcomes in results.items()
        }
