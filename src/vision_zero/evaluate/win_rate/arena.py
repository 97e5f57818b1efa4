"""Match-ups of different players on the same deals: pair, seats and the seed of every turn are equal for all of them.

Two match-ups then differ in who plays, and in nothing else. `metrics` has the match-ups of a win rate and those that
tell skill from a private code.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vision_zero.evaluate.clues.grounding import GroundingByRole, SceneIndex, grounding_of_game, is_described
from vision_zero.game.spy_game import summarize, votes_in_order
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.rollout.play import Seating, play_side_by_side
from vision_zero.rollout.policy import Policy, TokenLimitsByStage
from vision_zero.spo.rewards import plurality
from vision_zero.types import Game, GameRules, GameSummary, ImagePair, Vote

ARENA_SEEDS = 1 << 32
"""Added to the seed of an arena: runs have seeds below it, so no arena repeats the deals and the noise of a run."""

Part = tuple[int, int]
"""(k, n): every n-th deal from the k-th on, for n processes that share them."""


@dataclass(frozen=True)
class Matchup:
    civilians: str
    spy: str
    voters: str

    @property
    def players(self) -> frozenset[str]:
        return frozenset({self.civilians, self.spy, self.voters})

    def __str__(self) -> str:
        return f"civilians {self.civilians}, spy {self.spy}, voters {self.voters}"


@dataclass(frozen=True)
class GameOutcome:
    """Outcome of a game on a pair, its id. `image_swapped_votes`: on its clues with another game's image, or None."""

    summary: GameSummary
    pair: str
    grounding: GroundingByRole | None = None
    image_swapped_votes: tuple[Vote, ...] | None = None

    @property
    def table_won(self) -> bool:
        """Whether the plurality vote is the spy, as in `spo.rewards.accuracy`; a tie is the spy's."""
        return plurality(self.summary.votes, self.summary.n_players) == self.summary.spy

    @property
    def votes_right(self) -> float:
        return vote_share(self.summary.votes, self.summary.spy)


def vote_share(votes: Sequence[Vote], vote: Vote) -> float:
    return votes.count(vote) / len(votes)


OutcomesByMatchup = Mapping[Matchup, list[GameOutcome]]
"""Outcomes of every match-up in the order of the deals, so that the k-th of two match-ups are of the same deal."""


@dataclass(frozen=True)
class Arena:
    """Deals, and how they are played. `swapped_images`: for every deal another, whose image replaces its own.

    `games_at_once` bounds the games of all match-ups that are played at once, down to one deal for all of them; what is
    sampled does not depend on it.
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
    ) -> dict[Matchup, list[GameOutcome]]:
        """Play every match-up on every deal of `part`, and vote again in those of `image_swapped` with other images.

        `after_chunk` is called whenever images are closed, so that players can clear their caches. Raises ValueError
        for a match-up with a player who is not in `players`.
        """
        results: dict[Matchup, list[GameOutcome]] = {matchup: [] for matchup in matchups}
        for matchup in results:
            if missing := sorted(matchup.players - players.keys()):
                raise ValueError(f"nobody is called {missing[0]} ({matchup}); players are {', '.join(players)}")
        seatings = {one: Seating(players[one.civilians], players[one.spy], players[one.voters]) for one in results}

        def side_by_side(games: Mapping[Matchup, Sequence[Game]], images: GameImages) -> dict[Matchup, list[Game]]:
            tables = [(some, seatings[matchup]) for matchup, some in games.items()]
            done = play_side_by_side(tables, self.token_limits, images=images, template=self.template, on_call=on_call)
            return dict(zip(games, done, strict=True))

        own = range(part[0], len(self.deals), part[1])
        deals_at_once = max(1, self.games_at_once // max(1, len(results)))
        for first in range(0, len(own), deals_at_once):
            numbers = own[first : first + deals_at_once]
            deals = [self.deals[number] for number in numbers]
            images = open_images(deals)
            played = side_by_side(dict.fromkeys(results, deals), images)
            unvoted = {
                matchup: [replace(game, votes=()) for game in games]
                for matchup, games in played.items()
                if matchup in image_swapped
            }
            voted = {}
            if unvoted:  # votes on the same clues at the same seeds, with the others' images in place of the true ones
                swapped_images = [self.swapped_images[number] for number in numbers]
                others = open_images(swapped_images, images)
                shown: GameImages = {
                    (deal.index, "civilian"): others[swapped.index, "civilian"]
                    for deal, swapped in zip(deals, swapped_images, strict=True)
                }
                voted = side_by_side(unvoted, shown)
            for matchup, games in played.items():
                for number, game in enumerate(games):
                    grounding = None if self.scene_index is None else grounding_of_game(game, self.scene_index)
                    votes = tuple(votes_in_order(voted[matchup][number])) if matchup in voted else None
                    results[matchup].append(GameOutcome(summarize(game), game.pair.id, grounding, votes))
            after_chunk()
        return results


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
    """An arena of `n_deals` deals on `pairs`, every pair once before any comes again; each image is opened as a check.

    Raises BadImageError for an image that cannot be used (with `skip_bad` the deal takes the next pair instead), and
    ValueError for a single pair, as there is then no other image to swap in.
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
    """The next deal of another pair for every deal, in a circle. Raises ValueError if there is none."""
    if len({deal.pair.id for deal in deals}) == 1:
        raise ValueError(
            f"all {len(deals)} deals are on the pair {deals[0].pair.id!r}: voters cannot be shown another image. An "
            "evaluation needs at least two pairs and two deals"
        )
    later = [(deal, [*deals[number:], *deals[:number]]) for number, deal in enumerate(deals)]
    return tuple(next(other for other in circle if other.pair.id != deal.pair.id) for deal, circle in later)
