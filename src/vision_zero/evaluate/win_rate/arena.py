"""Line-ups of different players on the same deals: pair, seats and the seed of every turn are equal for all of them.

What differs between two line-ups is then who plays, and nothing else. `win_rate` says which line-ups make a win rate,
and which tell skill from a private code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vision_zero.evaluate.clues.grounding import Gallery, TruthByRole, is_described, truth_of_game
from vision_zero.game.spy_game import summarize, votes_in_order
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.rollout.play import Table, play
from vision_zero.rollout.policy import LimitsByStage, Policy
from vision_zero.spo.rewards import plurality
from vision_zero.types import Game, GameRules, GameSummary, ImagePair, Vote

ARENA_SEEDS = 1 << 32
"""Added to the seed of an arena: runs have seeds below it, so no arena repeats the deals and the noise of a run."""

Part = tuple[int, int]
"""(k, n): every n-th deal from the k-th on, for n processes that share them."""


@dataclass(frozen=True)
class LineUp:
    """Who plays what, by the names of players."""

    civilians: str
    spy: str
    voters: str

    @property
    def players(self) -> frozenset[str]:
        return frozenset({self.civilians, self.spy, self.voters})

    def __str__(self) -> str:
        return f"civilians {self.civilians}, spy {self.spy}, voters {self.voters}"


@dataclass(frozen=True)
class Outcome:
    """One game of one line-up. `blind_votes`: the votes on the same clues with another game's image, where asked."""

    summary: GameSummary
    truth: TruthByRole | None = None
    blind_votes: tuple[Vote, ...] | None = None

    @property
    def table_won(self) -> bool:
        """The plurality vote is the spy, as `spo.rewards.accuracy` has it; a tie is the spy's."""
        return plurality(self.summary.votes, self.summary.n_players) == self.summary.spy

    @property
    def votes_right(self) -> float:
        return share(self.summary.votes, self.summary.spy)

    @property
    def blind_votes_right(self) -> float:
        """Raises ValueError for a game that was not voted on blindly."""
        if self.blind_votes is None:
            raise ValueError(f"game {self.summary.game} was not voted on with another image")
        return share(self.blind_votes, self.summary.spy)


def share(votes: Sequence[Vote], vote: Vote) -> float:
    return votes.count(vote) / len(votes)


Results = Mapping[LineUp, list[Outcome]]
"""Outcomes of every line-up in the order of the deals, so that the k-th of two line-ups are of the same deal."""


@dataclass(frozen=True)
class Arena:
    """Deals, and how they are played. `strangers` has for every deal the deal whose image a blind voter is shown.

    `games_at_once` bounds how many games' images are open; what is sampled does not depend on it.
    """

    deals: tuple[Game, ...]
    strangers: tuple[Game, ...]
    limits: LimitsByStage
    template: str = "auto"
    gallery: Gallery | None = field(default=None, repr=False)
    games_at_once: int = 256

    def play(
        self,
        line_ups: Iterable[LineUp],
        players: Mapping[str, Policy],
        *,
        blind: Collection[LineUp] = (),
        part: Part = (0, 1),
        on_call: Callable[[int], None] | None = None,
        after_chunk: Callable[[], None] = lambda: None,
    ) -> dict[LineUp, list[Outcome]]:
        """Every line-up on every deal of `part`; the games of line-ups in `blind` are voted on again, blindly.

        `after_chunk` is called whenever images are closed, so that players may forget what they made of them. Raises
        ValueError for a line-up with a player who is not in `players`.
        """
        results: dict[LineUp, list[Outcome]] = {line_up: [] for line_up in line_ups}
        for line_up in results:
            if missing := sorted(line_up.players - players.keys()):
                raise ValueError(f"nobody is called {missing[0]} ({line_up}); players are {', '.join(players)}")
        own = range(part[0], len(self.deals), part[1])
        for numbers in _chunks(own, self.games_at_once):
            deals = [self.deals[number] for number in numbers]
            strangers = [self.strangers[number] for number in numbers]
            images = open_images(deals)
            others = open_images(strangers, images) if blind else {}
            for line_up, outcomes in results.items():
                table = Table(*(players[name] for name in (line_up.civilians, line_up.spy, line_up.voters)))
                games = play(deals, table, self.limits, images=images, template=self.template, on_call=on_call).games
                truths = [None if self.gallery is None else truth_of_game(game, self.gallery) for game in games]
                votes: list[tuple[Vote, ...] | None] = [None] * len(games)
                if line_up in blind:
                    shown: GameImages = {
                        (deal.index, "civilian"): others[stranger.index, "civilian"]
                        for deal, stranger in zip(deals, strangers, strict=True)
                    }
                    votes = list(self._blind_votes(games, table, shown, on_call))
                outcomes += [
                    Outcome(summarize(game), truth, blind_votes)
                    for game, truth, blind_votes in zip(games, truths, votes, strict=True)
                ]
            after_chunk()
        return results

    def _blind_votes(
        self, games: Sequence[Game], table: Table, shown: GameImages, on_call: Callable[[int], None] | None
    ) -> Iterator[tuple[Vote, ...]]:
        """The votes on the same clues at the same seeds, when the voters are shown the images of `shown`."""
        heard = [replace(game, votes=()) for game in games]
        voted = play(heard, table, self.limits, images=shown, template=self.template, on_call=on_call).games
        return (tuple(votes_in_order(game)) for game in voted)


def make_arena(
    pairs: Sequence[ImagePair],
    rules: GameRules,
    limits: LimitsByStage,
    *,
    n_deals: int,
    seed: int = 0,
    template: str = "auto",
    skip_bad: bool = False,
    games_at_once: int = 256,
) -> Arena:
    """`n_deals` deals on `pairs`, every pair once before any comes again. Every image is opened once, to check it.

    Raises BadImageError for an image that cannot be used (with `skip_bad` the deal takes the next pair instead), and
    ValueError when there is only one pair: nobody could then be shown another image.
    """
    deals: list[Game] = []
    bad: set[int] = set()
    for index in range(n_deals):
        dealt = deal_onto_pairs([index], ARENA_SEEDS + seed, pairs, rules, known_bad=bad, skip_bad=skip_bad)
        if dealt.error is not None:
            raise dealt.error
        bad |= dealt.skipped.keys()
        deals += dealt.games
    gallery = None
    if all(is_described(deal.pair) for deal in deals):
        gallery = Gallery({deal.pair.id: deal.pair for deal in deals}.values())
    return Arena(tuple(deals), strangers_of(deals), limits, template, gallery, games_at_once)


def strangers_of(deals: Sequence[Game]) -> tuple[Game, ...]:
    """For every deal the next one, in a circle, that is on another pair. Raises ValueError if there is none."""
    strangers = []
    for number, deal in enumerate(deals):
        circle = (deals[(number + step) % len(deals)] for step in range(1, len(deals)))
        stranger = next((other for other in circle if other.pair.id != deal.pair.id), None)
        if stranger is None:
            raise ValueError(
                f"all {len(deals)} deals are on the pair {deal.pair.id!r}: voters cannot be shown another image. An "
                "evaluation needs at least two pairs and two deals"
            )
        strangers.append(stranger)
    return tuple(strangers)


def _chunks(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
