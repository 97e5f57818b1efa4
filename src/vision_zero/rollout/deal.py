"""Dealing of games onto image pairs; a pair with a broken image is an error or is skipped."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vision_zero.data.pairs import BadImageError
from vision_zero.game.spy_game import deal, pair_of_game
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.types import Game, GameRules, ImagePair


@dataclass
class Deal:
    """Dealt games with their images. `skipped` has the reason for each skipped pair, by the pair's number.

    `error` is the broken image at which dealing stopped; `games` then are those before it.
    """

    games: list[Game] = field(default_factory=list)
    images: GameImages = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    error: BadImageError | None = None


def deal_onto_pairs(
    indices: Sequence[int],
    seed: int,
    pairs: Sequence[ImagePair],
    rules: GameRules,
    *,
    known_bad: set[int],
    skip_bad: bool,
) -> Deal:
    """Deal games `indices` of the run, each onto its pair, or with `skip_bad` onto the next pair that opens.

    That pair depends on the pairs alone, so all processes agree on it.
    """
    result = Deal()
    for index in indices:
        first = pair_of_game(seed, index, len(pairs))
        for offset in range(len(pairs)):
            number = (first + offset) % len(pairs)
            if number in known_bad or number in result.skipped:
                continue
            try:
                game = deal(index, seed, pairs[number], rules)
                result.images.update(open_images([game], result.images))
            except BadImageError as bad:
                if not skip_bad:
                    result.error = bad
                    return result
                result.skipped[number] = str(bad)
                continue
            result.games.append(game)
            break
        else:
            result.error = BadImageError("every image pair of the source is broken; nothing is left to play on")
            return result
    return result
