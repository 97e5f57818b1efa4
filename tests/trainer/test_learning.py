"""Does it learn? Through the real trainer, from the tiny model, against players whose rule is known.

Signs and plumbing, not skill: a colour that only the spy names is found by the votes, a word that is suspected goes out
of use, and the schedule moves by its rule. The shuffled control shows that the first is learnt from the rewards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.trainer_helpers import make_trainer
from tiny_vlm.scripted import FunctionPlayer
from vision_zero import run_folder
from vision_zero.data.drawn_scenes import drawn_pair
from vision_zero.evaluate.clues.grounding import COLOURS, SHAPES
from vision_zero.models import load_processor
from vision_zero.rollout.play import Seating
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer, Players
from vision_zero.trainer.samples import TrainingSample
from vision_zero.types import Game, GameRules, Role, Stage, Vote

TINY = Path(__file__).resolve().parents[2] / "data" / "tiny_vlm"
TELL, WORD = "purple", "cube"
OTHER_COLOURS = tuple(colour for colour in COLOURS if colour != TELL)


def clue_with_a_tell(request: TurnRequest, rng: random.Random) -> str:
    """The spy names the one colour that nobody else names; whether anything of that is there is left to chance."""
    is_spy = request.game.role(request.turn.seat) is Role.SPY
    return f"{TELL if is_spy else rng.choice(OTHER_COLOURS)} {rng.choice(SHAPES)}"


def clue_without_a_tell(request: TurnRequest, rng: random.Random) -> str:
    return f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"


def holders(game: Game, word: str) -> list[int]:
    return sorted({clue.turn.seat for clue in game.clues if word in clue.text.split()})


def suspects(word: str) -> Callable[[TurnRequest, random.Random], Vote]:
    """A voter that votes for one of those who said `word`, N/A if nobody did."""
    return lambda request, rng: rng.choice(holders(request.game, word) or [None])


def trusts(word: str) -> Callable[[TurnRequest, random.Random], Vote]:
    """A voter that votes for one of those who did not say `word`."""

    def vote(request: TurnRequest, rng: random.Random) -> Vote:
        seats = range(1, request.game.rules.n_players + 1)
        return rng.choice([seat for seat in seats if seat not in holders(request.game, word)] or [None])

    return vote


def voter_trains(clue: Callable[[TurnRequest, random.Random], str] = clue_with_a_tell) -> Players:
    speaker = FunctionPlayer(clue=clue)
    return lambda policy, stage: Seating(civilian=speaker, spy=speaker, voter=policy)


def speakers_train(vote: Callable[[TurnRequest, random.Random], Vote]) -> Players:
    return lambda policy, stage: Seating(civilian=policy, spy=policy, voter=FunctionPlayer(vote=vote))


class Watch(TrainerCallback):
    """Keeps what was logged at every step."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.logs.append(dict(logs))

    def mean(self, name: str, steps: slice) -> float:
        return fmean(log[name] for log in self.logs[steps])


def learn(tmp_path: Path, players: Players, watch: Watch, **config: Any) -> None:
    options = {
        "games": 8,
        "rules": GameRules(n_civilians=3, n_rounds=1, n_votes=8),
        "num_generations": 8,
        "per_device_train_batch_size": 64,
        "max_clue_tokens": 16,
        "max_vote_tokens": 12,
        "max_grad_norm": 1.0,
        "learning_rate": 3e-4,
        "beta": 0.0,
        "logging_steps": 1,
        **config,
    }
    make_trainer(
        tmp_path,
        model=TINY,
        processor=load_processor(str(TINY)),
        pairs=[drawn_pair(seed) for seed in range(64)],
        players=players,
        callbacks=[watch],
        **options,
    ).train()


class ShuffledRewards(IterativeSPOTrainer):
    """The same games and completions, but every completion gets the reward of another one."""

    def _replay(self, rows: list[TrainingSample], stage: Stage) -> dict[str, Any]:
        rewards = [row.reward for row in rows]
        random.Random(self.state.global_step).shuffle(rewards)
        return super()._replay([replace(row, reward=reward) for row, reward in zip(rows, rewards, strict=True)], stage)


def votes_learn(tmp_path: Path, players: Players | None = None, **config: Any) -> Watch:
    """The decision stage alone. N/A earns no more than a wrong vote, lest a voter at chance flee into it."""
    watch = Watch()
    options = {"schedule": "decision", "iterations": 13, "learning_rate": 2e-4, "na_reward": -1.0}
    learn(tmp_path, players or voter_trains(), watch, **{**options, **config})
    return watch


