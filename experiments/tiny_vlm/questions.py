"""Single questions to the tiny model. No game asks them, so the effect of self-play on them is transfer."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image

from tiny_vlm.lessons import LessonExample, claim_about, said_words
from tiny_vlm.scripted import suspicion_completion
from vision_zero.data.drawn_scenes import COLOURS, SHAPES, draw, sample_scene
from vision_zero.rollout.game_images import BLANK_COLOUR


def shape_question(rng: random.Random, n_objects: int | None = None) -> LessonExample:
    """Shape of a colour, or none. Colours of the scene are more frequent."""
    scene = sample_scene(rng, n_objects)
    shapes = {one.colour: one.shape for one in scene.objects}
    colour = rng.choice([*shapes, rng.choice(list(COLOURS))])
    return LessonExample(draw(scene), f"what shape is {colour}?", f"\\boxed{{{colour} {shapes.get(colour, 'none')}}}")


def lookup_question(rng: random.Random, n_players: int, n_rounds: int) -> LessonExample:
    """Seat of the player who said a word, which nobody else said."""
    said = said_words(rng, n_players, n_rounds, 3)
    word, seat = rng.choice(sorted(said.who.items()))
    return LessonExample(any_image(rng), f"{said.prompt}who said {word}?", suspicion_completion(seat, word).text)


def naming_question(rng: random.Random) -> LessonExample:
    scene = sample_scene(rng)
    names = [one.name for one in scene.objects]
    return LessonExample(draw(scene), "name one", f"\\boxed{{{rng.choice(names)}}}", boxes=frozenset(names))


def truth_question(rng: random.Random) -> LessonExample:
    scene = sample_scene(rng)
    claim, true = claim_about(rng, scene)
    return LessonExample(draw(scene), f"{claim} there?", f"\\boxed{{{'yes' if true else 'no'}}}")


def count_question(rng: random.Random) -> LessonExample:
    scene = sample_scene(rng)
    shape = rng.choice(SHAPES)
    count = sum(one.shape == shape for one in scene.objects)
    return LessonExample(draw(scene), f"how many {shape}?", f"\\boxed{{{count}}}")


def colour_question(rng: random.Random) -> LessonExample:
    """Colour of the only object of a shape. Scenes without such a shape are drawn again."""
    while True:
        scene = sample_scene(rng)
        for shape in rng.sample(SHAPES, len(SHAPES)):
            colours = [one.colour for one in scene.objects if one.shape == shape]
            if len(colours) == 1:
                return LessonExample(draw(scene), f"which {shape}?", f"\\boxed{{{colours[0]}}}")


def any_lookup(rng: random.Random) -> LessonExample:
    return lookup_question(rng, rng.randint(3, 9), rng.choice((1, 2)))


QUESTIONS: dict[str, tuple[Callable[[random.Random], LessonExample], float]] = {
    "who said a word": (any_lookup, 0.3),
    "what shape has a colour": (shape_question, 0.15),
    "name an object": (naming_question, 0.15),
    "is a claim true": (truth_question, 0.2),
    "how many of a shape": (count_question, 0.1),
    "what colour has the only one of a shape": (colour_question, 0.1),
}
"""Kinds of questions, each with its share of the questions in training."""


def any_image(rng: random.Random) -> Image.Image:
    """A scene 4 times in 5, else an image that is none, so that the model learns its format on any image."""
    return draw(sample_scene(rng)) if rng.random() < 0.8 else strange_image(rng)


def strange_image(rng: random.Random) -> Image.Image:
    """A scene at another scale, one colour, noise, or blurred blotches, 60 to 330 pixels a side."""
    width, height = rng.randint(60, 330), rng.randint(60, 250)
    kind = rng.choice(("scene", "uniform", "noise", "blotches"))
    if kind == "scene":
        return draw(sample_scene(rng), max(width, height))
    if kind == "uniform":
        return Image.new("RGB", (width, height), BLANK_COLOUR)
    cells = (width, height) if kind == "noise" else (rng.randint(2, 12), rng.randint(2, 12))
    small = Image.frombytes("RGB", cells, rng.randbytes(3 * cells[0] * cells[1]))
    return small.resize((width, height), Image.Resampling.BICUBIC)
