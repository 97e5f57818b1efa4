"""Match-ups of different players on the same deals: pair, seats and the seed of every turn are equal for all of them.

What differs between two match-ups is then who plays, and nothing else. `win_rate` says which match-ups make a win rate,
and which tell skill from a private code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vision_zero.evaluate.clues.grounding import GroundingByRole, SceneIndex, grounding_of_game, is_described
from vision_zero.game.spy_game import summarize, votes_in_order
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import Policy, TokenLimitsByStage
from vision_zero.spo.rewards import plurality
from vision_zero.types import Game, GameRules, GameSummary, ImagePair, Vote

ARENA_SEEDS = 1 << 32
"""Added to the seed of an arena: runs have seeds below it, so no arena repeats the deals and the noise of a run."""

Part = tuple[int, int]
"""(k, n): every n-th deal from the k-th on, for n processes that share them."""


@dataclass(frozen=True)
class Matchup:
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
    """One game of one match-up.

    `image_swapped_votes`: the votes on the same clues with another game's image, where asked.
    """

    summary: GameSummary
    grounding: GroundingByRole | None = None
    image_swapped_votes: tuple[Vote, ...] | None = None

    @property
    def table_won(self) -> bool:
        """The plurality vote is the spy, as `spo.rewards.accuracy` has it; a tie is the spy's."""
        return plurality(self.summary.votes, self.summary.n_players) == self.summary.spy

    @property
    def votes_right(self) -> float:
        return share(self.summary.votes, self.summary.spy)

    @property
    def image_swapped_votes_right(self) -> float:
        """Raises ValueError for a game that was not voted on blindly."""
        if self.image_swapped_votes is None:
            raise ValueError(f"game {self.summary.game} was not voted on with another image")
        return share(self.image_swapped_votes, self.summary.spy)


def share(votes: Sequence[Vote], vote: Vote) -> float:
    return votes.count(vote) / len(votes)


Results = Mapping[Matchup, list[Outcome]]
"""Outcomes of every match-up in the order of the deals, so that the k-th of two match-ups are of the same deal."""


@dataclass(frozen=True)
class Arena:
    """Deals, and how they are played. `swapped_images` has for every deal the deal whose image replaces its own.

    `games_at_once` bounds how many games' images are open; what is sampled does not depend on it.
    """

    deals: tuple[Game, ...]
    swapped_images: tuple[Game, ...]
    token_limits: TokenLimitsByStage
    template: str = "auto"
    scene_index: SceneIndex | None = field(default=None, repr=False)
    games_at_once: int = 256

    def play(
        self,
        matchups: Iterable[Matchup],
        players: Mapping[str, Policy],
        *,
        image_swapped: Collection[Matchup] = (),
        part: Part = (0, 1),
        on_call: Callable[[int], None] | None = None,
        after_chunk: Callable[[], None] = lambda: None,
    ) -> dict[Matchup, list[Outcome]]:
        """Every match-up on every deal of `part`; those in `image_swapped` are voted on again with other images.

        `after_chunk` is called whenever images are closed, so that players may forget what they made of them. Raises
        ValueError for a match-up with a player who is not in `players`.
        """
        results: dict[Matchup, list[Outcome]] = {matchup: [] for matchup in matchups}
        for matchup in results:
            if missing := sorted(matchup.players - players.keys()):
                raise ValueError(f"nobody is called {missing[0]} ({matchup}); players are {', '.join(players)}")
        own = range(part[0], len(self.deals), part[1])
        for numbers in _chunks(own, self.games_at_once):
            deals = [self.deals[number] for number in numbers]
            swapped_images = [self.swapped_images[number] for number in numbers]
            images = open_images(deals)
            others = open_images(swapped_images, images) if image_swapped else {}
            for matchup, outcomes in results.items():
                table = Seating(*(players[name] for name in (matchup.civilians, matchup.spy, matchup.voters)))
                games = play(
                    deals, table, self.token_limits, images=images, template=self.template, on_call=on_call
                ).games
                groundings = [
                    None if self.scene_index is None else grounding_of_game(game, self.scene_index) for game in games
                ]
                votes: list[tuple[Vote, ...] | None] = [None] * len(games)
                if matchup in image_swapped:
                    shown: GameImages = {
                        (deal.index, "civilian"): others[swapped.index, "civilian"]
                        for deal, swapped in zip(deals, swapped_images, strict=True)
                    }
                    votes = list(self._image_swapped_votes(games, table, shown, on_call))
                outcomes += [
                    Outcome(summarize(game), grounding, image_swapped_votes)
                    for game, grounding, image_swapped_votes in zip(games, groundings, votes, strict=True)
                ]
            after_chunk()
        return results

    def _image_swapped_votes(
        self, games: Sequence[Game], table: Seating, shown: GameImages, on_call: Callable[[int], None] | None
    ) -> Iterator[tuple[Vote, ...]]:
        """The votes on the same clues at the same seeds, when the voters are shown the images of `shown`."""
        heard = [replace(game, votes=()) for game in games]
        voted = play(heard, table, self.token_limits, images=shown, template=self.template, on_call=on_call).games
        return (tuple(votes_in_order(game)) for game in voted)


def make_arena(
    pairs: Sequence[ImagePair],
    rules: GameRules,
    token_limits: TokenLimitsByStage,
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
    scene_index = None
    if all(is_described(deal.pair) for deal in deals):
        scene_index = SceneIndex({deal.pair.id: deal.pair for deal in deals}.values())
    return Arena(tuple(deals), swap_images(deals), token_limits, template, scene_index, games_at_once)


def swap_images(deals: Sequence[Game]) -> tuple[Game, ...]:
    """For every deal the next one, in a circle, that is on another pair. Raises ValueError if there is none."""
    swapped_images = []
    for number, deal in enumerate(deals):
        circle = (deals[(number + step) % len(deals)] for step in range(1, len(deals)))
        swapped = next((other for other in circle if other.pair.id != deal.pair.id), None)
        if swapped is None:
            raise ValueError(
                f"all {len(deals)} deals are on the pair {deal.pair.id!r}: voters cannot be shown another image. An "
                "evaluation needs at least two pairs and two deals"
            )
        swapped_images.append(swapped)
    return tuple(swapped_images)


def _chunks(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
