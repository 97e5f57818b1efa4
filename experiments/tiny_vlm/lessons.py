"""First lessons of the tiny model: prompts with many answers in one completion, about seeing, look-up and judging."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from tiny_vlm.files import GENERIC_WORDS
from tiny_vlm.scripted import TELL_WORDS, abstention_completion, clue_completion, suspicion_completion
from vision_zero.data.drawn_scenes import COLOURS, SHAPES, DrawnScene, draw, drawn_pair, sample_scene
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, clue_turns, deal, vote_turns
from vision_zero.rollout.game_images import BLANK_COLOUR
from vision_zero.types import Game, GameRules, Turn


@dataclass(frozen=True)
class LessonExample:
    """Supervised example: an image, a prompt and its completion.

    `answers`: the tokens of the completion that are learnt, None for all. `truths`: for every claim in the prompt, in
    order, true if it is true of the image; empty if that is not learnt. `boxes`: other right contents of the box.
    """

    image: Image.Image
    prompt: str
    completion: str
    answers: frozenset[str] | None = None
    truths: tuple[bool, ...] = ()
    boxes: frozenset[str] = frozenset()


WHO_WORDS = (*COLOURS, *SHAPES, *TELL_WORDS, *GENERIC_WORDS)
SHAPE_ANSWERS = frozenset(f" {shape}" for shape in (*SHAPES, "none"))
SEAT_ANSWERS = frozenset("123456789")
JUDGEMENTS = frozenset((" yes", " no"))
BLANK = Image.new("RGB", (56, 56), BLANK_COLOUR)


def shapes_lesson(rng: random.Random, n_objects: int) -> LessonExample:
    """Shape of every colour of the scene and of two that are not in it, in any order. Only shapes are learnt."""
    scene = sample_scene(rng, n_objects)
    shapes = {one.colour: one.shape for one in scene.objects}
    absent = [colour for colour in COLOURS if colour not in shapes]
    colours = [*shapes, *rng.sample(absent, 2)]
    rng.shuffle(colours)
    completion = " ".join(f"\\boxed{{{colour} {shapes.get(colour, 'none')}}}" for colour in colours)
    return LessonExample(draw(scene), "what is there?", completion, SHAPE_ANSWERS)


def game_with_clues(
    rng: random.Random, n_players: int, n_rounds: int, say: Callable[[Game, Turn], str]
) -> tuple[Game, str]:
    """Game with the clues that `say` returns, and its voters' prompt without the last line."""
    rules = GameRules(n_civilians=n_players - 1, n_rounds=n_rounds, spy_view="blank")
    game = deal(rng.getrandbits(32), 0, drawn_pair(0), rules)
    for turn in clue_turns(game):
        game = answer(game, turn, clue_completion(say(game, turn)))
    return game, render(game, vote_turns(game)[0], "compact").text.removesuffix("vote:")


def naming_lesson(rng: random.Random, n_objects: int) -> LessonExample:
    """Names of all objects of the scene, in any order: each names an object that is there and was not named yet."""
    scene = sample_scene(rng, n_objects)
    names = [one.name for one in scene.objects]
    rng.shuffle(names)
    return LessonExample(draw(scene), "which are there?", " ".join(f"\\boxed{{{name}}}" for name in names))


@dataclass(frozen=True)
class SaidWords:
    """Prompt of a game whose clues are a few words each, and the seat of each word that only one player said."""

    prompt: str
    who: dict[str, int]


def said_words(rng: random.Random, n_players: int, n_rounds: int, max_words: int) -> SaidWords:
    seats: dict[str, set[int]] = {}

    def say(game: Game, turn: Turn) -> str:
        words = rng.sample(WHO_WORDS, rng.randint(1, max_words))
        for word in words:
            seats.setdefault(word, set()).add(turn.seat)
        return " ".join(words)

    _, prompt = game_with_clues(rng, n_players, n_rounds, say)
    return SaidWords(prompt, {word: next(iter(by)) for word, by in seats.items() if len(by) == 1})


def lookups_lesson(rng: random.Random, max_players: int, max_rounds: int) -> LessonExample:
    """Seats of the players who said up to twelve words. Only the seats are learnt."""
    said = said_words(rng, rng.randint(3, max_players), rng.randint(1, max_rounds), 3)
    asked = rng.sample(sorted(said.who), min(12, len(said.who)))
    completion = " ".join(suspicion_completion(said.who[word], word).text for word in asked)
    return LessonExample(BLANK, f"{said.prompt}who said what?", completion, SEAT_ANSWERS)


def false_claim(rng: random.Random, scene: DrawnScene) -> str:
    """False claim: `red cube` where red is another shape, or (as often) where nothing is red."""
    shapes = {one.colour: one.shape for one in scene.objects}
    absent = [colour for colour in COLOURS if colour not in shapes]
    colour = rng.choice(absent if rng.random() < 0.5 else list(shapes))
    return f"{colour} {rng.choice([shape for shape in SHAPES if shape != shapes.get(colour)])}"


def claim_about(rng: random.Random, scene: DrawnScene) -> tuple[str, bool]:
    """Claim and its truth; half of the claims are true."""
    true = rng.random() < 0.5
    return (rng.choice(scene.objects).name if true else false_claim(rng, scene)), true


def judging_lesson(rng: random.Random, n_objects: int, n_claims: int = 10) -> LessonExample:
    """Truth of many claims, in the format of a game's clues. Only yes and no are learnt."""
    scene = sample_scene(rng, n_objects)
    first, lines = rng.randint(0, 8), []
    for number in range(first, first + n_claims):
        claim, true = claim_about(rng, scene)
        lines.append(f"{number % 9 + 1}: {claim} {'yes' if true else 'no'}")
    return LessonExample(draw(scene), "which are true?", "\n".join(lines), JUDGEMENTS)


def false_clues_lesson(rng: random.Random, n_players: int, n_rounds: int) -> LessonExample:
    """False clues of a game, in order; half of its clues are false."""
    scene = sample_scene(rng)
    truths: list[bool] = []
    suspicions: list[str] = []

    def say(game: Game, turn: Turn) -> str:
        claim, true = claim_about(rng, scene)
        truths.append(true)
        if not true:
            suspicions.append(suspicion_completion(turn.seat, claim).text)
        return claim

    _, prompt = game_with_clues(rng, n_players, n_rounds, say)
    completion = " ".join(suspicions) or abstention_completion().text
    return LessonExample(draw(scene), f"{prompt}which are true?", completion, truths=tuple(truths))


def voting_lesson(rng: random.Random, n_players: int, n_rounds: int) -> LessonExample:
    """Vote of a game in which only the spy's clues are false, in one round or more."""
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

    game, prompt = game_with_clues(rng, n_players, n_rounds, say)
    completion = suspicion_completion(game.spy, rng.choice(false)).text
    return LessonExample(draw(scene), f"{prompt}vote:", completion, truths=tuple(truths))
