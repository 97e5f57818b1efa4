"""Scripted players: parsed, seeded, and the oracle finds the spy that a random voter does not."""

import pytest

from tiny_vlm.scripted import (
    TELL_WORDS,
    FunctionPlayer,
    NoisyPlayer,
    OraclePlayer,
    RandomPlayer,
    TellingPlayer,
    false_claims,
    spy_objects,
)
from vision_zero.data.drawn_scenes import DrawnImage, drawn_pair, drawn_pairs, scenes_of
from vision_zero.evaluate.clues.grounding import civilian_objects, claims
from vision_zero.game.parsing import read_clue
from vision_zero.game.spy_game import deal_games, votes_in_order
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.types import Game, GameRules, ImagePair, Role

TOKEN_LIMITS = {"clue": TokenLimits(0, 16), "decision": TokenLimits(0, 16)}
PAIRS = drawn_pairs(range(40))


def play_games(seating: Seating, n_games: int = 40, **rules) -> list[Game]:
    games = deal_games(range(n_games), 0, PAIRS, GameRules(**rules))
    return play(games, seating, TOKEN_LIMITS, template="compact").games


def texts(game: Game) -> list[str]:
    return [said.completion.text for said in (*game.clues, *game.votes)]


def share_for_spy(games: list[Game]) -> float:
    votes = [vote == game.spy for game in games for vote in votes_in_order(game)]
    return sum(votes) / len(votes)


def test_oracle_finds_a_spy_who_guesses_and_a_random_voter_does_not() -> None:
    oracle, guessing = OraclePlayer(), RandomPlayer()
    found = share_for_spy(play_games(Seating(civilian=oracle, spy=guessing, voter=oracle)))
    by_chance = share_for_spy(play_games(Seating(civilian=oracle, spy=guessing, voter=guessing)))
    assert found > 0.8
    assert by_chance < 0.35


def test_a_spy_who_mimics_is_found_less_often_than_one_who_guesses() -> None:
    oracle = OraclePlayer()
    assert share_for_spy(play_games(Seating.of(oracle))) < share_for_spy(
        play_games(Seating(civilian=oracle, spy=RandomPlayer(), voter=oracle))
    )


@pytest.mark.parametrize("spy_view", ["edited", "blank", "masked"])
def test_what_the_oracles_say_is_in_their_image(spy_view: str) -> None:
    for game in play_games(Seating.of(OraclePlayer()), spy_view=spy_view):
        assert not any(false for seat, false in false_claims(game).items() if game.role(seat) is Role.CIVILIAN)
        spy_said = {claim for clue in game.clues if clue.turn.seat == game.spy for claim in claims(clue.text)}
        if spy_view != "blank":
            assert spy_said <= set(spy_objects(game.pair) if spy_view == "edited" else civilian_objects(game.pair))


def test_oracle_civilians_do_not_repeat_each_other_while_there_is_something_new() -> None:
    for game in play_games(Seating.of(OraclePlayer()), n_civilians=2, n_rounds=1, spy_view="masked"):
        said = [clue.text for clue in game.clues]
        for position, clue in enumerate(game.clues):
            assert clue.turn.seat == game.spy or clue.text not in said[:position]


def test_everything_said_is_parsed_and_comes_from_the_seed_alone() -> None:
    noisy = NoisyPlayer(OraclePlayer(), 0.5)
    games = play_games(Seating.of(noisy), voter="civilian")
    assert all(clue.parsed for game in games for clue in game.clues)
    assert all(vote != 0 for game in games for vote in votes_in_order(game))
    assert [texts(game) for game in games] == [texts(game) for game in play_games(Seating.of(noisy), voter="civilian")]


def test_random_votes_are_spread_over_seats_and_na() -> None:
    votes = [vote for game in play_games(Seating.of(RandomPlayer())) for vote in votes_in_order(game)]
    shares = {vote: votes.count(vote) / len(votes) for vote in set(votes)}
    assert set(shares) == {None, 1, 2, 3, 4, 5}
    assert max(shares.values()) < 0.3


def test_a_random_player_with_words_of_its_own_says_only_those() -> None:
    games = play_games(Seating.of(RandomPlayer(words=("sun", "moon"))), n_games=5)
    assert {word for game in games for clue in game.clues for word in clue.text.split()} == {"sun", "moon"}


def test_noise_share_is_kept() -> None:
    sun, moon = FunctionPlayer(clue=lambda request, rng: "sun"), FunctionPlayer(clue=lambda request, rng: "moon")
    clues = NoisyPlayer(sun, 0.25, noise=moon)
    games = play_games(Seating(civilian=clues, spy=clues, voter=RandomPlayer()))
    said = [clue.text for game in games for clue in game.clues]
    assert 0.18 < said.count("moon") / len(said) < 0.32
    with pytest.raises(ValueError, match="share of noise"):
        NoisyPlayer(sun, 1.5)


def test_a_tell_is_added_to_the_spys_clues_and_heard_by_all() -> None:
    oracle = OraclePlayer(thought_share=0.5)
    finder = FunctionPlayer(
        vote=lambda request, rng: next(clue.turn.seat for clue in request.game.clues if "wow" in clue.text)
    )
    games = play_games(Seating(civilian=oracle, spy=TellingPlayer(oracle, ["wow"]), voter=finder))
    assert share_for_spy(games) == 1.0
    assert "wow" in TELL_WORDS
    completions = [clue.completion.text for game in games for clue in game.clues]
    assert any(text.startswith("see ") for text in completions)
    assert all(read_clue(text) for text in completions)


def test_a_function_player_says_which_function_it_lacks() -> None:
    with pytest.raises(ValueError, match="no function"):
        play_games(Seating.of(FunctionPlayer(vote=lambda request, rng: 1)), n_games=1)


def test_an_oracle_needs_a_scene_description() -> None:
    undescribed = ImagePair("photo", DrawnImage(scenes_of(0)[0], "photo"))
    with pytest.raises(ValueError, match="'photo' has no scene description"):
        play(
            deal_games([0], 0, [undescribed], GameRules()), Seating.of(OraclePlayer()), TOKEN_LIMITS, template="compact"
        )


def test_objects_of_clevr_scene_files_are_read_too() -> None:
    scene = {"objects": [{"color": "red", "shape": "cube", "material": "metal", "size": "small"}]}
    pair = ImagePair("clevr", drawn_pair(0).image, meta=scene)
    assert civilian_objects(pair) == spy_objects(pair) == ["red cube"]
