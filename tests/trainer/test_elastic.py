"""A run that is resumed on another number of processes plays the games that it would have played."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.process_helpers import ROOT, flags, kill, running, train, train_well, wait_for
from tests.trainer.test_distributed import assert_same_games, assert_same_metrics
from tests.trainer_helpers import make_trainer

LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"]}
HALF: dict[str, Any] = {"per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run of one process with these options, made once."""
    runs: dict[bool, Path] = {}

    def make(**options: Any) -> Path:
        if bool(options) not in runs:
            run = runs[bool(options)] = tmp_path_factory.mktemp("unbroken") / "run"
            train_well(run, **HALF, **options)
        return runs[bool(options)]

    return make


@pytest.mark.parametrize(
    ("before", "after", "options"),
    [
        pytest.param(1, 2, {}, id="1 to 2"),
        pytest.param(2, 1, {}, id="2 to 1"),
        pytest.param(2, 1, LORA, id="2 to 1, LoRA", marks=pytest.mark.slow),
        pytest.param(1, 2, LORA, id="1 to 2, LoRA", marks=pytest.mark.slow),
        pytest.param(4, 2, {}, id="4 to 2", marks=pytest.mark.slow),
    ],
)
def test_games_and_losses_are_those_of_an_unbroken_run(
    before: int, after: int, options: dict[str, Any], unbroken: Callable[..., Path], tmp_path: Path
) -> None:
    """Losses and all other metrics to 1e-4, as between processes of one run: sums are added in another order."""
    run = tmp_path / "run"
    with running(*flags(output_dir=run, **HALF, **options), processes=before) as process:
        wait_for((run / "checkpoint-2" / "COMPLETE").exists, process)
        kill(process)
    assert not (run / "checkpoint-4").exists()
    resumed = train_well(run, processes=after, resume=True, **HALF, **options)
    assert f"resumed on {after} processes (was {before}): its games are the same" in resumed.output
    whole = unbroken(**options)
    assert_same_games(whole, run)
    assert_same_metrics(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_refused_with_the_way_out(stage: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    zero = {"deepspeed": ROOT / "configs" / "deepspeed" / f"zero{stage}.json"}
    train_well(run, processes=2, iterations=2, **HALF, **zero)
    refused = train(run, processes=4, resume=True, **HALF, **zero)
    (line,) = [line for line in refused.output.splitlines() if line.startswith("error:")]
    checkpoint = run / "checkpoint-2"
    assert f"{checkpoint} was saved by ZeRO on 2 processes, a part of the optimizer each, and there are 4: " in line
    assert f"resume on 2, or begin anew from its weights (vision_zero.export {checkpoint} FOLDER, MODEL=FOLDER)" in line
    assert "Traceback" not in refused.output


def test_random_states_of_another_number_of_processes_are_left_out(tmp_path: Path) -> None:
    """Those of rank 1 of 2 are not those of rank 1 of 4, and what is there would be loaded."""
    trainer = make_trainer(tmp_path / "run")
    moved = {"python": random.Random(5).getstate(), "numpy": np.random.RandomState(5).get_state()}
    moved["cpu"] = torch.Generator().manual_seed(5).get_state()
    torch.save(moved, tmp_path / "rng_state.pth")
    torch.save(moved, tmp_path / "rng_state_1.pth")
    before = torch.get_rng_state()
    trainer._load_rng_state(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    (tmp_path / "rng_state_1.pth").unlink()
    trainer._load_rng_state(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), moved["cpu"])
