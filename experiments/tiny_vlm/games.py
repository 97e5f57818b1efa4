"""Games that the tiny model is warm-started on: turns of scripted players, noisy on purpose."""

from __future__ import annotations

import random
from functools import partial

from PIL import Image

from tiny_vlm.lessons import LessonExample, false_clues_lesson, judging_lesson, naming_lesson
from tiny_vlm.questions import QUESTIONS, strange_image
from tiny_vlm.scripted import NamingPlayer, NoisyPlayer, OraclePlayer, TellingPlayer
from vision_zero.data.drawn_scenes import drawn_pair
from vision_zero.evaluate.clues.grounding import civilian_objects, claims
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import deal
from vision_zero.rollout.play import Rollout, Seating, play
from vision_zero.rollout.policy import TokenLimits, TokenLimitsByStage
from vision_zero.rollout.record import game_when
from vision_zero.types import CastVote, Clue, GameRules, SpyView, Voter

GUESSES = 0.1
"""Share of the votes that are guesses."""


def noisy_seating(guesses: float = GUESSES) -> Seating:
    """Scripted players: honest civilians, weak spies, and voters who sometimes guess.

    One in twelve of the civilians' clues is random, else they name what is there. A spy's clue is random (3 in 4),
    names what the spy sees, or repeats what others said and the spy sees too (1 in 8 each). `guesses` of the votes are
    random, the others suspect whoever said most of what is not there.
    """
    civilian = NoisyPlayer(OraclePlayer(0.25), 1 / 12)
    spy = NoisyPlayer(NoisyPlayer(OraclePlayer(0.25), 0.5, NamingPlayer(0.25)), 0.75)
    return Seating(
        TellingPlayer(civilian, share=0.12), TellingPlayer(spy, share=0.12), NoisyPlayer(OraclePlayer(), guesses)
    )


def random_rules(rng: random.Random) -> GameRules:
    """Usual rules half of the time, else any with up to two rounds, fewer players more often."""
    if rng.random() < 0.5:
        return GameRules(4, 2, "edited")
    n_civilians = rng.choice((2, 3, 4, 2, 3, 4, 5, 6, 7, 8))
    voter: Voter = rng.choice(("observer", "observer", "observer", "civilian"))
    n_votes = n_civilians if voter == "civilian" else 8
    view: SpyView = rng.choice(("edited", "edited", "edited", "blank", "masked"))
    return GameRules(n_civilians, rng.choice((1, 2)), view, voter, n_votes)


def game_examples(rng: random.Random, guesses: float = GUESSES) -> list[LessonExample]:
    """All turns of one noisy game; one game in twelve is on images that are no scenes."""
    pair = drawn_pair(rng.getrandbits(48) | TRAINING_BIT)
    game = deal(rng.getrandbits(32), 0, pair, random_rules(rng))
    rollout = play([game], noisy_seating(guesses), TOKEN_LIMITS, template="compact")
    game = rollout.games[0]
    strange = strange_image(rng) if rng.random() < 1 / 12 else None
    there = set(civilian_objects(pair))
    truths = () if strange else tuple(claim in there for clue in game.clues for claim in claims(clue.text))
    examples = [turn_example(rollout, clue, strange, ()) for clue in game.clues]
    return examples + [turn_example(rollout, vote, strange, truths) for vote in game.votes]


def turn_example(
    rollout: Rollout, said: Clue | CastVote, strange: Image.Image | None, truths: tuple[bool, ...]
) -> LessonExample:
    game = rollout.games[0]
    prompt = render(game_when(game, said), said.turn, "compact")
    image = strange or rollout.images[game.index, prompt.view]
    return LessonExample(image, prompt.text, said.completion.text, truths=truths)


TRAINING_BIT = 1 << 50
"""Set in the number of every drawing that games are trained on, so that no drawing of a test is among them."""

TOKEN_LIMITS: TokenLimitsByStage = {"clue": TokenLimits(1, 16), "decision": TokenLimits(1, 16)}


LESSONS = (
    partial(naming_lesson, n_objects=6),
    partial(judging_lesson, n_objects=6),
    partial(false_clues_lesson, n_players=5, n_rounds=2),
)
"""Skills that games need, repeated because the noise of the games would make the model forget them."""


def mixed_examples(rng: random.Random, count: int, guesses: float = GUESSES) -> list[LessonExample]:
    """`count` examples: half turns of games, a quarter questions, a quarter lessons."""
    examples: list[LessonExample] = []
    while len(examples) < count // 2:
        examples += game_examples(rng, guesses)
    examples = examples[: count // 2]
    questions, shares = zip(*QUESTIONS.values(), strict=True)
    examples += [question(rng) for question in rng.choices(questions, shares, k=count // 4)]
    return examples + [rng.choice(LESSONS)(rng) for _ in range(count - len(examples))]
