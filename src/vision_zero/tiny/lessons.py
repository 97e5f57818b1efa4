"""What the tiny model is taught: questions with many answers, and the turns of noisy scripted games."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from vision_zero.data.drawings import COLOURS, SHAPES, draw, drawn_pair, sample_scene
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, clue_turns, deal, vote_turns
from vision_zero.rollout.engine import Table, play
from vision_zero.rollout.policy import BLANK_COLOUR, LimitsByStage, TokenLimits
from vision_zero.rollout.record import game_when
from vision_zero.rollout.scripted import (
    TELL_WORDS,
    NoisyPlayer,
    OraclePlayer,
    TellingPlayer,
    clue_reply,
)
from vision_zero.tiny.files import GENERIC_WORDS
from vision_zero.types import CastVote, Clue, GameRules, SpyView, Voter


@dataclass(frozen=True)
class Row:
    """One prompt and its reply. `answers`: which tokens of the reply are learnt, None for all of them."""

    image: Image.Image
    prompt: str
    reply: str
    answers: frozenset[str] | None = None


WHO_WORDS = (*COLOURS, *SHAPES, *TELL_WORDS, *GENERIC_WORDS)
SHAPE_ANSWERS = frozenset(f" {shape}" for shape in (*SHAPES, "none"))
SEAT_ANSWERS = frozenset("123456789")
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


def shape_question(rng: random.Random) -> Row:
    scene = sample_scene(rng)
    shapes = {one.colour: one.shape for one in scene.objects}
    colour = rng.choice([*shapes, rng.choice(list(COLOURS))])
    return Row(draw(scene), f"what shape is {colour}?", f"\\boxed{{{colour} {shapes.get(colour, 'none')}}}")


@dataclass(frozen=True)
class SaidWords:
    """A table at which every player says a few words, and who said each word that only one player said."""

    prompt: str
    who: dict[str, int]


def said_words(rng: random.Random, n_players: int, n_rounds: int, max_words: int) -> SaidWords:
    rules = GameRules(n_civilians=n_players - 1, n_rounds=n_rounds, spy_view="blank")
    game = deal(rng.getrandbits(32), 0, drawn_pair(0), rules)
    seats: dict[str, set[int]] = {}
    for turn in clue_turns(game):
        words = rng.sample(WHO_WORDS, rng.randint(1, max_words))
        game = answer(game, turn, clue_reply(" ".join(words)))
        for word in words:
            seats.setdefault(word, set()).add(turn.seat)
    who = {word: next(iter(by)) for word, by in seats.items() if len(by) == 1}
    return SaidWords(render(game, vote_turns(game)[0], "compact").text.removesuffix("vote:"), who)


def lookups_lesson(rng: random.Random, max_players: int, max_rounds: int) -> Row:
    """Who said each of up to twelve words? Only the seats are learnt."""
    table = said_words(rng, rng.randint(3, max_players), rng.randint(1, max_rounds), 3)
    asked = rng.sample(sorted(table.who), min(12, len(table.who)))
    reply = " ".join(f"said {word} \\boxed{{{table.who[word]}}}" for word in asked)
    return Row(BLANK, f"{table.prompt}who said what?", reply, SEAT_ANSWERS)


def lookup_question(rng: random.Random, n_players: int, n_rounds: int) -> Row:
    """Who said one word, that one player said?"""
    table = said_words(rng, n_players, n_rounds, 3)
    word, seat = rng.choice(sorted(table.who.items()))
    return Row(any_image(rng), f"{table.prompt}who said {word}?", f"said {word} \\boxed{{{seat}}}")


def naming_question(rng: random.Random) -> Row:
    scene = sample_scene(rng)
    return Row(draw(scene), "name one", f"\\boxed{{{rng.choice(scene.objects).name}}}")


def any_image(rng: random.Random) -> Image.Image:
    """Mostly a scene; else something that is not one, of any size, so that no image makes the model stammer."""
    if rng.random() < 0.8:
        return draw(sample_scene(rng))
    return strange_image(rng)


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


def noisy_table() -> Table:
    """Civilians say what is there four times in five, spies less often, and most votes are guesses."""
    civilian = TellingPlayer(NoisyPlayer(OraclePlayer(thought_share=0.25), 0.2), share=0.12)
    spy = TellingPlayer(NoisyPlayer(OraclePlayer(thought_share=0.25), 0.6), share=0.12)
    return Table(civilian, spy, NoisyPlayer(OraclePlayer(), 0.55))


def random_rules(rng: random.Random) -> GameRules:
    """Any game that the rules allow up to two rounds; the usual ones (2 to 4 civilians) more often."""
    n_civilians = rng.choice((2, 3, 4, 2, 3, 4, 5, 6, 7, 8))
    voter: Voter = rng.choice(("observer", "observer", "observer", "civilian"))
    n_votes = n_civilians if voter == "civilian" else 4
    view: SpyView = rng.choice(("edited", "edited", "edited", "blank", "masked"))
    return GameRules(n_civilians, rng.choice((1, 2)), view, voter, n_votes)


def game_rows(rng: random.Random) -> list[Row]:
    """Every turn of one noisy game; one game in eight is played on images that are no scenes."""
    pair = drawn_pair(rng.getrandbits(48) | TRAINING_BIT)
    game = deal(rng.getrandbits(32), 0, pair, random_rules(rng))
    rollout = play([game], noisy_table(), LIMITS, template="compact")
    game = rollout.games[0]
    strange = strange_image(rng) if rng.random() < 1 / 8 else None
    rows = []
    everything: list[Clue | CastVote] = [*game.clues, *game.votes]
    for said in everything:
        prompt = render(game_when(game, said), said.turn, "compact")
        rows.append(Row(strange or rollout.images[game.index, prompt.view], prompt.text, said.reply.text))
    return rows


TRAINING_BIT = 1 << 50
"""Set in the number of every drawing that games are trained on, so that no drawing of a test is among them."""

LIMITS: LimitsByStage = {"clue": TokenLimits(1, 16), "decision": TokenLimits(1, 16)}


def mixed_rows(rng: random.Random, count: int) -> list[Row]:
    """Half of them turns of games, the other half questions, most of these who said a word."""
    rows: list[Row] = []
    while len(rows) < count // 2:
        rows += game_rows(rng)
    while len(rows) < count:
        kind = rng.random()
        if kind < 0.6:
            rows.append(lookup_question(rng, rng.randint(3, 9), rng.choice((1, 2))))
        else:
            rows.append(shape_question(rng) if kind < 0.75 else naming_question(rng))
    return rows[:count]
