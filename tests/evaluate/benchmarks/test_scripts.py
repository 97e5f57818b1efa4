"""The scripts of the benchmarks: every variable changes the command, and the real parser takes it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import without_packages
from tests.process_helpers import BENCH_MODEL, ROOT, TINY_VLM
from tests.test_repository import pins
from vision_zero.evaluate.benchmarks.options import BenchmarkOptions, parse

SCRIPT = ROOT / "run_scripts" / "eval_vlmevalkit.sh"
SETUP = ROOT / "run_scripts" / "setup_vlmevalkit.sh"
VARIABLES = set(re.findall(r'^([A-Z_]+)="\$\{\1:-', SCRIPT.read_text(), re.MULTILINE))


def bash(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd="/",
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def command(*arguments: str, **variables: str) -> list[str]:
    done = bash(SCRIPT, *arguments, **{"PATH": without_packages(), **variables, "DRY_RUN": "1"})
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_every_variable_changes_the_command() -> None:
    usual = command(MODEL="runs/mine")
    values = {"USE_CPU": "1"}
    for name in sorted(VARIABLES - {"DRY_RUN"}):
        assert command(**{"MODEL": "runs/mine", name: values.get(name, "7")}) != usual, name
    assert command("--limit", "3", MODEL="runs/mine")[-2:] == ["--limit", "3"]
    refused = bash(SCRIPT, DRY_RUN="1")
    assert refused.returncode == 1
    assert "MODEL is empty" in refused.stderr


def test_the_parser_takes_the_command() -> None:
    line = command(
        MODEL=str(TINY_VLM), BASE=str(BENCH_MODEL), BENCHMARKS="MMStar MathVista_MINI", JUDGE_MODEL="judge",
        JUDGE_URL="http://127.0.0.1:1/v1", LIMIT="5", MIN_PIXELS="3136", MAX_PIXELS="12544", USE_CPU="1",
    )  # fmt: skip
    options = parse(line[line.index("vlmevalkit") + 1 :])
    assert isinstance(options, BenchmarkOptions)
    assert (options.models, options.base) == ([str(TINY_VLM)], str(BENCH_MODEL))
    assert [one.kit_name for one in options.benchmarks()] == ["MMStar", "MathVista_MINI"]
    config = options.config
    assert (config.limit, config.min_pixels, config.max_pixels, config.use_cpu) == (5, 3136, 12544, True)
    assert (config.judge_model, config.max_new_tokens, config.how) == ("judge", 2048, "auto")


def test_setup_says_how_it_is_used_and_refuses_what_it_does_not_know() -> None:
    assert "--with" in bash(SETUP, "--help").stdout
    for words, message in (
        (("--with", "lmms"), "--with 'lmms': must be vlmevalkit or lmms-eval"),
        (("--cpu", "--gpu"), "exclude each other"),
        (("--cup",), "unknown argument '--cup'"),
    ):
        refused = bash(SETUP, *words)
        assert refused.returncode == 1
        assert message in refused.stderr


@pytest.mark.parametrize("name", ["requirements/vlmevalkit.txt", "requirements/lmms-eval.txt"])
def test_requirements_are_exact_say_why_and_agree_with_the_training_environment(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        if "==" in line.partition("#")[0]:
            assert re.search(r"  # \w", line), f"{name}: '{line}' does not say what it is for"
    wanted, ours, lock = pins(name), pins("requirements/cpu.txt"), pins(name.replace(".txt", "-lock.txt"))
    assert {package: lock.get(package) for package in wanted} == wanted
    shared = {package: version for package, version in wanted.items() if package in ours}
    assert shared
    assert shared == {package: ours[package] for package in shared}
