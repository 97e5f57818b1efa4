"""The GPU checklist: every check in a process of its own, results kept as they come, one table at the end.

    bash run_scripts/gpu_checklist.sh
    python benchmarks/gpu_checklist.py --device cpu --size tiny        # the same code on a machine without a GPU

What is checked and how to read the table: docs/hardware.md. The exit status is 0 only if all required checks
passed. This file needs the standard library alone, so that it can say what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import report, wheels  # noqa: E402
from benchmarks.gpu.checks import PLAN, Check, memory_needs  # noqa: E402
from benchmarks.gpu.settings import Settings  # noqa: E402
from vision_zero.plan.shape import ModelShape, read_shape  # noqa: E402

TINY = {"games": 2, "players": 3, "rounds": 1, "votes": 4, "clue_tokens": 10, "vote_tokens": 12}
SHORT = {"limit_s": 235, "games": 8, "only": ["machine", "7B lora", "7B lora vLLM"]}
FOR_THE_TABLE_S = 5


class Run:
    """Runs checks one after the other within `options.limit_s` and keeps their lines in results.jsonl."""

    def __init__(self, options: argparse.Namespace, environment: dict[str, str]) -> None:
        self.options = options
        self.environment = environment
        self.ends = options.started + options.limit_s - FOR_THE_TABLE_S
        self.results = options.out / "results.jsonl"
        self.log = options.out / "checklist.log"
        self.lines: list[dict[str, Any]] = []

    def check(self, check: Check) -> None:
        left = self.ends - time.monotonic()
        if check.wants_vllm and not self._has_vllm():
            self._note(check, "not installed: vllm")
        elif left < (check.least_s if self.options.size == "full" else 5):
            self._note(check, f"not run: time ({left:.0f} s left)")
        else:
            self._start(check, min(left, check.most_s) if self.options.device == "cuda" else left)

    def _has_vllm(self) -> bool:
        return find_spec("vllm") is not None

    def _start(self, check: Check, limit_s: float) -> None:
        print(f"{check.name} ... ", end="", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu.run_check", *check.arguments, "--name", check.name]
        command += ["--size", self.options.size, "--results", str(self.results), *Settings.of(self.options).flags()]
        before = len(self._written())
        started = time.monotonic()
        with self.log.open("a") as log:
            log.write(f"\n===== {check.name}: {' '.join(command)}\n")
            log.flush()
            begin = log.tell()
            child = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = "" if child.wait(limit_s) == 0 else f"failed: exit status {child.returncode}"
            except subprocess.TimeoutExpired:
                status = f"failed: stopped after {limit_s:.0f} s"
            finally:
                _end_group(child)
        new = self._written()[before:]
        self.lines += new
        if not status and len(new) < check.lines:
            status = f"failed: {len(new)} results instead of {check.lines}"
        if status:
            tail = self.log.read_bytes()[begin:].decode(errors="replace")[-3000:]
            reason = "out of memory, " if "OutOfMemoryError" in tail else ""
            self._note(check, status.replace("failed: ", f"failed: {reason}"), error=tail)
        found = [line["status"] for line in new] + [status] * bool(status)
        print(f"{', '.join(found)} ({time.monotonic() - started:.0f} s)", flush=True)

    def _written(self) -> list[dict[str, Any]]:
        text = self.results.read_text() if self.results.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _note(self, check: Check, status: str, **more: Any) -> None:
        """A line for a check that could not write one itself."""
        line = {"check": check.name, "status": status, **more}
        self.lines.append(line)
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if not more:
            print(f"{check.name}: {status}", flush=True)

    def failed(self) -> list[str]:
        """Required checks that did not pass; vLLM where it is not installed is not asked for."""
        required = {check.name for check in PLAN if check.required}
        bad = (line for line in self.lines if line["status"] != "passed" and line["check"] in required)
        return sorted({line["check"] for line in bad if not line["status"].startswith("not installed")})


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """The check and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--size", choices=["full", "tiny"], default="full", help="tiny: small models, few short completions"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_checklist", help="results, table and log")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is missing here")
    parser.add_argument("--limit-s", type=float, default=580, help="of the whole checklist, seconds")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names of checks, as in the table")
    parser.add_argument("--short", action="store_true", help="7B with LoRA alone, in under 4 minutes")
    Settings.add_to(parser)
    known = parser.parse_known_args()[0]
    if known.short:
        parser.set_defaults(**SHORT)
    if known.size == "tiny":
        parser.set_defaults(**TINY)
    options = parser.parse_args()
    unknown = set(options.only or ()) - {check.name for check in PLAN}
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)}; there are {', '.join(check.name for check in PLAN)}")
    options.started = time.monotonic()
    return options


def environment(options: argparse.Namespace, site: Path) -> dict[str, str]:
    paths = [str(site), str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if options.device == "cuda" else ""
    for_vllm = {"VLLM_NO_USAGE_STATS": "1"}
    if options.device == "cpu":
        for_vllm |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}
    return {
        **os.environ,
        **for_vllm,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CUDA_VISIBLE_DEVICES": gpus,  # one: transformers would split batches over several
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


def shapes() -> dict[str, ModelShape]:
    return {size: read_shape(f"qwen2.5-vl-{size}") for size in ("3b", "7b")}


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "checklist.log", "table.md"):
        (options.out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as site:
        unpacked = wheels.unpack(options.wheels, Path(site)) if options.wheels else []
        if unpacked:
            print(f"from {options.wheels}: {', '.join(unpacked)}")
        if missing := wheels.missing(unpacked):
            print(
                f"missing here: {', '.join(missing)}. With a network: bash setup.sh. Without: make a folder of wheels "
                "elsewhere by `bash run_scripts/gpu_checklist.sh --collect-wheels DIR` and give it with --wheels DIR",
                file=sys.stderr,
            )
            return 2
        run = Run(options, environment(options, Path(site)))
        for check in PLAN:
            if not options.only or check.name in options.only:
                run.check(check)
    return finish(run)


def finish(run: Run) -> int:
    machine = next((line for line in run.lines if line["check"] == "machine" and "versions" in line), None)
    card_gib = machine.get("memory_gib") if machine else None
    needs = memory_needs(shapes(), run.options.rank)
    memory = [f"{need.name}: {need.verdict(card_gib)}" for need in needs]
    failed = run.failed()
    passed = "the required checks among those asked for passed" if run.options.only else "all required checks passed"
    text = "\n".join(
        [
            report.machine(machine) if machine else "the machine could not be looked at",
            f"settings {json.dumps(Settings.of(run.options).line())}, size {run.options.size}",
            "",
            report.table(run.lines),
            "",
            "In brackets the floor. Memory of the training state, computed:",
            *memory,
            "",
            f"FAILED: {', '.join(failed)}; see {run.log}" if failed else passed,
        ]
    )
    (run.options.out / "table.md").write_text(text + "\n")
    print("\n" + text + f"\n\n{run.results}, {time.monotonic() - run.options.started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
