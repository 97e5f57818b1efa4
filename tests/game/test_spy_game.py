"""The rules as a state machine: deal, speaking order, who sees what, and that any game ends."""

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_games import noise_pairs, play_out, tiny_games
from vision_zero.game.spy_game import (
    NEUTRAL_CLUE,
    answer,
    clue_turns,
    deal,
    deal_games,
    open_turns,
    pair_of_game,
    turn_seed,
    view_of,
    vote_turns,
    votes_in_order,
)
from vision_zero.types import Completion, GameRules, Role, Turn

PAIRS = noise_pairs(4)


def speech(turn: Turn) -> str:
    return f"round {turn.round} \\boxed{{clue of {turn.seat}}}" if turn.stage == "clue" else "\\boxed{1}"


# ------------------------------------------------------------------------------------------------------------ the deal


def test_deal_is_a_function_of_seed_and_index() -> None:
    rules = GameRules()
    games = deal_games(range(20), 3, PAIRS, rules)
    random.seed(99)  # the global generator must not matter
    assert [deal_games([k], 3, PAIRS, rules)[0] for k in reversed(range(20))] == games[::-1]
    assert [game.spy for game in games] != [game.spy for game in deal_games(range(20), 4, PAIRS, rules)]


@pytest.mark.parametrize("n_civilians", range(2, 9))
def test_every_seat_is_the_spys_equally_often(n_civilians: int) -> None:
    rules = GameRules(n_civilians=n_civilians)
    n_games = 600 * rules.n_players
    counts = Counter(deal(k, 0, PAIRS[0], rules).spy for k in range(n_games))
    assert set(counts) == set(range(1, rules.n_players + 1))
    # chi-square with n_players - 1 <= 8 degrees of freedom: above 26.1 once in a thousand
    assert sum((count - 600) ** 2 / 600 for count in counts.values()) < 26.1


@given(seed=st.integers(0, 2**40), n_pairs=st.integers(1, 40), pass_index=st.integers(0, 5))
def test_every_pair_is_played_once_per_pass(seed: int, n_pairs: int, pass_index: int) -> None:
    first = pass_index * n_pairs
    assert sorted(pair_of_game(seed, k, n_pairs) for k in range(first, first + n_pairs)) == list(range(n_pairs))


def test_each_pass_and_each_seed_has_an_order_of_its_own() -> None:
    passes = [
        tuple(pair_of_game(seed, k, 30) for k in range(start, start + 30)) for seed in (0, 1) for start in (0, 30)
    ]
    assert len(set(passes)) == 4
    assert tuple(range(30)) not in passes


def test_games_without_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no image pairs"):
        deal_games([0], 0, [], GameRules())


@pytest.mark.parametrize(
    ("spy_view", "has_edited", "expected"),
    [
        ("auto", True, "edited"),
        ("auto", False, "blank"),
        ("blank", True, "blank"),
        ("masked", True, "masked"),
        ("masked", False, "masked"),
        ("edited", True, "edited"),
    ],
)
def test_spy_view(spy_view: str, has_edited: bool, expected: str) -> None:
    (pair,) = noise_pairs(1, edited=has_edited)
    assert deal(0, 0, pair, GameRules(spy_view=spy_view)).spy_view == expected


def test_an_edited_view_of_a_single_image_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'p0' \(p0.png\), which has none"):
        tiny_games(1, pairs=noise_pairs(1, edited=False), spy_view="edited")


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_civilians": 1},
        {"n_civilians": 9},
        {"n_rounds": 0},
        {"n_rounds": 6},
        {"n_votes": 0},
        {"n_civilians": 3, "n_votes": 8, "voter": "civilian"},
        {"mask_share": 0.0},
        {"mask_share": 1.1},
    ],
    ids=str,
)
def test_rules_that_make_no_game_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if len(wrong) == 1 else "not a multiple of n_civilians=3"):
        GameRules(**wrong)


# ------------------------------------------------------------------------------------------------- who speaks and votes


def test_players_speak_in_seat_order_round_by_round_and_then_all_votes_are_open() -> None:
    (game,) = tiny_games(1, n_civilians=3, n_rounds=2, n_votes=4)
    spoken = []
    while open_turns(game)[0].stage == "clue":
        (turn,) = open_turns(game)
        spoken.append((turn.round, turn.seat, turn.sample))
        game = answer(game, turn, Completion(speech(turn)))
    assert spoken == [(r, s, 0) for r in (1, 2) for s in (1, 2, 3, 4)]
    assert open_turns(game) == [Turn(0, "decision", 0, 0, sample) for sample in range(4)]


def test_votes_may_be_cast_in_any_order_and_come_back_in_one() -> None:
    (game,) = tiny_games(1, n_votes=3)
    game = play_out(game, speech, until=lambda game: len(game.clues) == 3)
    with pytest.raises(ValueError, match="3 of 3 votes are missing"):
        votes_in_order(game)
    for turn in reversed(open_turns(game)):
        game = answer(game, turn, Completion(f"\\boxed{{{turn.sample + 1}}}"))
    assert votes_in_order(game) == [1, 2, 3]
    assert [cast.turn for cast in game.votes] == vote_turns(game)
    assert not open_turns(game)


