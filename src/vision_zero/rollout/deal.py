"""Deal games onto image pairs whose images open; a broken image is reported or its pair passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vision_zero.data.pairs import BadImageError
from vision_zero.game.spy_game import deal, pair_of_game
from vision_zero.rollout.game_images import GameImages, open_images
from vision_zero.types import Game, GameRules, ImagePair


@dataclass
class Deal:
    """Games with their images open. `skipped` says by number of the pair why it was passed over.

    `error` is the broken image that dealing stopped at; the games then are those before it.
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
    """Games `indices` of the run, each on its pair, or with `skip_bad` on the next pair that opens.

    Which pair that is depends on the pairs alone, so all processes agree on it.
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
