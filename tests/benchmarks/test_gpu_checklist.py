"""The checklist as a user starts it, on a CPU with tiny models; what it must never do is lose a result."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_checklist
from benchmarks.gpu import report, wheels
from benchmarks.gpu.checks import PLAN, Check
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "run_scripts" / "gpu_checklist.sh"


def start(out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "SIZE": "tiny", "OUT": str(out)}
    environment |= {"OMP_NUM_THREADS": "1", "LIMIT_S": "3000", **variables}
    return subprocess.run(["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_short_list_passes_on_a_cpu(tmp_path: Path) -> None:
    finished = start(tmp_path, "--short")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["check"] for line in lines} == {"machine", "7B lora", "7B lora vLLM"}
    assert all(line["plan_gib"]["update"] > 0 for line in lines if line["check"] == "7B lora")


@pytest.mark.slow
@pytest.mark.timeout(3300)
def test_every_check_passes_on_a_cpu(tmp_path: Path) -> None:
    finished = start(tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    by_check = {check.name: [line for line in lines if line["check"] == check.name] for check in PLAN}
    for check in PLAN:
        statuses = [line["status"] for line in by_check[check.name]]
        assert statuses == ["passed"] * check.lines or (check.wants_vllm and statuses == ["not installed: vllm"])
    assert [line["stage"] for line in by_check["3B full"]] == ["decision", "clue"]
    decision = by_check["7B lora"][0]
    # 2 games of 3 players and 1 round, 4 votes: 3 clues of 10 tokens and 4 votes of 12 each
    assert decision["new_tokens"] == 2 * (3 * 10 + 4 * 12)
    assert decision["trained_rows"] == 8
    assert decision["logp_gap"] < 1e-4
    assert by_check["3B generate_batch"][0]["new_tokens"] == decision["new_tokens"]
    assert "all required checks passed" in (tmp_path / "table.md").read_text()


def checklist(tmp_path: Path, limit_s: float) -> gpu_checklist.Run:
    options = argparse.Namespace(
        device="cpu", size="full", out=tmp_path, limit_s=limit_s, started=time.monotonic(), **vars(Settings())
    )
    return gpu_checklist.Run(options, dict(os.environ))


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    run = checklist(tmp_path, limit_s=10)
    run.check(PLAN[1])
    (line,) = [json.loads(line) for line in run.results.read_text().splitlines()]
    assert line["check"] == "3B full"
    assert line["status"].startswith("not run: time")
    assert run.failed() == ["3B full"]


def test_a_check_that_breaks_leaves_its_reason(tmp_path: Path) -> None:
    run = checklist(tmp_path, limit_s=300)
    run.environment["PYTHONPATH"] = str(ROOT)
    run.check(Check("3B full", ("--kind", "no such kind"), least_s=1, most_s=60, lines=2))
    (line,) = run.lines
    assert line["status"] == "failed: exit status 2"
    assert "invalid choice" in line["error"]
    assert run.failed() == ["3B full"]


def test_vllm_is_asked_for_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = checklist(tmp_path, limit_s=300)
    monkeypatch.setattr(run, "_has_vllm", lambda: False)
    run.check(next(check for check in PLAN if check.wants_vllm))
    assert run.lines[0]["status"] == "not installed: vllm"
    assert run.failed() == []


def test_a_comparison_may_fail(tmp_path: Path) -> None:
    run = checklist(tmp_path, limit_s=300)
    run.lines = [{"check": "3B generate_batch", "status": "failed: exit status 1"}]
    assert run.failed() == []


def test_the_plan_fits_ten_minutes_at_its_least() -> None:
    assert sum(check.least_s for check in PLAN) < 580
    assert [check.name for check in PLAN][:3] == ["machine", "3B full", "7B lora"]


def test_the_table_has_floors_in_brackets() -> None:
    line = {
        "check": "3B full",
        "stage": "decision",
        "status": "passed",
        "seconds": {"rollout": 20.0, "rows": 2.0, "update": 5.0, "step": 27.5},
        "floors": {"rollout": 2.0, "rows": 0.5, "update": 2.0},
        "new_tokens": 1000,
        "tokens_per_s": 50.0,
        "mfu": 0.4,
        "peak_gib": {"rollout": 20.0, "update": 41.26},
        "plan_gib": {"rollout": 18.0, "scoring": 3.0},
    }
    row = report.table([line]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("3B full", "decision", "passed", "20.00 (2.00)", "50 (500)"),
        *("2.00 (0.50)", "5.00 (2.00)", "27.50", "40%", "rollout 20.0 (18.0), update 41.3"),
    ]
    assert "| failed: out of memory" in report.table([{"check": "x", "status": "failed: out of memory"}])


def test_wheels_that_are_newer_or_absent_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"trl": "1.16.0", "peft": "0.9.1", "torch": "2.11.0+cu130"}
    monkeypatch.setattr(wheels, "installed", there.get)
    names = ["trl-1.16.0", "peft-0.21.2", "torch-2.11.0", "not_there-1.0"]
    found = wheels.useful([tmp_path / f"{name}-py3-none-any.whl" for name in names])
    assert [wheel.name.split("-")[0] for wheel in found] == ["peft", "not_there"]
    assert "trl" not in wheels.missing([])
    assert "datasets" in wheels.missing([])
    assert "datasets" not in wheels.missing(["datasets-5.2.0-py3-none-any.whl"])


def test_a_bare_machine_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "missing", lambda unpacked: ["trl", "peft"])
    monkeypatch.setattr(sys, "argv", ["gpu_checklist.py", "--out", str(tmp_path)])
    assert gpu_checklist.main() == 2
    assert "missing here: trl, peft" in capsys.readouterr().err


def test_script_prints_its_commands(tmp_path: Path) -> None:
    line = start(tmp_path, "--games", "8", DRY_RUN="1", WHEELS="my wheels").stdout
    assert "gpu_checklist.py --device cpu --size tiny --limit-s 3000" in line
    assert line.rstrip().endswith("--wheels my\\ wheels --games 8")
    collect = start(tmp_path, "--collect-wheels", "there", DRY_RUN="1", PYTHON_VERSION="3.12").stdout
    assert "--python-version 3.12 --dest there trl==1.16.0 " in collect
    assert start(tmp_path, "--collect-wheels", DRY_RUN="1").returncode == 1
