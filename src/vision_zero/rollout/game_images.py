"""TODO."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from vision_zero.data.pairs import open_pair
from vision_zero.types import Game, View

BLANK_COLOUR = (127, 127, 127)


MASK_COLOUR = (127, 127, 127)


MASK_GRID = 8


class GameImage(Image.Image):
    """One distinct image of a step: real pixels under a key, cheap to pass around.

    `key` names the pixels: equal keys are equal images, so everything made from them (tensors, features) is made once
    per step. It is a PIL image, so that processors take it as it is; but a deep copy is the same object, and pickling
    keeps the key alone, because TRL deep-copies every prompt and sends all prompts to all processes for its log.
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

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (_image_without_pixels, (self.key,))

    def __repr__(self) -> str:
        return f"GameImage({self.key!r}, {self.width}x{self.height})"


def _image_without_pixels(key: str) -> GameImage:
    """What arrives of an image in another process: its name on a single pixel."""
    return GameImage(key, Image.new("RGB", (1, 1)))


def blank_image(size: tuple[int, int]) -> Image.Image:
    """A uniform image, `size` = (width, height) pixels."""
    return Image.new("RGB", size, BLANK_COLOUR)


def masked_image(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    """`image` with `share` of its area hidden: whole cells of an 8 x 8 grid, drawn by `rng`."""
    masked = image.copy()
    cells = [(column, row) for row in range(MASK_GRID) for column in range(MASK_GRID)]
    for column, row in rng.sample(cells, max(1, round(share * len(cells)))):
        left, right = (image.width * c // MASK_GRID for c in (column, column + 1))
        top, bottom = (image.height * r // MASK_GRID for r in (row, row + 1))
        masked.paste(MASK_COLOUR, (left, top, right, bottom))
    return masked


GameImages = dict[tuple[int, View], GameImage]


def open_images(games: Sequence[Game], known: GameImages | None = None) -> GameImages:
    """The images of a batch of games by (game index, view); equal images are opened once and are one object.

    Images of `known` are not opened again. Raises `BadImageError` (with the file's name) for an image that cannot be
    used.
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