def test_votes_learn_the_spys_tell(tmp_path: Path) -> None:
    """Chance is 1 in 4."""
    watch = votes_learn(tmp_path)
    assert watch.mean("votes/right", slice(0, 5)) < 0.4
    assert watch.mean("votes/right", slice(-5, None)) >= 0.8


def test_votes_learn_nothing_from_shuffled_rewards(tmp_path: Path) -> None:
    watch = votes_learn(tmp_path, trainer_class=ShuffledRewards)
    assert watch.mean("votes/right", slice(-10, None)) < 0.45


def test_a_voter_at_chance_flees_into_abstaining_at_the_papers_reward(tmp_path: Path) -> None:
    """At 1 in 5, a vote earns -0.6 in the mean, less than N/A: the log shows the collapse."""
    rules = GameRules(n_civilians=4, n_rounds=1, n_votes=8)
    players = voter_trains(clue_without_a_tell)
    watch = votes_learn(tmp_path, players, rules=rules, na_reward=-0.5, learning_rate=5e-4, iterations=9)
    assert watch.mean("stage/na_rate", slice(0, 2)) < 0.2
    assert watch.mean("stage/na_rate", slice(-3, None)) > 0.8


def word_rates(run: Path, steps: slice) -> dict[str, float]:
    """Share of clues that hold the word, per role, over some of the recorded iterations."""
    said: dict[str, list[bool]] = {"spy": [], "civilian": []}
    for path in sorted((run / run_folder.GAMES).glob("step-*.jsonl"))[steps]:
        for game in run_folder.read_json_lines(path):
            for clue in game["clues"]:
                role = "spy" if clue["seat"] == game["spy"] else "civilian"
                said[role].append(WORD in clue["clue"].split())
    return {role: fmean(values) for role, values in said.items()}


CLUE_RUN = {"schedule": "clue", "rules": GameRules(n_civilians=2, n_rounds=1, n_votes=8), "games": 16}
CLUE_RUN |= {"per_device_train_batch_size": 128, "rae_alpha": 0.8}


@pytest.mark.parametrize(("vote", "sign"), [(suspects(WORD), -1), (trusts(WORD), +1)], ids=["suspected", "trusted"])
def test_a_suspected_word_goes_out_of_use_and_a_trusted_one_spreads(
    tmp_path: Path, vote: Callable[[TurnRequest, random.Random], Vote], sign: int
) -> None:
    learn(tmp_path, speakers_train(vote), Watch(), iterations=8, **CLUE_RUN)
    before, after = word_rates(tmp_path, slice(0, 1)), word_rates(tmp_path, slice(-4, None))
    for role in ("spy", "civilian"):
        assert sign * (after[role] - before[role]) > 0.05, (role, before, after)


def test_the_schedule_switches_by_its_rule_and_says_why(tmp_path: Path) -> None:
    """Decision stages end when the tell is found; clue stages end because the scripted voter is mostly wrong."""

    def players(policy: Policy, stage: Stage) -> Seating:
        return voter_trains()(policy, stage) if stage == "decision" else speakers_train(suspects(WORD))(policy, stage)

    watch = Watch()
    rule = {"rho": 0.5, "acc_up": 0.75, "err_up": 0.4, "na_up": 0.5, "na_down": 0.2, "k_min": 3, "patience": 0}
    learn(tmp_path, players, watch, schedule="iterative", iterations=16, learning_rate=2e-4, na_reward=-1.0, **rule)
    switches = [json.loads(line) for line in (tmp_path / run_folder.SWITCHES).read_text().splitlines()]
    assert [switch["to_stage"] for switch in switches[:2]] == ["clue", "decision"]
    for switch in switches:
        assert switch["reason"] == "rule"
        assert switch["dwell"] >= rule["k_min"]
        if switch["to_stage"] == "clue":
            assert switch["accuracy_average"] >= rule["acc_up"]
            assert switch["na_average"] <= rule["na_down"]
        else:
            assert 1 - switch["accuracy_average"] >= rule["err_up"] or switch["na_average"] >= rule["na_up"]
    stages = [log["stage/is_clue"] for log in watch.logs]
    assert [log["stage/switched_by_rule"] for log in watch.logs].count(1.0) == len(switches)
    for switch in switches:
        if switch["iteration"] == len(stages):
            continue
        here = switch["iteration"] - 1
        assert stages[here] != stages[here + 1]
