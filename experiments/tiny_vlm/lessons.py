"""What the tiny model is taught first: questions with many answers in one reply, to see, to look up and to judge."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from tiny_vlm.files import GENERIC_WORDS
from tiny_vlm.scripted import TELL_WORDS, abstention_reply, clue_reply, suspicion_reply
from vision_zero.data.drawn_scenes import COLOURS, SHAPES, DrawnScene, draw, drawn_pair, sample_scene
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, clue_turns, deal, vote_turns
from vision_zero.rollout.game_images import BLANK_COLOUR
from vision_zero.types import Game, GameRules, Turn


@dataclass(frozen=True)
class Row:
    """One prompt and its reply.

    `answers`: which tokens of the reply are learnt, None for all of them. `truths`: of every claim in the prompt, in
    order, whether it is true of the image, where that is to be learnt too. `boxes`: what else in the box is right.
    """

    image: Image.Image
    prompt: str
    reply: str
    answers: frozenset[str] | None = None
    truths: tuple[bool, ...] = ()
    boxes: frozenset[str] = frozenset()


WHO_WORDS = (*COLOURS, *SHAPES, *TELL_WORDS, *GENERIC_WORDS)
SHAPE_ANSWERS = frozenset(f" {shape}" for shape in (*SHAPES, "none"))
SEAT_ANSWERS = frozenset("123456789")
JUDGEMENTS = frozenset((" yes", " no"))
BLANK = Image.new("RGB", (56, 56), BLANK_COLOUR)


def shapes_lesson(rng: random.Random, n_objects: int) -> Row:
    """Every colour of the scene and two that are not in it, in any order: what shape is it? Only shapes are learnt."""
    scene = sample_scene(rng, n_objects)
    shapes = {one.colour: one.shape for one in scene.objects}
    absent = [colour for colour in COLOURS if colour not in shapes]
    colours = [*shapes, *rng.sample(absent, 2)]
    rng.shuffle(colours)
    reply = " ".join(f"\\boxed{{{colour} {shapes.get(colour, 'none')}}}" for colour in colours)
    return Row(draw(scene), "what is there?", reply, SHAPE_ANSWERS)


def table(rng: random.Random, n_players: int, n_rounds: int, say: Callable[[Game, Turn], str]) -> tuple[Game, str]:
    """A game of which every clue is what `say` says, and the voters' prompt without its last line."""
    rules = GameRules(n_civilians=n_players - 1, n_rounds=n_rounds, spy_view="blank")
    game = deal(rng.getrandbits(32), 0, drawn_pair(0), rules)
    for turn in clue_turns(game):
        game = answer(game, turn, clue_reply(say(game, turn)))
    return game, render(game, vote_turns(game)[0], "compact").text.removesuffix("vote:")


def naming_lesson(rng: random.Random, n_objects: int) -> Row:
    """Every object of the scene, in any order. What is learnt is to name one that is there and was not named yet."""
    scene = sample_scene(rng, n_objects)
    names = [one.name for one in scene.objects]
    rng.shuffle(names)
    return Row(draw(scene), "which are there?", " ".join(f"\\boxed{{{name}}}" for name in names))


@dataclass(frozen=True)
class SaidWords:
    """A table at which every player says a few words, and who said each word that only one player said."""

    prompt: str
    who: dict[str, int]


def said_words(rng: random.Random, n_players: int, n_rounds: int, max_words: int) -> SaidWords:
    seats: dict[str, set[int]] = {}

    def say(game: Game, turn: Turn) -> str:
        words = rng.sample(WHO_WORDS, rng.randint(1, max_words))
        for word in words:
            seats.setdefault(word, set()).add(turn.seat)
        return " ".join(words)

    _, prompt = table(rng, n_players, n_rounds, say)
    return SaidWords(prompt, {word: next(iter(by)) for word, by in seats.items() if len(by) == 1})


def lookups_lesson(rng: random.Random, max_players: int, max_rounds: int) -> Row:
    """Who said each of up to twelve words? Only the seats are learnt."""
    said = said_words(rng, rng.randint(3, max_players), rng.randint(1, max_rounds), 3)
    asked = rng.sample(sorted(said.who), min(12, len(said.who)))
    reply = " ".join(suspicion_reply(said.who[word], word).text for word in asked)
    return Row(BLANK, f"{said.prompt}who said what?", reply, SEAT_ANSWERS)


def false_claim(rng: random.Random, scene: DrawnScene) -> str:
    """`red cube` where red is another shape, or where nothing is red; one as often as the other."""
    shapes = {one.colour: one.shape for one in scene.objects}
    absent = [colour for colour in COLOURS if colour not in shapes]
    colour = rng.choice(absent if rng.random() < 0.5 else list(shapes))
    return f"{colour} {rng.choice([shape for shape in SHAPES if shape != shapes.get(colour)])}"


def claim_about(rng: random.Random, scene: DrawnScene) -> tuple[str, bool]:
    """A claim, and whether it is true, which it is half of the time."""
    true = rng.random() < 0.5
    return (rng.choice(scene.objects).name if true else false_claim(rng, scene)), true


def judging_lesson(rng: random.Random, n_objects: int, n_claims: int = 10) -> Row:
    """Is each of many claims true of the picture? They stand as the clues of a game do. Only yes and no are learnt."""
    scene = sample_scene(rng, n_objects)
    first, lines = rng.randint(0, 8), []
    for number in range(first, first + n_claims):
        claim, true = claim_about(rng, scene)
        lines.append(f"{number % 9 + 1}: {claim} {'yes' if true else 'no'}")
    return Row(draw(scene), "which are true?", "\n".join(lines), JUDGEMENTS)


def false_clues_lesson(rng: random.Random, n_players: int, n_rounds: int) -> Row:
    """A table where half of the clues are false; the reply names those, in order."""
    scene = sample_scene(rng)
    truths: list[bool] = []
    suspicions: list[str] = []

    def say(game: Game, turn: Turn) -> str:
        claim, true = claim_about(rng, scene)
        truths.append(true)
        if not true:
            suspicions.append(suspicion_reply(turn.seat, claim).text)
        return claim

    _, prompt = table(rng, n_players, n_rounds, say)
    reply = " ".join(suspicions) or abstention_reply().text
    return Row(draw(scene), f"{prompt}which are true?", reply, truths=tuple(truths))


def voting_lesson(rng: random.Random, n_players: int, n_rounds: int) -> Row:
    """A vote at a table where only the spy says what is not there, in one round or more."""
    scene = sample_scene(rng)
    false_rounds = rng.sample(range(1, n_rounds + 1), rng.randint(1, n_rounds))
    truths: list[bool] = []
    false: list[str] = []

    def say(game: Game, turn: Turn) -> str:
        truths.append(turn.seat != game.spy or turn.round not in false_rounds)
        if truths[-1]:
            return rng.choice(scene.objects).name
        false.append(false_claim(rng, scene))
        return false[-1]

    game, prompt = table(rng, n_players, n_rounds, say)
    reply = suspicion_reply(game.spy, rng.choice(false)).text
    return Row(draw(scene), f"{prompt}vote:", reply, truths=tuple(truths))
