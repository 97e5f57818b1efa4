"""A recorded game holds what was played, can be written as JSON, and its prompts are those that were asked."""

import json
from collections.abc import Sequence

import pytest

from tests.tiny_games import tiny_games
from vision_zero.game.spy_game import NEUTRAL_CLUE, answer, open_turns, votes_in_order
from vision_zero.rollout.play import Table, play
from vision_zero.rollout.policy import TokenLimits, TurnRequest
from vision_zero.rollout.record import game_record
from vision_zero.types import Game, Reply, Turn

LIMITS = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}


class Talker:
    """Answers with invented tokens and log-probabilities; its first seat cannot be understood."""

    def __init__(self) -> None:
        self.asked: dict[Turn, str] = {}

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        return [self.answer_one(request) for request in requests]

    def answer_one(self, request: TurnRequest) -> Reply:
        turn = request.turn
        assert turn not in self.asked
        self.asked[turn] = request.prompt.text
        vote = "N/A" if turn.sample == 0 else str(turn.sample)
        text = f"I think {turn.seat} \\boxed{{{vote if turn.stage == 'decision' else f'“clue” {turn.seat} é'}}}"
        if turn.stage == "clue" and turn.seat == 1:
            text = "mumble"
        number = 100 * turn.round + 10 * turn.seat + turn.sample
        return Reply(text, (1, 2), (number, 2), (-0.25, -1e-7 * number))


def record_of(game: Game, template: str = "photos", **changed) -> dict:
    n_players, n_votes = game.rules.n_players, game.rules.n_votes
    values = {
        "step": 7,
        "stage": "clue",
        "clue_rewards": [0.1 * seat for seat in range(n_players)],
        "clue_advantages": [0.01 * seat for seat in range(n_players)],
        "vote_rewards": [float(i) for i in range(n_votes)],
    }
    return game_record(game, template=template, **{**values, **changed})


@pytest.mark.parametrize("voter", ["observer", "civilian"])
@pytest.mark.parametrize("template", ["auto", "compact"])
def test_prompts_are_those_that_were_asked(voter: str, template: str) -> None:
    talker = Talker()
    games = play(tiny_games(3, n_rounds=2, n_votes=4, voter=voter), Table.of(talker), LIMITS, template=template).games
    recorded = {}
    for game in games:
        record = record_of(game, template)
        for stage, said in (("clue", record["clues"]), ("decision", record["votes"])):
            for one in said:
                assert one["stage"] == stage
                recorded[Turn(game.index, stage, one["round"], one["seat"], one["sample"])] = one["prompt"]
    assert recorded == talker.asked


def test_a_record_holds_the_whole_game_and_survives_json() -> None:
    (game,) = play(tiny_games(1, n_votes=3), Table.of(Talker()), LIMITS).games
    record = record_of(game)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert "\n" not in json.dumps(record)
    assert [clue["clue"] for clue in record["clues"]] == [NEUTRAL_CLUE, "“clue” 2 é", "“clue” 3 é"]
    assert [clue["readable"] for clue in record["clues"]] == [False, True, True]
    assert [clue["reply"] for clue in record["clues"]][:1] == ["mumble"]
    assert [clue["token_ids"] for clue in record["clues"]] == [[110, 2], [120, 2], [130, 2]]
    assert record["clues"][2]["logprobs"] == [-0.25, -1e-7 * 130]
    assert [vote["vote"] for vote in record["votes"]] == record["outcome"] == [None, 1, 2]
    assert [vote["token_ids"][0] for vote in record["votes"]] == [0, 1, 2]
    assert [vote["reward"] for vote in record["votes"]] == [0.0, 1.0, 2.0]
    assert record["clue_rewards"] == [0.0, 0.1, 0.2]
    assert record["clue_advantages"] == [0.0, 0.01, 0.02]
    assert (record["step"], record["stage"], record["game"], record["seed"]) == (7, "clue", 0, 0)
    assert (record["pair"], record["image"], record["edited"]) == ("p0", "p0.png", "p0_edited.png")
    assert (record["spy"], record["spy_view"], record["domain"]) == (game.spy, "edited", "photos")
    assert record["rules"]["n_civilians"] == 2
    assert all(said["seconds"] > 0 for said in (*record["clues"], *record["votes"]))


def test_a_votes_reward_stands_beside_it_in_whatever_order_votes_were_cast() -> None:
    (game,) = tiny_games(1, n_votes=3)
    while turns := open_turns(game):
        turn = turns[-1]
        game = answer(game, turn, Reply(f"\\boxed{{{turn.sample + 1 if turn.stage == 'decision' else 'x'}}}"))
    record = record_of(game, vote_rewards=[10.0, 20.0, 30.0])  # in `vote_turns` order
    assert {vote["vote"]: vote["reward"] for vote in record["votes"]} == {1: 10.0, 2: 20.0, 3: 30.0}
    assert record["outcome"] == votes_in_order(game) == [1, 2, 3]


def test_a_game_that_is_not_over_or_has_other_rewards_is_refused() -> None:
    (game,) = tiny_games(1)
    with pytest.raises(ValueError, match="votes are missing"):
        record_of(game, vote_rewards=[])
    (over,) = play(tiny_games(1), Table.of(Talker()), LIMITS).games
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        record_of(over, vote_rewards=[1.0])
