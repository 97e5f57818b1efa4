"""What the engine asks of a player: `Policy`, the requests it gets, and the images that go with them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from PIL import Image

from vision_zero.data.pairs import open_pair
from vision_zero.types import Game, Prompt, Reply, Stage, Turn, View

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


@dataclass(frozen=True)
class TokenLimits:
    """Sampled tokens per reply: no end token before `minimum`, cut at `maximum`."""

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ValueError(f"token limits need 0 <= minimum <= maximum >= 1, got {self.minimum} and {self.maximum}")


@dataclass(frozen=True)
class TurnRequest:
    """One turn to answer. A model sees `prompt` and `image`; only scripted players look at `game`."""

    game: Game
    turn: Turn
    prompt: Prompt
    image: GameImage
    seed: int
    limits: TokenLimits


class PromptTooLongError(RuntimeError):
    """A prompt and its longest reply do not fit into what an engine can hold."""


class Policy(Protocol):
    """Anything that answers turns, in the order asked."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]: ...


class QueuedPolicy(ABC):
    """A policy with a queue of its own, such as a serving engine: turns are answered in the order they get done.

    Turns that wait at the same time are worked on together, so a game need not wait for the others of its batch.
    """

    @abstractmethod
    def submit(self, request: TurnRequest) -> None:
        """Put a turn into the queue."""

    @abstractmethod
    def advance(self) -> list[tuple[TurnRequest, Reply]]:
        """Work until at least one turn is answered, and return what is. Empty only if no turn waits."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        """All of `requests` at once, waiting for the slowest."""
        for request in requests:
            self.submit(request)
        replies: dict[Turn, Reply] = {}
        while len(replies) < len(requests):
            done = self.advance()
            if not done:
                raise RuntimeError(f"{type(self).__name__} answered {len(replies)} of {len(requests)} turns")
            replies |= {request.turn: reply for request, reply in done}
        return [replies[request.turn] for request in requests]


@dataclass(frozen=True)
class EngineOptions:
    """How a vLLM engine is built. `max_num_seqs` is the number of replies it works on at once, `tensor_parallel_size`
    the number of processes that share it.

    `more` goes to vLLM's `LLM` as it is, over everything else.
    """

    max_num_seqs: int
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    dtype: str = "auto"
    enforce_eager: bool = False
    sleep: bool = False
    model_impl: str = "vllm"
    trust_remote_code: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


LimitsByStage = dict[Stage, TokenLimits]
