"""Matches of trained models against one frozen start model, on the same deals.

The frozen model's games with itself are played once, and its completions are looked up wherever match-ups share turns.
Every model meets the same cached completions and empty model caches, so its figures do not depend on earlier models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING

from vision_zero.evaluate.win_rate import metrics
from vision_zero.evaluate.win_rate.arena import Arena, GameOutcome, Matchup, Part
from vision_zero.evaluate.win_rate.metrics import FROZEN, ITSELF, NEW, OTHER, START, Figures
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.types import Completion

if TYPE_CHECKING:
    from vision_zero.rollout.load_policy import ModelPlayer

CacheKey = tuple[str, str, int]
"""Image key, prompt, seed: what a completion depends on. Scripted players look at the game too, which these determine
for a given deal."""


@dataclass(frozen=True)
class MatchResult:
    """Figures of one model: `figures` as in `win_rate_figures`, `start` those of the frozen model with itself."""

    figures: Figures
    start: Figures

    def unreadable(self) -> list[str]:
        """Words on who said nothing that could be parsed, in play with itself."""
        return [
            f"none of the {what} of {who} could be parsed: is the template the model's?"
            for who, figures in (("the model", self.figures), ("the frozen model", self.start))
            for what, name in (("clues", "clues/unparsed"), ("votes", "votes/invalid"))
            if figures[name].value == 1
        ]


class CachedPolicy:
    """A policy that answers as `policy` (None: nothing) and looks up what it was asked before or `cache` holds.

    Prompt tokens and log-probabilities are dropped, since nobody trains on an evaluation: texts and lengths stay.
    """

    def __init__(self, policy: Policy | None, cache: Mapping[CacheKey, Completion] | None = None) -> None:
        self.policy = policy
        self.cache: dict[CacheKey, Completion] = dict(cache or {})
        self.calls = 0

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        keys = [(request.image.key, request.prompt.text, request.seed) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.cache}
        if new:
            if self.policy is None:
                raise RuntimeError(f"{len(new)} turns were not played while the model was in memory")
            self.calls += 1
            completions = self.policy.answer(list(new.values()))
            for key, completion in zip(new, completions, strict=True):
                self.cache[key] = replace(completion, prompt_ids=(), logprobs=())
        return [self.cache[key] for key in keys]


@dataclass
class Match:
    """The frozen `start` model in an arena, against one model after another.

    `other`: a model of another seed, for match-ups that have it. `part`: the deals that this process plays, `gather`:
    all processes' outcomes from those of each.
    """

    arena: Arena
    start: ModelPlayer
    other: ModelPlayer | None = None
    _: KW_ONLY
    part: Part = (0, 1)
    gather: Callable[[list[GameOutcome]], list[GameOutcome]] = list
    on_call: Callable[[int], None] | None = None
    _frozen: list[GameOutcome] = field(default_factory=list, init=False)
    _cache: dict[CacheKey, Completion] = field(default_factory=dict, init=False)

    def size(self, matchups: Sequence[Matchup], n_models: int = 1) -> tuple[int, int]:
        """Number of games, and of turns of this process, for `n_models`: the total of what `on_call` will be told.

        Turns answered from the cache count too. They are quicker, so that a rate so far is rather too low.
        """
        asked = [matchup for matchup in matchups if matchup != FROZEN] * n_models
        if not self._frozen:
            asked.append(FROZEN)
        deals = self.arena.deals[self.part[0] :: self.part[1]]
        image_swapped = sum(matchup in (FROZEN, ITSELF) for matchup in asked)
        turns = sum(len(asked) * deal.rules.n_turns + image_swapped * deal.rules.n_votes for deal in deals)
        return len(asked) * len(self.arena.deals), turns

    def against(self, new: ModelPlayer, matchups: Sequence[Matchup]) -> MatchResult:
        """Play `matchups`, and FROZEN before the first of them. `new` may be the start itself."""
        if not self._frozen:
            alone = CachedPolicy(self.start)
            self._frozen = self._play([FROZEN], {START: alone}, self.start)[FROZEN]
            self._cache = alone.cache
        start = CachedPolicy(self.start, self._cache)
        players = {START: start, NEW: start if new is self.start else CachedPolicy(new)}
        if self.other is not None:
            players[OTHER] = CachedPolicy(self.other)
        asked = [matchup for matchup in matchups if matchup != FROZEN]
        results = self._play(asked, players, new, self.start, *([self.other] if self.other else []))
        figures = metrics.win_rate_figures({FROZEN: self._frozen, **results})
        return MatchResult(figures, metrics.play_figures(self._frozen))

    def _play(
        self, matchups: Sequence[Matchup], players: dict[str, CachedPolicy], *models: ModelPlayer
    ) -> dict[Matchup, list[GameOutcome]]:
        def forget() -> None:
            for model in models:
                model.forget()

        forget()
        results = self.arena.play(
            matchups, players, image_swapped=(FROZEN, ITSELF), part=self.part, on_call=self.on_call, after_chunk=forget
        )
        return {
            matchup: sorted(self.gather(outcomes), key=lambda outcome: outcome.summary.game)
            for matchup, outcomes in results.items()
        }
