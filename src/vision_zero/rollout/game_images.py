"""Images that games are played on: opened once per batch, blank or masked where the spy's view asks for it.

`GameImage` names its pixels by a key, so that whatever is computed from an image can be cached under that key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from vision_zero.data.pairs import open_pair
from vision_zero.types import Game, View

BLANK_COLOUR = MASK_COLOUR = (127, 127, 127)
MASK_GRID = 8


class GameImage(Image.Image):
    """PIL image with a `key`: within one batch of games, equal keys are equal pixels.

    Processors take it as it is. A deep copy is the same object and pickling keeps the key and one pixel, because TRL
    deep-copies every prompt and sends all prompts to all processes for its log.
    """

    def __init__(self, key: str, pixels: Image.Image) -> None:
        super().__init__()
        rgb = pixels.convert("RGB")
        self.im = rgb.im
        self._mode = "RGB"
        self._size = rgb.size
        self.key = key

    def __deepcopy__(self, memo: dict[int, Any]) -> GameImage:
        return self

    def __reduce__(self) -> tuple[Any, tuple[str, Image.Image]]:
        return GameImage, (self.key, Image.new("RGB", (1, 1)))

    def __repr__(self) -> str:
        return f"GameImage({self.key!r}, {self.width}x{self.height})"


def blank_image(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, BLANK_COLOUR)


def masked_image(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    """Copy of `image` with `share` of its area hidden: whole cells of an 8 x 8 grid, drawn by `rng`."""
    masked = image.copy()
    cells = [(column, row) for row in range(MASK_GRID) for column in range(MASK_GRID)]
    for column, row in rng.sample(cells, max(1, round(share * len(cells)))):
        left, right = (image.width * c // MASK_GRID for c in (column, column + 1))
        top, bottom = (image.height * r // MASK_GRID for r in (row, row + 1))
        masked.paste(MASK_COLOUR, (left, top, right, bottom))
    return masked


GameImages = dict[tuple[int, View], GameImage]


def open_images(games: Sequence[Game], known: GameImages | None = None) -> GameImages:
    """Images of `games` by (game index, view). Equal images are one object; those of `known` are not opened again.

    Raises `BadImageError`, naming the file, for an image that cannot be used.
    """
    opened = {image.key: image for image in (known or {}).values()}
    images: GameImages = {}
    for game in games:
        civilian_key = f"{game.pair.id}/original"
        spy_key = f"{game.pair.id}/edited"
        if civilian_key not in opened or (game.spy_view == "edited" and spy_key not in opened):
            shown = game.pair if game.spy_view == "edited" else replace(game.pair, edited=None)
            original, edited = open_pair(shown)
            opened.setdefault(civilian_key, GameImage(civilian_key, original))
            if edited is not None:
                opened[spy_key] = GameImage(spy_key, edited)
        original_pixels = opened[civilian_key]
        if game.spy_view == "blank":
            spy_key = "blank/{}x{}".format(*original_pixels.size)
            if spy_key not in opened:
                opened[spy_key] = GameImage(spy_key, blank_image(original_pixels.size))
        elif game.spy_view == "masked":
            spy_key = f"{game.pair.id}/masked/{game.index}"
            rng = random.Random(f"vision-zero/mask/{game.seed}/{game.index}")
            opened[spy_key] = GameImage(spy_key, masked_image(original_pixels, game.rules.mask_share, rng))
        images[game.index, "civilian"] = opened[civilian_key]
        images[game.index, "spy"] = opened[spy_key]
    return images
