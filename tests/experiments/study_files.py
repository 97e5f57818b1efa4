"""Studies of the tiniest setting as files, and a finished run's folder without the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import run
from run_files import TRAINING_FIGURES, Run
from study import load_base

BASE: dict[str, Any] = {
    "images": ["drawn:8"],
    "model_name_or_path": "tests/models/bench_model",
    "template": "compact",
    "max_pixels": 3136,
    "use_cpu": True,
    "attn_implementation": "sdpa",
    "civilians": 2,
    "rounds": 1,
    "num_generations": 2,
    "games_per_iteration": 2,
    "per_device_train_batch_size": 2,
    "iterations": 2,
    "schedule": "cycle",
    "cycle_decision": 1,
    "cycle_clue": 1,
    "format_weight": 0.5,
    "beta": 0.0,
    "max_clue_tokens": 4,
    "max_vote_tokens": 3,
    "gradient_checkpointing": False,
    "arena_every": 1,
    "arena_images": ["drawn:4@heldout"],
    "save_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
SMALL = {"title": "t", "question": "q", "claim": "c", "seeds": [1], "final_games": 4, "curve_games": 4}
MEASURED = {"final_games": 0, "curve_games": 0, "runs_of": "one", "measure": "module:function"}


def write(tmp_path: Path, **studies: Mapping[str, Any]) -> list[str]:
    """Studies and their base as files; returns the arguments that make the runner use them."""
    (tmp_path / "studies").mkdir(exist_ok=True)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    for name, study in studies.items():
        (tmp_path / "studies" / f"{name}.yaml").write_text(yaml.safe_dump({**SMALL, **study}))
    places = {"--base": "base.yaml", "--folder": "studies", "--results": "results", "--runs": "runs"}
    return [word for flag, name in places.items() for word in (flag, str(tmp_path / name))]


def planned(places: list[str]) -> list[Run]:
    """The runs of all studies."""
    asked = run.parse_arguments(places)
    return [one for one, _ in run.make_plan(run.choose(asked), load_base(asked.base), asked.results, asked.runs).runs]


def write_finished(one: Run) -> None:
    """The files of a run that has ended, with figures of our own."""
    figures = {"win_rate": [0.5, 0.25, 0.75]}
    write_lines(one.folder / "metrics.jsonl", *[dict.fromkeys(TRAINING_FIGURES, 1.0)] * one.iterations)
    write_lines(one.folder / "arena.jsonl", {"step": 0, "figures": figures})
    write_lines(one.folder / f"evaluation-{one.final_games}.jsonl", {"games": 4, "figures": figures, "start": {}})
    export = one.folder / "checkpoint-2" / "export"
    export.mkdir(parents=True)
    (export / "config.json").touch()
    (export.parent / "COMPLETE").touch()
    (one.folder / "config.yaml").touch()
    (one.folder / "git.txt").write_text("0123abcd 2025-01-01 words\n M file\n")
    one.beside(".key").write_text(one.key)


def write_lines(file: Path, *lines: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
