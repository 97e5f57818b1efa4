"""Whether clues are true, discriminative and copied, on three hand-made pictures and on games of scripted players."""

from typing import Any

import pytest

from tests.tiny_games import noise_pairs
from tiny_vlm.scripted import FunctionPlayer, OraclePlayer, RandomPlayer
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.evaluate.clues.grounding import (
    ClueGrounding,
    SaidClue,
    SceneIndex,
    grounding_figures,
    grounding_of_game,
    is_described,
    said_in_record,
)
from vision_zero.game.spy_game import deal_games
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.rollout.record import game_record
from vision_zero.types import GameRules, ImagePair, Role

TOKEN_LIMITS: Any = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}


def picture(name: str, *objects: str) -> ImagePair:
    words = [one.split() for one in objects]
    image = noise_pairs(1)[0].image
    return ImagePair(name, image, meta={"objects": [{"color": colour, "shape": shape} for colour, shape in words]})


SCENES = SceneIndex(
    [
        picture("a", "red cube", "blue sphere"),
        picture("b", "red cube", "green cylinder"),
        picture("c", "cyan cube", "blue sphere"),
    ]
)


def judged(*texts: str, spy: int = 2) -> dict[Role, ClueGrounding]:
    """One round: seat 1 says the first."""
    return SCENES.judge("a", spy, [SaidClue(seat, text) for seat, text in enumerate(texts, start=1)])


def test_by_hand() -> None:
    """Picture a. `red cube` is also true of b (told from 1 of 2), both objects together are true of a alone."""
    grounding = judged("a red cube", "green cylinder", "red cube and a blue sphere", "red cube", "nice")
    # Civilians: seats 1, 3, 4, 5: true, true, true, not; discriminative 1/2, 1, 1/2, 0; seat 4 copies; seat 5 has no
    # claim.
    assert grounding[Role.CIVILIAN] == ClueGrounding(
        true=0.75, discriminative=0.5, copied=0.25, no_claim=0.25, unparsed=0.0
    )
    assert grounding[Role.SPY] == ClueGrounding(true=0.0, discriminative=0.0, copied=0.0, no_claim=0.0, unparsed=0.0)


def test_a_clue_that_is_half_true_is_not_true() -> None:
    assert judged("red cube", "red cube, green cylinder")[Role.SPY].true == 0


def test_copying_is_saying_what_was_said_whoever_said_it_and_in_whatever_words() -> None:
    assert judged("I see a Red  cube", "the red cube!")[Role.SPY].copied == 1
    assert judged("red cube and blue sphere", "blue sphere")[Role.SPY].copied == 1
    assert judged("red cube", "red cube and blue sphere")[Role.SPY].copied == 0
    assert judged("Very nice", "very  nice")[Role.SPY].copied == 1
    assert judged("red cube", "nice")[Role.SPY].copied == 0


def test_what_could_not_be_read_is_no_claim_and_no_copy() -> None:
    clues = [SaidClue(1, "red cube", parsed=False), SaidClue(2, "red cube"), SaidClue(3, "red cube", parsed=False)]
    grounding = SCENES.judge("a", 2, clues)
    assert grounding[Role.CIVILIAN] == ClueGrounding(true=0, discriminative=0, copied=0, no_claim=1, unparsed=1)
    assert grounding[Role.SPY].copied == 0


def test_the_only_picture_cannot_be_told_from_others() -> None:
    alone = SceneIndex([picture("a", "red cube")])
    assert alone.judge("a", 2, [SaidClue(1, "red cube"), SaidClue(2, "red cube")])[Role.CIVILIAN].discriminative == 0


def test_honest_civilians_say_what_is_true_and_new_and_a_guesser_rarely_does() -> None:
    pairs = drawn_pairs(range(40))
    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=1)
    oracle = OraclePlayer()
    games = play(deal_games(range(40), 0, pairs, rules), Seating(oracle, RandomPlayer(), oracle), TOKEN_LIMITS).games
    figures = grounding_figures([grounding_of_game(game, SceneIndex(pairs)) for game in games])
    assert figures["civilian/true"].value == 1
    assert 0.5 < figures["civilian/discriminative"].value < 1
    assert figures["civilian/no_claim"].value == 0
    assert figures["spy/true"].high < 0.5  # 3 to 6 of 24 objects are there


def test_a_recorded_game_is_judged_as_the_game_was() -> None:
    pairs = drawn_pairs(range(2))
    rules = GameRules(n_civilians=2, n_rounds=2, n_votes=1)
    players = Seating(OraclePlayer(), RandomPlayer(), FunctionPlayer(vote=lambda request, rng: 1))
    for game in play(deal_games(range(2), 0, pairs, rules), players, TOKEN_LIMITS).games:
        record = game_record(
            game, step=0, stage="clue", template="auto", clue_rewards=[], clue_advantages=[], vote_rewards=[0.0]
        )
        scene_index = SceneIndex(pairs)
        assert scene_index.judge(record["pair"], record["spy"], said_in_record(record)) == grounding_of_game(
            game, scene_index
        )


def test_sets_without_descriptions_are_known_and_refused() -> None:
    assert is_described(drawn_pairs([0])[0])
    assert not is_described(noise_pairs(1)[0])
    with pytest.raises(ValueError, match="scene description"):
        SceneIndex(noise_pairs(1))
    with pytest.raises(ValueError, match="there are none"):
        SceneIndex([])
