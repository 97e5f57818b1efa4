"""Every family through the launch script on a CPU, as a user would: both stages, the export, the page.

Random weights say nothing that parses, so no weight moves: `tests/trainer/test_families.py` trains.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_scripts import DRAWN, bash
from tests.trainer.test_families import FAMILIES, saved_family
from vision_zero.models import load_model
from vision_zero.run_folder import read_json_lines

OPTIONS = {
    "template": "compact",
    "schedule": "cycle",
    "cycle_decision": 1,
    "cycle_clue": 1,
    "iterations": 2,
    "games_per_iteration": 2,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "civilians": 2,
    "rounds": 1,
    "holdout": 0.25,
    "arena_games": 4,
    "max_clue_tokens": 6,
    "max_vote_tokens": 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_runs_by_the_launch_script(name: str, tmp_path: Path) -> None:
    family = saved_family(name, tmp_path / "model")
    words = [word for option, value in OPTIONS.items() for word in (f"--{option}", str(value))]
    own = {"IMAGES_DIR": str(DRAWN), "MODEL": str(family.folder), "NUM_GPUS": "0", "REPORT_TO": "none"}
    done = bash("run_grpo_vision_zero.sh", *words, **own, RUN_NAME="run", OUTPUT_BASE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    stages = [line["stage/is_clue"] for line in read_json_lines(run / "metrics.jsonl") if "stage/is_clue" in line]
    assert stages == [0, 1]
    assert "gap of log-probs" in done.stderr
    last = max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    trained, start = (load_model(folder, dtype="float32").state_dict() for folder in (last / "export", family.folder))
    assert trained.keys() == start.keys()
    page = subprocess.run([sys.executable, "-m", "vision_zero.report", str(run)], capture_output=True, text=True)
    assert page.returncode == 0, page.stderr
    assert (run / "report.html").is_file()
