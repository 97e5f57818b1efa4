"""A control run through the real command: it says what it is, the same on two processes and after a resume."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import pytest

from tests.process_helpers import assert_same_run, flags, games, metrics, train, train_well
from vision_zero.config.parse import parse

SHUFFLED = {"reward_control": "shuffled", "iterations": 2, "save_steps": 1}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("control") / "run"
    finished = train_well(run, **SHUFFLED)
    assert "reward_control=shuffled: a control run, its rewards carry no meaning\n" in finished.output
    return run


def rewards(run: Path) -> list[list[float]]:
    return [
        [*game["clue_rewards"], *(vote["reward"] for vote in game["votes"])]
        for file in games(run).values()
        for game in file
    ]


def true_vote_rewards(run: Path) -> list[list[float]]:
    return [
        [1.0 if vote["vote"] == game["spy"] else -0.5 if vote["vote"] is None else -1.0 for vote in game["votes"]]
        for game in next(iter(games(run).values()))
    ]


def test_records_and_metrics_have_the_rewards_that_were_trained_on(control: Path) -> None:
    first = next(iter(games(control).values()))
    recorded, true = [[vote["reward"] for vote in game["votes"]] for game in first], true_vote_rewards(control)
    assert recorded != true
    assert sorted(chain(*recorded)) == sorted(chain(*true))
    line = metrics(control)[0]
    assert line["reward/vote"] == pytest.approx(sum(map(sum, recorded)) / sum(map(len, recorded)))
    assert line["votes/right"] == pytest.approx(sum(reward == 1 for game in true for reward in game) / 16)


def test_two_processes_shuffle_alike(control: Path, tmp_path: Path) -> None:
    train_well(tmp_path / "two", processes=2, **{**SHUFFLED, "iterations": 1})
    assert rewards(tmp_path / "two") == rewards(control)[:4]


def test_a_resumed_control_is_the_same_run_and_stays_one(control: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(control, again)
    finished = train_well(again, **SHUFFLED, resume_from=1)
    assert "a control run" in finished.output
    assert_same_run(again, control, last=2)
    assert parse(["--output_dir", str(again), "--resume"])[1].reward_control == "shuffled"
    refused = train(again, **{**SHUFFLED, "reward_control": "random"}, resume=True)
    assert refused.status != 0
    assert "was started with reward_control=shuffled and cannot go on with reward_control=random" in refused.output


def test_a_format_reward_would_bring_meaning_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format_weight=0\.5 has a meaning, and reward_control=random leaves none"):
        parse(flags(output_dir=tmp_path / "run", reward_control="random", format_weight=0.5))