def test_civilian_voters_share_the_votes_and_the_spy_has_none() -> None:
    for game in tiny_games(8, n_civilians=4, n_votes=8, voter="civilian"):
        seats = Counter(turn.seat for turn in vote_turns(game))
        assert seats == {seat: 2 for seat in range(1, 6) if seat != game.spy}
        assert {turn.sample for turn in vote_turns(game)} == {0, 1}


def test_turns_that_are_not_open_are_refused() -> None:
    (game,) = tiny_games(1)
    first, second, _ = clue_turns(game)
    vote = vote_turns(game)[0]
    for closed in (second, vote, Turn(1, "clue", 1, 1, 0), Turn(0, "clue", 1, 1, 1)):
        with pytest.raises(ValueError, match="cannot be answered now"):
            answer(game, closed, Completion("\\boxed{x}"))
    after = answer(game, first, Completion("\\boxed{x}"))
    with pytest.raises(ValueError, match="cannot be answered now"):
        answer(after, first, Completion("\\boxed{x}"))
    assert game.clues == ()  # a game is a value: answering made a new one
    full = play_out(after, speech)
    with pytest.raises(ValueError, match="cannot be answered now"):
        answer(full, vote, Completion("\\boxed{1}"))


def test_only_the_spys_clue_turns_are_played_on_the_spys_image() -> None:
    for voter in ("observer", "civilian"):
        for game in tiny_games(6, voter=voter):
            for turn in clue_turns(game):
                assert view_of(game, turn) == ("spy" if turn.seat == game.spy else "civilian")
            assert {view_of(game, turn) for turn in vote_turns(game)} == {"civilian"}
            with pytest.raises(ValueError, match=r"seat 0 is not in 1\.\.3"):
                game.role(0)
            assert [game.role(seat) for seat in (1, 2, 3)].count(Role.SPY) == 1


def test_every_turn_of_a_run_has_a_seed_of_its_own() -> None:
    seeds = {
        turn_seed(seed, turn)
        for seed in (0, 1)
        for voter in ("observer", "civilian")
        for game in tiny_games(40, n_civilians=4, n_rounds=2, n_votes=8, voter=voter)
        for turn in (*clue_turns(game), *vote_turns(game))
    }
    # per game: 10 clues, 8 votes by the observer, 8 votes by civilians
    assert len(seeds) == 2 * 40 * (10 + 8 + 8)
    assert all(0 <= seed < 2**63 for seed in seeds)
    turn = Turn(5, "clue", 1, 2, 0)
    assert turn_seed(7, turn) == turn_seed(7, Turn(5, "clue", 1, 2, 0))


# ----------------------------------------------------------------------------------------------------- what answers do


def test_an_unparsed_clue_becomes_the_neutral_text() -> None:
    (game,) = tiny_games(1)
    after = answer(game, open_turns(game)[0], Completion("I rather say nothing in a box"))
    (clue,) = after.clues
    assert (clue.text, clue.parsed, clue.reasoning) == (NEUTRAL_CLUE, False, "I rather say nothing in a box")
    after = answer(after, open_turns(after)[0], Completion("Thinking.\n\\boxed{a red cube}"))
    assert (after.clues[1].text, after.clues[1].parsed, after.clues[1].reasoning) == ("a red cube", True, "Thinking.")


def test_a_clue_is_cut_at_300_characters() -> None:
    (game,) = tiny_games(1)
    assert answer(game, open_turns(game)[0], Completion(f"\\boxed{{{'a' * 301}}}")).clues[0].text == "a" * 300


@pytest.mark.parametrize(("text", "vote"), [("\\boxed{3}", 3), ("\\boxed{N/A}", None), ("\\boxed{4}", 0), ("three", 0)])
def test_votes_are_read_by_the_number_of_players(text: str, vote: int | None) -> None:
    (game,) = tiny_games(1, n_votes=1)
    game = play_out(game, lambda turn: speech(turn) if turn.stage == "clue" else text)
    assert votes_in_order(game) == [vote]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    n_civilians=st.integers(2, 8),
    n_rounds=st.integers(1, 5),
    votes_each=st.integers(1, 3),
    voter=st.sampled_from(["observer", "civilian"]),
)
def test_any_answers_end_the_game_after_players_times_rounds_clues_and_all_votes(
    data: st.DataObject, n_civilians: int, n_rounds: int, votes_each: int, voter: str
) -> None:
    n_votes = n_civilians * votes_each
    (game,) = tiny_games(1, n_civilians=n_civilians, n_rounds=n_rounds, n_votes=n_votes, voter=voter)
    some = data.draw(st.lists(st.text(max_size=30) | st.text(max_size=20).map("\\boxed{{{}}}".format), min_size=1))
    pick = random.Random(data.draw(st.integers(0, 99)))
    asked = []
    while turns := open_turns(game):
        asked.append(pick.choice(turns))
        game = answer(game, asked[-1], Completion(pick.choice(some)))
    n_players = n_civilians + 1
    assert len(game.clues) == n_players * n_rounds
    assert len(game.votes) == n_votes
    assert len(set(asked)) == len(asked) == n_players * n_rounds + n_votes
    assert all(vote is None or 0 <= vote <= n_players for vote in votes_in_order(game))
    assert [(c.turn.round, c.turn.seat) for c in game.clues] == list(
        product(range(1, n_rounds + 1), range(1, n_players + 1))
    )
    assert all("\n" not in clue.text and len(clue.text) <= 300 for clue in game.clues)
