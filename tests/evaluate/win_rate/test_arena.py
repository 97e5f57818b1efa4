"""The arena with players whose results are known: hand-computed win rates, gains, image gain, and equal deals."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.tiny_games import NoiseImage, noise_pairs
from tiny_vlm.scripted import FunctionPlayer, NoisyPlayer, OraclePlayer, RandomPlayer
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.data.pairs import BadImageError
from vision_zero.evaluate.win_rate.arena import Arena, Matchup, make_arena
from vision_zero.evaluate.win_rate.match import CachedPolicy
from vision_zero.evaluate.win_rate.metrics import (
    CROSS_PLAY,
    FROZEN,
    ITSELF,
    NEW_SPY,
    NEW_TABLE,
    WIN_RATE,
    WITH_ANOTHER_SEED,
    Figures,
    win_rate_figures,
)
from vision_zero.rollout.policy import Policy, QueuedPolicy, TokenLimits, TurnRequest
from vision_zero.types import Completion, GameRules, ImagePair, Vote

TOKEN_LIMITS: Any = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}
N = 60

Voter = Callable[[TurnRequest, random.Random], Vote]


def arena_of(n_deals: int = N, pairs: Sequence[ImagePair] | None = None, **options: Any) -> Arena:
    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=options.pop("n_votes", 1))
    return make_arena(noise_pairs(7) if pairs is None else pairs, rules, TOKEN_LIMITS, n_deals=n_deals, **options)


def figures_of(arena: Arena, matchups: Sequence[Matchup], **players: Policy) -> Figures:
    return win_rate_figures(arena.play(matchups, players))


def player(vote: Voter, clue: str = "something") -> FunctionPlayer:
    return FunctionPlayer(lambda request, rng: clue, vote)


def first_seat(request: TurnRequest, rng: random.Random) -> Vote:
    return 1


def the_spy(request: TurnRequest, rng: random.Random) -> Vote:
    return request.game.spy


def not_the_spy(request: TurnRequest, rng: random.Random) -> Vote:
    return request.game.spy % 3 + 1


def right_with(probability: float) -> Voter:
    """Right with this probability; players with two probabilities draw the same number in the same turn."""
    return lambda request, rng: request.game.spy if rng.random() < probability else None


class Listening:
    """Keeps every request that is asked of a player."""

    def __init__(self, inner: Policy) -> None:
        self.inner, self.asked = inner, list[TurnRequest]()

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        self.asked += requests
        return self.inner.answer(requests)


def spies_in_first_seat(arena: Arena) -> float:
    return sum(deal.spy == 1 for deal in arena.deals) / len(arena.deals)


def test_against_itself_the_win_rate_is_one_half_exactly_and_every_gain_nothing() -> None:
    noisy = NoisyPlayer(OraclePlayer(), 0.5)
    figures = figures_of(arena_of(pairs=drawn_pairs(range(9))), WITH_ANOTHER_SEED, new=noisy, start=noisy, other=noisy)
    assert 0 < figures["as_table"].value < 1
    win_rate = figures["win_rate"]
    # Nine pairs were alike, so at most 1 - 0.025^(1/9) = 0.3363 of all pairs are not.
    assert (win_rate.value, win_rate.low) == (0.5, pytest.approx(0.5 - 0.3363 / 2, abs=1e-4))
    for name in figures:
        if name.endswith("gain") or name == "together":
            most = 0.3363 * (2 if name == "together" else 1)
            found = (figures[name].value, figures[name].low, figures[name].high)
            assert found == (0, pytest.approx(-most, abs=1e-4), pytest.approx(most, abs=1e-4)), name


def test_a_table_that_always_finds_the_spy() -> None:
    """The frozen table finds it when it sits in seat 1, whoever it is, so the new spy gains nothing."""
    arena = arena_of()
    found = spies_in_first_seat(arena)
    assert 0 < found < 1
    figures = figures_of(arena, WIN_RATE, new=player(the_spy), start=player(first_seat))
    assert figures["as_table"].value == 1
    assert figures["as_spy"].value == pytest.approx(1 - found)
    assert figures["win_rate"].value == pytest.approx((2 - found) / 2)
    assert figures["start_as_table"].value == pytest.approx(found)
    assert figures["table_gain"].value == pytest.approx(1 - found)
    assert figures["spy_gain"].value == 0


def test_a_spy_that_is_never_found_when_it_hides() -> None:
    def unless_hidden(request: TurnRequest, rng: random.Random) -> Vote:
        return None if any(clue.text == "hide" for clue in request.game.clues) else request.game.spy

    class Hiding(FunctionPlayer):
        """Says `hide` as the spy alone."""

    hiding = Hiding(
        lambda request, rng: "hide" if request.turn.seat == request.game.spy else "something", unless_hidden
    )
    figures = figures_of(arena_of(), CROSS_PLAY, new=hiding, start=player(unless_hidden))
    assert figures["start_as_table"].value == 1
    assert figures["as_spy"].value == 1
    assert figures["spy_gain"].value == 1
    assert figures["table_gain"].value == 0
    assert figures["win_rate"].value == 1
    assert figures["against_itself"].value == 0


def test_a_private_code_shows_in_together_and_in_no_role_alone() -> None:
    def decode(request: TurnRequest, rng: random.Random) -> Vote:
        silent = [clue.turn.seat for clue in request.game.clues if clue.text != "code"]
        return silent[0] if len(silent) == 1 else 1

    arena = arena_of()
    found = spies_in_first_seat(arena)
    plain = player(first_seat)
    figures = figures_of(arena, WITH_ANOTHER_SEED, new=player(decode, "code"), start=plain, other=player(first_seat))
    assert figures["table_gain"].value == pytest.approx(1 - found)
    assert figures["civilians_gain"].value == 0
    assert figures["voters_gain"].value == 0
    assert figures["together"].value == pytest.approx(1 - found)
    assert figures["together"].low > 0
    assert figures["other_voters_gain"].value == 0
    assert figures["other_civilians_gain"].value == 0


def test_known_probabilities_are_found_and_their_difference_is_paired() -> None:
    """New voters are right in every turn in which the old ones are, and in one of four more: gain 0.25."""
    arena = arena_of(600, noise_pairs(600))
    figures = figures_of(arena, WIN_RATE, new=player(right_with(0.75)), start=player(right_with(0.5)))
    # Standard errors of 600 games: 0.0177 for shares of 1/4 and 3/4, 0.0204 for one half; four of them are allowed.
    assert figures["as_table"].value == pytest.approx(0.75, abs=4 * 0.0177)
    assert figures["start_as_table"].value == pytest.approx(0.5, abs=4 * 0.0204)
    assert figures["table_gain"].value == pytest.approx(0.25, abs=4 * 0.0177)
    assert figures["table_gain"].value == pytest.approx(figures["as_table"].value - figures["start_as_table"].value)
    # Unpaired, the difference of two shares of 600 would have a width of about 0.11; paired it has 0.07.
    assert figures["table_gain"].high - figures["table_gain"].low < 0.08
    assert figures["win_rate"].value == pytest.approx((0.75 + 0.5) / 2, abs=4 * 0.0177)


def test_an_oracle_beats_a_guesser_in_both_roles() -> None:
    pairs = drawn_pairs(range(50))
    figures = figures_of(arena_of(100, pairs, n_votes=4), CROSS_PLAY, new=OraclePlayer(), start=RandomPlayer())
    assert figures["win_rate"].low > 0.55
    assert figures["table_gain"].low > 0.2
    assert figures["grounding/civilian/true"].value == 1


def test_all_matchups_play_the_same_deals_at_the_same_seeds() -> None:
    arena = arena_of(20)
    asked = {}
    for matchup in WIN_RATE:
        ear = Listening(player(first_seat))
        arena.play([matchup], {"new": ear, "start": ear})
        asked[matchup] = {(r.game.index, r.game.spy, r.image.key, r.turn, r.seed, r.prompt.text) for r in ear.asked}
    assert len(asked[FROZEN]) == 20 * 4
    assert asked[FROZEN] == asked[NEW_TABLE] == asked[NEW_SPY]


def test_who_plays_what() -> None:
    arena = arena_of(12)
    ears = {name: Listening(player(first_seat)) for name in ("new", "start")}
    arena.play([NEW_TABLE], ears)
    by_spy = {(r.turn.game, r.turn.seat) for r in ears["start"].asked}
    assert by_spy == {(deal.index, deal.spy) for deal in arena.deals}
    assert {r.turn.stage for r in ears["start"].asked} == {"clue"}
    assert len(ears["new"].asked) == 12 * 3  # two civilians and a vote in each


def test_image_gain_is_what_the_image_adds_to_the_same_clues() -> None:
    def sees(request: TurnRequest, rng: random.Random) -> Vote:
        return request.game.spy if request.image.key == f"{request.game.pair.id}/original" else None

    for vote, right, image_swapped in ((sees, 1, 0), (the_spy, 1, 1), (not_the_spy, 0, 0)):
        ear = Listening(player(vote))
        results = arena_of(20).play(
            [FROZEN, NEW_TABLE, NEW_SPY, ITSELF], {"new": ear, "start": ear}, image_swapped=[ITSELF]
        )
        figures = win_rate_figures(results)
        assert figures["votes/right"].value == right
        assert figures["votes/right_image_swapped"].value == image_swapped
        assert figures["image_gain"].value == right - image_swapped
        swapped = [r for r in ear.asked if r.image.key != f"{r.game.pair.id}/original" and r.turn.stage == "decision"]
        assert len(swapped) == 20
        with_true_image = [r for r in ear.asked if r.turn.stage == "decision" and r not in swapped]
        assert {(r.turn, r.seed, r.prompt.text) for r in swapped} == {
            (r.turn, r.seed, r.prompt.text) for r in with_true_image
        }


def test_swapped_images_are_of_other_pairs_and_two_pairs_are_needed() -> None:
    arena = arena_of(30)
    assert all(deal.pair.id != other.pair.id for deal, other in zip(arena.deals, arena.swapped_images, strict=True))
    with pytest.raises(ValueError, match="at least two pairs"):
        arena_of(4, noise_pairs(1))


def test_chunks_and_parts_change_nothing() -> None:
    pairs = drawn_pairs(range(6))
    noisy, plain = NoisyPlayer(OraclePlayer(), 0.5), RandomPlayer()
    whole = arena_of(20, pairs).play(CROSS_PLAY, {"new": noisy, "start": plain}, image_swapped=[ITSELF])
    chunked = arena_of(20, pairs, games_at_once=3).play(
        CROSS_PLAY, {"new": noisy, "start": plain}, image_swapped=[ITSELF]
    )
    assert chunked == whole
    halves = [
        arena_of(20, pairs).play(CROSS_PLAY, {"new": noisy, "start": plain}, image_swapped=[ITSELF], part=(k, 2))
        for k in (0, 1)
    ]
    for matchup, outcomes in whole.items():
        assert outcomes[0::2] == halves[0][matchup]
        assert outcomes[1::2] == halves[1][matchup]


def test_all_matchups_are_played_in_the_calls_of_one() -> None:
    calls = {"new": 0, "start": 0}

    class Counted(RandomPlayer):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
            calls[self.name] += 1
            return super().answer(requests)

    arena = arena_of(20)
    rules = arena.deals[0].rules
    results = arena.play(CROSS_PLAY, {name: Counted(name) for name in calls}, image_swapped=[FROZEN, ITSELF])
    assert [len(outcomes) for outcomes in results.values()] == [20] * len(CROSS_PLAY)
    of_games = rules.n_players * rules.n_rounds + 1
    assert calls == dict.fromkeys(calls, of_games + 1)  # and once more with other images


def test_a_queue_refuses_two_tables_of_one_deal() -> None:
    class Queue(QueuedPolicy):
        def submit(self, request: TurnRequest) -> None: ...

        def poll(self) -> list[tuple[TurnRequest, Completion]]:
            return []

    with pytest.raises(ValueError, match="Queue cannot tell apart two tables of one deal"):
        arena_of(4).play(WIN_RATE, dict.fromkeys(("new", "start"), Queue()))


def test_a_cached_policy_answers_alike_and_is_asked_less() -> None:
    pairs = drawn_pairs(range(6))
    inner = {"new": NoisyPlayer(OraclePlayer(), 0.5), "start": RandomPlayer()}
    ears = {name: Listening(one) for name, one in inner.items()}
    cached = {name: CachedPolicy(ear) for name, ear in ears.items()}
    arena = arena_of(10, pairs)
    assert arena.play(CROSS_PLAY, cached) == arena.play(CROSS_PLAY, inner)
    n_asked = len(ears["start"].asked)
    arena.play(CROSS_PLAY, cached)
    assert len(ears["start"].asked) == n_asked
    handed_on = Listening(inner["start"])
    arena.play([FROZEN], {"start": CachedPolicy(handed_on, cached["start"].cache)})
    assert not handed_on.asked


def test_broken_images_stop_the_arena_or_are_passed_over() -> None:
    class Broken(NoiseImage):
        def open(self) -> Any:
            raise BadImageError(f"{self.name}: broken")

    pairs = [*noise_pairs(3), ImagePair("broken", Broken("broken.png"))]
    with pytest.raises(BadImageError, match=r"broken\.png"):
        arena_of(4, pairs)
    assert "broken" not in {deal.pair.id for deal in arena_of(4, pairs, skip_bad=True).deals}


def test_a_missing_player_and_matchups_of_different_deals_are_refused() -> None:
    arena = arena_of(4)
    with pytest.raises(ValueError, match="nobody is called new"):
        arena.play(WIN_RATE, {"start": RandomPlayer()})
    results = arena.play(WIN_RATE, dict.fromkeys(("new", "start"), RandomPlayer()))
    with pytest.raises(ValueError, match="different deals"):
        win_rate_figures({**results, NEW_SPY: results[NEW_SPY][1:]})
