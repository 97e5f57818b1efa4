"""evaluate_published.sh and reward_controls.sh: their commands, real small runs, and what is not done again."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.process_helpers import DRAWN, TINY_VLM
from tests.test_scripts import BENCH_MODEL, SCRIPTS, bash
from tests.test_scripts import SMALL as SMALL_RUN
from vision_zero.evaluate.win_rate.options import parse
from vision_zero.run_folder import complete_checkpoints, read_config, read_json_lines

PUBLISHED, CONTROLS = "evaluate_published.sh", "reward_controls.sh"
QUICK = (
    *("--template", "compact", "--civilians", "2", "--rounds", "1", "--votes", "2", "--max_clue_tokens", "8"),
    *("--max_vote_tokens", "8", "--max_pixels", "3136", "--drawn", "8"),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two checkpoints: the tiny model, and its weights with a little noise."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("one", "two"):
        shutil.copytree(TINY_VLM, folder / name)
    file, generator = folder / "two" / "model.safetensors", torch.Generator().manual_seed(1)
    weights = {name: one + 0.01 * torch.randn(one.shape, generator=generator) for name, one in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return [str(folder / "one"), str(folder / "two")]


def commands(printed: str) -> list[list[str]]:
    return [shlex.split(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_published_checkpoints_are_evaluated_once(published: list[str], tmp_path: Path) -> None:
    own = {"OUT": str(tmp_path), "GAMES": "4", "CROSS_GAMES": "4", "USE_CPU": "1"}
    first = bash(PUBLISHED, str(TINY_VLM), *published, *QUICK, **own)
    assert first.returncode == 0, first.stderr[-3000:]
    win_rate, cross_play = tmp_path / "win_rate.jsonl", tmp_path / "cross_play.jsonl"
    assert [line["model"] for line in read_json_lines(win_rate)] == published
    assert "image_gain" in read_json_lines(win_rate)[0]["figures"]
    assert [*read_json_lines(cross_play)[0]["models"].values()] == [str(TINY_VLM), *published]
    assert "skill" in (tmp_path / "cross_play.log").read_text()
    # As after a stop: the second model's line is lost.
    line, _ = win_rate.read_text().splitlines()
    win_rate.write_text(line + "\n")
    again = bash(PUBLISHED, str(TINY_VLM), *published, *QUICK, **own)
    assert again.returncode == 0, again.stderr[-3000:]
    said = [line for line in again.stdout.splitlines() if "has it already" in line]
    assert [line.split(": ", 2)[2].split(" --games")[0] for line in said] == [
        f"win-rate {published[0]}",
        f"cross-play {published[0]} {published[1]}",
    ]
    assert [line["model"] for line in read_json_lines(win_rate)] == published
    assert len(read_json_lines(cross_play)) == 1


def test_a_dry_run_prints_and_checks_all_commands(published: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = {"OUT": str(out), "DRY_RUN": "1", "BENCHMARKS": "MMStar BLINK"}
    told = bash(PUBLISHED, str(TINY_VLM), *published, **own)
    assert told.returncode == 0, told.stderr
    lines = commands(told.stdout)
    assert [line[3] for line in lines] == ["win-rate", "win-rate", "cross-play", "vlmevalkit"]
    assert all(("--drawn" in line) == (line[3] != "vlmevalkit") for line in lines)
    assert lines[3][4:6] == published
    assert lines[3][lines[3].index("--benchmarks") + 1 :][:2] == ["MMStar", "BLINK"]
    assert lines[3][lines[3].index("--out") + 1] == f"{out}/benchmarks"
    assert not out.exists()
    one = bash(PUBLISHED, str(TINY_VLM), published[0], "--images", str(DRAWN), OUT=str(out), DRY_RUN="1")
    assert [line[3] for line in commands(one.stdout)] == ["win-rate"]
    assert "--drawn" not in one.stdout
    refused = bash(PUBLISHED, str(TINY_VLM), *published, "--civilianss", "3", **own)
    assert (refused.returncode, "--civilianss" in refused.stderr) == (1, True)


def test_what_is_there_is_told_by_models_and_settings(published: list[str], tmp_path: Path) -> None:
    out = tmp_path / "cross_play.jsonl"
    words = ["--reference", str(TINY_VLM), "--drawn", "8", "--games", "4", "--out", str(out)]
    settings = parse([*published, *words], "cross-play").settings()
    models = {"start": str(TINY_VLM), "1": published[1], "2": published[0]}
    out.write_text(json.dumps({"models": models, "settings": settings}) + "\n")

    def has_result(*arguments: str) -> int:
        program = [sys.executable, str(SCRIPTS / "has_result.py"), "cross-play"]
        return subprocess.run([*program, *arguments, *words], check=False, stderr=subprocess.DEVNULL).returncode

    assert has_result(*published) == 0
    assert has_result(*published, "--seed", "1") == 1
    assert has_result(*published, str(BENCH_MODEL)) == 1


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        ((str(TINY_VLM),), {}, "name the base and one checkpoint or more"),
        ((str(TINY_VLM), "/nope"), {}, "a model: /nope holds no model"),
        ((str(TINY_VLM), str(BENCH_MODEL)), {"GAMES": "many"}, "GAMES=many is not a number"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    words: tuple[str, ...], variables: dict[str, str], says: str, tmp_path: Path
) -> None:
    refused = bash(PUBLISHED, *words, OUT=str(tmp_path / "out"), **variables)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert says in refused.stderr
    assert not (tmp_path / "out").exists()


def test_controls_are_three_runs_beside_the_real_one(tmp_path: Path) -> None:
    own = {"IMAGES_DIR": str(DRAWN), "MODEL": str(BENCH_MODEL), "OUTPUT_BASE_DIR": str(tmp_path), "NUM_GPUS": "0"}
    told = bash(CONTROLS, "--iterations", "7", **own, DRY_RUN="1")
    assert told.returncode == 0, told.stderr
    *runs, score = commands(told.stdout)
    controls = [line[line.index("--reward_control") + 1] if "--reward_control" in line else None for line in runs]
    assert controls == [None, "shuffled", "constant", "random"]
    folders = [line[line.index("--output_dir") + 1] for line in runs]
    assert folders == [f"{tmp_path}/controls-{control or 'none'}" for control in controls]
    assert all(line[line.index("--iterations", line.index("--iterations") + 1) + 1] == "7" for line in runs)
    assert f"MODEL={' '.join(folders)}" in score
    assert f"BASE={BENCH_MODEL}" in score
    assert score[-1].endswith("eval_vlmevalkit.sh")
    assert [*tmp_path.iterdir()] == []
    refused = bash(CONTROLS, "--reward_control", "random", **own, DRY_RUN="1")
    assert "--reward_control and --output_dir are set here" in refused.stderr
    assert "CONTROLS: all is none of none," in bash(CONTROLS, **own, CONTROLS="all", DRY_RUN="1").stderr


def test_a_control_is_trained_and_continued(tmp_path: Path) -> None:
    own = {"IMAGES_DIR": str(DRAWN), "MODEL": str(BENCH_MODEL), "OUTPUT_BASE_DIR": str(tmp_path), "NUM_GPUS": "0"}
    own |= {"CONTROLS": "random", "BENCHMARKS": "none", "REPORT_TO": "none"}
    small = [*SMALL_RUN, "--format_weight", "0", "--iterations", "1", "--arena_every", "0"]
    first = bash(CONTROLS, *small, **own)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "reward_control=random: a control run" in first.stderr
    run = tmp_path / "controls-random"
    assert read_config(run)["reward_control"] == "random"
    again = bash(CONTROLS, *small, **own)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"continuing {run}" in again.stdout
    assert [path.name for path in complete_checkpoints(run)] == ["checkpoint-1"]
