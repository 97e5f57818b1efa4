"""Small games on images that live in memory, and the tiny random model: what the tests of rollouts play with."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from vision_zero.game.spy_game import answer, deal_games, open_turns
from vision_zero.models import load_processor
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.policy import TokenLimits, TurnRequest
from vision_zero.types import Game, GameRules, ImagePair, Prompt, Reply, Turn

BENCH_MODEL = Path(__file__).parent / "models" / "bench_model"
IMAGE_TOKEN, VIDEO_TOKEN, END_TOKENS = 7, 8, (0, 2)


class NoiseImage:
    """An image source of coloured noise, the same for the same name, that counts how often it is opened."""

    def __init__(self, name: str, size: tuple[int, int] = (56, 56)) -> None:
        self.name, self.size = name, size
        self.opened = 0

    def open(self) -> Image.Image:
        self.opened += 1
        return Image.frombytes("RGB", self.size, random.Random(self.name).randbytes(3 * self.size[0] * self.size[1]))


def noise_pairs(n: int, *, edited: bool = True, size: tuple[int, int] = (56, 56)) -> list[ImagePair]:
    return [
        ImagePair(f"p{i}", NoiseImage(f"p{i}.png", size), NoiseImage(f"p{i}_edited.png", size) if edited else None)
        for i in range(n)
    ]


def tiny_games(n: int, *, seed: int = 0, pairs: Sequence[ImagePair] | None = None, **rules) -> list[Game]:
    """`n` games of 3 players and 1 round with 2 votes, unless `rules` say otherwise."""
    chosen = GameRules(**{"n_civilians": 2, "n_rounds": 1, "n_votes": 2, **rules})
    return deal_games(range(n), seed, noise_pairs(n) if pairs is None else pairs, chosen)


def play_out(game: Game, reply_to: Callable[[Turn], str], until: Callable[[Game], bool] = lambda game: False) -> Game:
    """The game with every turn answered in order (or until `until` holds)."""
    while (turns := open_turns(game)) and not until(game):
        game = answer(game, turns[0], Reply(reply_to(turns[0])))
    return game


def request_for(
    text: str, image: GameImage, *, game: Game, seed: int = 0, limits: tuple[int, int] = (0, 8), sample: int = 0
) -> TurnRequest:
    """A turn request with any text as its prompt."""
    turn = Turn(game.index, "decision", 0, 0, sample)
    return TurnRequest(game, turn, Prompt("civilian", text), image, seed, TokenLimits(*limits))


def bench_processor() -> ProcessorMixin:
    return load_processor(str(BENCH_MODEL))


def bench_model() -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(BENCH_MODEL, dtype=torch.float32).eval()
