"""run_scripts/toy_selfplay.sh with tiny values: a whole run, its evaluation and its picture; stopped and continued."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.fork_server import folder_of_shared_python
from vision_zero.run_folder import read_json_lines

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "run_scripts" / "toy_selfplay.sh"
TINY = {"FINAL_GAMES": "4", "HELDOUT": "4"}
TINY_OPTIONS = {
    "model_name_or_path": "tests/models/bench_model",
    "iterations": "2",
    "games_per_iteration": "2",
    "num_generations": "2",
    "civilians": "2",
    "rounds": "1",
    "arena_every": "1",
    "arena_games": "4",
    "max_clue_tokens": "4",
    "max_vote_tokens": "3",
    "per_device_train_batch_size": "2",
    "max_pixels": "3136",
    "arena_images": "drawn:4@heldout",
    "format_weight": "0.5",
    "k_min": "1",
    "patience": "1",
    "save_steps": "1",
}


def bash(out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """From a folder that is not the repository's, with nothing of the script's in its environment."""
    environment = {name: value for name, value in os.environ.items() if name not in {*TINY, "OUT", "RESUME"}}
    environment |= {
        "PATH": f"{folder_of_shared_python()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(ROOT / "src"),
        "OUT": str(out),
        **variables,
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


def words(**options: str) -> list[str]:
    return [word for name, value in {**TINY_OPTIONS, **options}.items() for word in (f"--{name}", value)]


def test_script_is_clean() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    subprocess.run([str(Path(sys.executable).parent / "shellcheck"), "-x", str(SCRIPT)], cwd=ROOT, check=True)


def test_every_variable_reaches_the_commands(tmp_path: Path) -> None:
    finished = bash(tmp_path / "run", "--schedule", "clue", "--seed", "7", DRY_RUN="1", **TINY)
    assert finished.returncode == 0, finished.stderr
    train, evaluate = (shlex.split(line) for line in finished.stdout.splitlines())
    own = ["--output_dir", str(tmp_path / "run"), "--config", "experiments/base.yaml", "--seed", "1"]
    assert train[3:] == [*own, "--schedule", "clue", "--seed", "7"]  # the last word on an option counts
    assert evaluate[evaluate.index("--games") + 1] == "4"
    assert evaluate[evaluate.index("--drawn") + 1] == "4"


@pytest.mark.parametrize(
    ("variable", "flag"),
    [
        ("ITERATIONS", "iterations"),
        ("GAMES", "games_per_iteration"),
        ("ARENA_EVERY", "arena_every"),
        ("MODEL", "model_name_or_path"),
        ("SEED", "seed"),
        ("LEARNING_RATE", "learning_rate"),
    ],
)
def test_former_variables_are_refused_with_their_flags(variable: str, flag: str, tmp_path: Path) -> None:
    refused = bash(tmp_path / "run", DRY_RUN="1", **{variable: "7"})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f"put it after the script's name: --{flag} 7\n")


def test_unset_variables_leave_the_base_alone(tmp_path: Path) -> None:
    """The values stand once, in experiments/base.yaml."""
    train = shlex.split(bash(tmp_path / "run", DRY_RUN="1").stdout.splitlines()[0])
    assert train[3:] == ["--output_dir", str(tmp_path / "run"), "--config", "experiments/base.yaml", "--seed", "1"]
    assert yaml.safe_load((ROOT / "experiments" / "base.yaml").read_text())["model_name_or_path"] == "data/tiny_vlm"


def test_refused(tmp_path: Path) -> None:
    nothing = bash(tmp_path / "run", RESUME="1")
    assert nothing.returncode == 1
    assert "there is no run" in nothing.stderr
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").touch()
    taken = bash(tmp_path / "run")
    assert taken.returncode == 1
    assert "RESUME=1" in taken.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("toy") / "run"
    finished = bash(out, *words(), **TINY)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out, finished.stdout


def test_a_whole_run(run: tuple[Path, str]) -> None:
    out, printed = run
    assert len(read_json_lines(out / "metrics.jsonl")) == 2
    assert [line["step"] for line in read_json_lines(out / "arena.jsonl")] == [0, 1, 2]
    evaluation = read_json_lines(out / "evaluation.jsonl")
    assert [line["games"] for line in evaluation] == [4]
    assert "voters_gain" in evaluation[0]["figures"]
    for said in ("win_rate", "iterations  2 of 2 (1 decision, 1 clue)", f"{out}/run.png"):
        assert said in printed
    assert (out / "report.html").read_text("utf-8").startswith("<!doctype html>")
    with Image.open(out / "run.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_continued_with_more_iterations(run: tuple[Path, str]) -> None:
    """A run that reached its end goes on when it is asked for more iterations, and its files go on with it."""
    out, _ = run
    finished = bash(out, *words(iterations="3"), **{**TINY, "RESUME": "1"})
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert [line["step"] for line in read_json_lines(out / "metrics.jsonl")] == [1, 2, 3]
    assert [line["step"] for line in read_json_lines(out / "arena.jsonl")] == [0, 1, 2, 3]
    assert len(read_json_lines(out / "evaluation.jsonl")) == 2
