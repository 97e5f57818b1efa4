"""Pay-offs of one who deviates: who it is, what it says, its reward by hand; the page holds what was played."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import alarms
import payoffs
from files import read_lines
from payoffs import CASES, CODE, Case, OneDeviates, best_replies, deviant, figures, mixed, rewards, section
from report import PAGE
from tiny_vlm.games import TOKEN_LIMITS
from tiny_vlm.scripted import OraclePlayer, RandomPlayer, civilian_objects, claims
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import deal_games
from vision_zero.rollout.play import Seating, play
from vision_zero.types import Game, GameRules, Role

GAMES = deal_games(range(6), 0, load_pairs("drawn:6@heldout"), GameRules())


def clues(case: Case) -> list[Game]:
    players = OneDeviates(case)
    return play(GAMES, Seating(players, players, RandomPlayer()), TOKEN_LIMITS, template="compact").games


@pytest.mark.parametrize("role", list(Role))
def test_one_player_of_the_role_deviates_and_nobody_else(role: Role) -> None:
    for game in clues(Case(role, "honest", "code")):
        seat = deviant(game, role)
        assert game.role(seat) is role
        for clue in game.clues:
            if clue.turn.seat == seat:
                assert clue.text == CODE
            elif clue.turn.seat != game.spy:
                assert set(claims(clue.text)) <= set(civilian_objects(game.pair))


def test_who_copies_says_what_was_said() -> None:
    for game in clues(Case(Role.CIVILIAN, "copying", "copying")):
        first, *rest = [clue for clue in game.clues if clue.turn.seat != game.spy]
        heard = {first.text}
        for clue in rest:
            said_true = [text for text in heard if text in civilian_objects(game.pair)]
            heard.add(clue.text)
            assert not said_true or clue.text in {one.text for one in game.clues if one.turn != clue.turn}


def test_rewards_of_voters_who_know_the_scene() -> None:
    """They suspect whoever says most that is false: a civilian that speaks a code where there is no blue cube."""
    found = rewards(OraclePlayer(), GAMES)
    assert {len(some) for some in found.values()} == {len(GAMES)}
    honest, code = (found[str(Case(Role.CIVILIAN, "honest", own))] for own in ("honest", "code"))
    worse = [number for number, game in enumerate(GAMES) if CODE not in civilian_objects(game.pair)]
    assert worse
    assert sum(code[number] for number in worse) < sum(honest[number] for number in worse)


def line(gain: float) -> dict[str, object]:
    start = {str(case): [0.0, 1.0] for case in CASES}
    trained = {str(case): [gain, 1 + gain] if case.own == "silent" else [0.0, 1.0] for case in CASES}
    return {"games": 2, "voters": {"start": "a", "new": "b"}, "figures": figures({"start": start, "new": trained})}


def test_a_mixture_is_the_mean_of_its_voters() -> None:
    by_voters: dict[str, dict[str, Sequence[float]]] = {"start": {"c": [0.0, 1.0]}, "new": {"c": [1.0, 3.0]}}
    found = mixed(by_voters)
    assert found["new, 20% start"]["c"] == pytest.approx([0.8, 2.6])
    assert list(found) == ["start", "new", "new, 10% start", "new, 20% start", "new, 50% start"]


def test_best_replies_are_said() -> None:
    assert "in front of: start." in best_replies(line(0.5))
    assert "in front of: start, new, new, 10% start" in best_replies(line(-0.5))


def test_the_page_is_what_was_played_and_recorded() -> None:
    page = PAGE.read_text("utf-8")
    assert section(read_lines(payoffs.PAYOFFS)[-1]) in page
    assert alarms.section(alarms.recorded_runs()) in page


def test_what_is_no_voter_is_refused() -> None:
    refused = {"start=data": "not the name start", "a": "give NAME=FOLDER", "a=no/such": "no folder"}
    for word, says in refused.items():
        with pytest.raises(ValueError, match=says):
            payoffs.voters_of([word])
