"""Many games in lock-step and on a queue: number of calls, policy of each turn, and independence of games."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_games import noise_pairs, tiny_games
from tiny_vlm.scripted import FunctionPlayer, RandomPlayer
from vision_zero.game.spy_game import clue_turns, open_turns, turn_seed, vote_turns, votes_in_order
from vision_zero.rollout.game_images import open_images
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import QueuedPolicy, TokenLimits, TurnRequest
from vision_zero.spo.rewards import clue_rewards
from vision_zero.types import Completion, Game, Role, Turn

TOKEN_LIMITS = {"clue": TokenLimits(1, 5), "decision": TokenLimits(2, 7)}


class Recorder:
    """Passes requests on to a player that draws words, and keeps them by call."""

    def __init__(self, name: str = "") -> None:
        self.calls: list[Sequence[TurnRequest]] = []
        self.player = RandomPlayer(words=(f"{name}one", f"{name}two", f"{name}three"))

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        self.calls.append(list(requests))
        return self.player.answer(requests)

    @property
    def requests(self) -> list[TurnRequest]:
        return [request for call in self.calls for request in call]


def untimed(games: Sequence[Game]) -> list[Game]:
    def still(said):
        return replace(said, completion=replace(said.completion, seconds=0.0))

    return [replace(g, clues=tuple(map(still, g.clues)), votes=tuple(map(still, g.votes))) for g in games]


@pytest.mark.parametrize("n_games", [1, 2, 7])
@pytest.mark.parametrize(("n_civilians", "n_rounds", "voter"), [(2, 1, "observer"), (3, 2, "civilian")])
def test_calls_are_players_times_rounds_plus_one(n_games: int, n_civilians: int, n_rounds: int, voter: str) -> None:
    recorder = Recorder()
    told: list[int] = []
    games = tiny_games(n_games, n_civilians=n_civilians, n_rounds=n_rounds, n_votes=6, voter=voter)
    rollout = play(games, Seating.of(recorder), TOKEN_LIMITS, template="compact", on_call=told.append)
    n_clue_calls = (n_civilians + 1) * n_rounds
    assert rollout.calls == len(recorder.calls) == n_clue_calls + 1
    assert told == [len(call) for call in recorder.calls] == [n_games] * n_clue_calls + [6 * n_games]
    assert not any(open_turns(game) for game in rollout.games)
    assert [game.index for game in rollout.games] == [game.index for game in games]


def test_every_turn_is_asked_once_with_its_image_seed_and_limits() -> None:
    recorder = Recorder()
    games = tiny_games(3, n_rounds=2)
    rollout = play(games, Seating.of(recorder), TOKEN_LIMITS, template="compact")
    asked = [request.turn for request in recorder.requests]
    assert Counter(asked) == Counter(turn for game in games for turn in (*clue_turns(game), *vote_turns(game)))
    for request in recorder.requests:
        game, turn = request.game, request.turn
        is_spys = turn.stage == "clue" and turn.seat == game.spy
        assert request.image.key == f"{game.pair.id}/{'edited' if is_spys else 'original'}"
        assert request.image is rollout.images[game.index, request.prompt.view]
        assert request.seed == turn_seed(game.seed, turn)
        assert request.token_limits == TOKEN_LIMITS[turn.stage]
        # A prompt is asked for when all that was said before it is known, and nothing later.
        n_said = len(game.clues)
        assert turn.stage == "decision" or clue_turns(game)[n_said] == turn


def test_each_role_is_played_by_its_own_policy() -> None:
    civilian, spy, voter = Recorder("civilian-"), Recorder("spy-"), Recorder("voter-")
    games = tiny_games(6, n_rounds=2)
    rollout = play(games, Seating(civilian=civilian, spy=spy, voter=voter), TOKEN_LIMITS, template="compact")
    for game in rollout.games:
        for clue in game.clues:
            assert clue.text.startswith("spy-" if game.role(clue.turn.seat) is Role.SPY else "civilian-")
    assert {request.turn.stage for request in voter.requests} == {"decision"}
    assert len(voter.calls) == 1
    assert len(spy.requests) == 6 * 2
    assert len(civilian.requests) == 6 * 2 * 2
    assert rollout.calls == len(spy.calls) + len(civilian.calls) + 1


@pytest.mark.parametrize("spy_view", ["edited", "blank", "masked"])
def test_a_game_is_the_same_in_any_batch(spy_view: str) -> None:
    pairs = noise_pairs(3)
    games = tiny_games(6, seed=5, pairs=pairs, n_rounds=2, spy_view=spy_view)
    together = untimed(play(games, Seating.of(Recorder()), TOKEN_LIMITS).games)
    alone = [untimed(play([game], Seating.of(Recorder()), TOKEN_LIMITS).games)[0] for game in games]
    halves = [
        g
        for half in (games[3:][::-1], games[:3])
        for g in untimed(play(half, Seating.of(Recorder()), TOKEN_LIMITS).games)
    ]
    assert together == alone
    assert sorted(halves, key=lambda game: game.index) == together
    assert len({str(game.clues[0].text) + str(game.votes) for game in together}) > 1


def test_completions_carry_their_share_of_the_calls_time() -> None:
    rollout = play(tiny_games(2), Seating.of(Recorder()), TOKEN_LIMITS)
    seconds = [said.completion.seconds for game in rollout.games for said in (*game.clues, *game.votes)]
    assert all(second > 0 for second in seconds)
    assert sum(seconds) <= rollout.seconds


def test_games_with_a_past_player_seat_it_and_wait_for_it() -> None:
    """Its role alone, in its games alone; as it has no queue, all games are then played in lock-step."""
    past, own = Recorder("past"), Recorder()
    usual = Seating.of(own)
    seating = replace(usual, past=replace(usual, voter=past), past_games=frozenset({1, 2}))
    games = play(tiny_games(4), seating, TOKEN_LIMITS).games
    assert {request.turn.game for request in past.requests} == {1, 2}
    assert {request.turn.stage for request in past.requests} == {"decision"}
    assert len(past.requests) + len(own.requests) == sum(len(game.clues) + len(game.votes) for game in games)
    queue = Seating.of(Queue(0))
    assert queue.queues() == [queue.voter]
    assert replace(queue, past=replace(queue, voter=past), past_games=frozenset({1})).queues() is None
    assert replace(queue, past=replace(queue, voter=past)).queues() == [queue.voter]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_policy_that_answers_another_number_of_turns_is_refused(change: int) -> None:
    class Miscounting(Recorder):
        def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
            return ([*super().answer(requests), Completion("more")])[: len(requests) + change]

    with pytest.raises(RuntimeError, match=f"Miscounting answered {2 + change} of 2 turns"):
        play(tiny_games(2), Seating.of(Miscounting()), TOKEN_LIMITS)


def test_two_games_of_one_index_are_refused() -> None:
    games = tiny_games(2)
    with pytest.raises(ValueError, match="same index"):
        play([*games, games[0]], Seating.of(Recorder()), TOKEN_LIMITS)


def test_no_games_make_no_calls() -> None:
    assert play([], Seating.of(Recorder()), TOKEN_LIMITS).calls == 0


def test_images_that_are_open_are_not_opened_again() -> None:
    games = tiny_games(2)
    images = open_images(games)
    rollout = play(games, Seating.of(Recorder()), TOKEN_LIMITS, images=images)
    assert rollout.images is images
    assert {source.opened for game in games for source in (game.pair.image, game.pair.edited)} == {1}


def test_rewards_of_played_games_are_zero_sum() -> None:
    def vote(request: TurnRequest, rng: random.Random) -> int | None:
        return rng.choice([None, 0, *range(1, request.game.rules.n_players + 1)])

    voter = FunctionPlayer(vote=vote)
    for n_civilians in (2, 5):
        games = tiny_games(20, n_civilians=n_civilians, n_votes=8)
        for game in play(games, Seating(civilian=Recorder(), spy=Recorder(), voter=voter), TOKEN_LIMITS).games:
            rewards = clue_rewards(votes_in_order(game), game.spy, game.rules.n_players, 0.1, 0.1)
            assert sum(rewards) == pytest.approx(0, abs=1e-12)
            assert any(rewards) or len(set(votes_in_order(game))) > 1


class Queue(QueuedPolicy):
    """A random player that answers what waits in any order, a few at a time."""

    def __init__(self, seed: int) -> None:
        self.player = RandomPlayer(words=("one", "two", "three"))
        self.waiting: list[TurnRequest] = []
        self.most_waiting = 0
        self.random = random.Random(seed)

    def submit(self, request: TurnRequest) -> None:
        self.waiting.append(request)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        self.random.shuffle(self.waiting)
        done, self.waiting = self.waiting[:3], self.waiting[3:]
        return list(zip(done, self.player.answer(done), strict=True))


@given(
    seed=st.integers(0, 1000),
    n_games=st.integers(1, 6),
    n_civilians=st.sampled_from([2, 3]),
    n_rounds=st.integers(1, 3),
    voter=st.sampled_from(["observer", "civilian"]),
)
@settings(max_examples=25, deadline=None)
def test_games_on_a_queue_are_those_of_lock_step(
    seed: int, n_games: int, n_civilians: int, n_rounds: int, voter: str
) -> None:
    """In any order of answers: nothing a player sees depends on another game."""
    games = tiny_games(n_games, n_civilians=n_civilians, n_rounds=n_rounds, n_votes=6, voter=voter)
    queue = Queue(seed)
    told: list[int] = []
    continuous = play(games, Seating.of(queue), TOKEN_LIMITS, template="compact", on_call=told.append)
    lock_step = play(games, Seating.of(RandomPlayer(words=("one", "two", "three"))), TOKEN_LIMITS, template="compact")
    assert untimed(continuous.games) == untimed(lock_step.games)
    assert sum(told) == n_games * ((n_civilians + 1) * n_rounds + 6)
    assert continuous.calls == len(told)
    assert not queue.waiting


def test_a_queue_can_be_asked_in_lock_step() -> None:
    games = tiny_games(5)
    queue = Queue(0)
    rollout = play(games, Seating.of(queue), TOKEN_LIMITS, template="compact", lock_step=True)
    assert rollout.calls == 4, "3 players, 1 round, votes"
    assert untimed(rollout.games) == untimed(play(games, Seating.of(Queue(1)), TOKEN_LIMITS, template="compact").games)


def test_a_table_with_and_without_queues_is_played_in_lock_step() -> None:
    games = tiny_games(5)
    recorder, queue = Recorder(), Queue(0)
    rollout = play(games, Seating(civilian=queue, spy=queue, voter=recorder), TOKEN_LIMITS, template="compact")
    assert [len(call) for call in recorder.calls] == [10], "all votes at once"
    assert not any(open_turns(game) for game in rollout.games)


def test_two_queues_share_a_game() -> None:
    games = tiny_games(4, n_rounds=2)
    civilians, others = Queue(0), Queue(1)
    rollout = play(games, Seating(civilian=civilians, spy=others, voter=others), TOKEN_LIMITS, template="compact")
    assert untimed(rollout.games) == untimed(play(games, Seating.of(Queue(2)), TOKEN_LIMITS, template="compact").games)


def test_votes_start_while_other_games_still_speak() -> None:
    """The first turn answered is always the first game's, so it is over before the second has spoken twice."""

    class FirstFirst(Queue):
        def poll(self) -> list[tuple[TurnRequest, Completion]]:
            self.waiting.sort(key=lambda request: (request.turn.game, request.turn.sample))
            done, self.waiting = self.waiting[:1], self.waiting[1:]
            order.append(done[0].turn)
            return list(zip(done, self.player.answer(done), strict=True))

    order: list[Turn] = []
    play(tiny_games(2), Seating.of(FirstFirst(0)), TOKEN_LIMITS, template="compact")
    assert [turn.game for turn in order] == [0] * 5 + [1] * 5


def test_a_queue_that_loses_turns_is_found_out() -> None:
    class Losing(Queue):
        def poll(self) -> list[tuple[TurnRequest, Completion]]:
            return []

    for lock_step in (False, True):
        with pytest.raises(RuntimeError, match=r"never answered|answered 0 of 2 turns"):
            play(tiny_games(2), Seating.of(Losing(0)), TOKEN_LIMITS, template="compact", lock_step=lock_step)
