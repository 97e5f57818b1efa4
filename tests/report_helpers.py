"""A real run for the tests of its page and of trackers: the tiny model on drawn scenes, both stages, with an arena."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.process_helpers import train_well
from vision_zero.evaluate.bootstrap import RESAMPLED
from vision_zero.run_folder import append_json_line

OPTIONS: dict[str, Any] = {
    "images": "drawn:6",
    "max_pixels": 112 * 112,
    "iterations": 6,
    "games_per_iteration": 6,
    "schedule": "iterative",
    "k_min": 1,
    "patience": 2,
    "max_clue_tokens": 24,
    "max_vote_tokens": 16,
    "arena_every": 3,
    "arena_games": 4,
    "arena_images": "drawn:4@heldout",
    "save_steps": 6,
    "report_to": "wandb,tensorboard",
    "wandb_games": 2,
    "run_name": "recorded",
}
N_GAMES = OPTIONS["iterations"] * OPTIONS["games_per_iteration"]


def trained_run(folder: Path) -> Path:
    """A run folder with metrics, arena, switches, games and, in the form that `evaluate` writes, an evaluation.

    Beside it is what wandb keeps offline.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        environment.setenv("WANDB_DIR", str(folder.parent))
        environment.setenv("WANDB_DATA_DIR", str(folder.parent / "data"))
        train_well(folder, **OPTIONS)
    last = json.loads((folder / "arena.jsonl").read_text().splitlines()[-1])
    figures = {name: last[name] for name in (RESAMPLED, "figures", "start")}
    append_json_line(folder / "evaluation.jsonl", {"model": "the last checkpoint", "games": 4, **figures})
    return folder


def copy_of(run: Path, folder: Path) -> Path:
    """Everything but the checkpoints."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    return folder


def change_game(run: Path, **changes: Any) -> None:
    """Change the first clue of the first game of a run."""
    file = min((run / "games").glob("step-*.jsonl"))
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    records[0]["clues"][0].update(changes)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
