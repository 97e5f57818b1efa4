"""A checkpoint behind an OpenAI-style API for as long as a block runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from vision_zero.evaluate.benchmarks.processes import POLL, ProcessFailedError, last_lines, started

READY = "listening on "
"""How the server's line begins that says its address, once it is up."""


@dataclass(frozen=True)
class Serving:
    """What is served and how it answers. `min_pixels`, `max_pixels` None: the model's own rule."""

    model: str
    name: str
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tokens: int = 2048
    max_batch: int = 16
    dtype: str = "auto"
    use_cpu: bool = False
    post_process: bool = True
    system_prompt: str | None = None
    """Before every conversation that has none of its own."""
    keep_requests: Path | None = None
    timeout: float = 900.0
    """Seconds within which it must be up."""

    def command(self) -> list[str]:
        """All fields but `model` and `timeout` are options of the server by the same name."""
        words = [sys.executable, "-m", "vision_zero.evaluate.benchmarks.server.server", self.model, "--port", "0"]
        for name, value in vars(self).items():
            if name in ("model", "timeout") or value is None or value is False:
                continue
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


@dataclass(frozen=True)
class Served:
    """A server that is up. `url` has no /v1."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises ProcessFailedError, which names the log, when it has ended."""
        if self.process.poll() is not None:
            raise _failed(f"lost the server, which ended with status {self.process.returncode}", self.log)

    def counts(self) -> dict[str, int]:
        """How many requests were answered, failed, cut off at the longest answer, and answered by nothing."""
        answer = httpx.get(f"{self.url}/health", timeout=30, trust_env=False).raise_for_status().json()
        return {name: value for name, value in answer.items() if isinstance(value, int)}


@contextmanager
def served(serving: Serving, log: Path) -> Iterator[Served]:
    """Raises ProcessFailedError, naming the log, for a server that ends or is not up in time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    source = Path(__file__).resolve().parents[4]
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    with started(serving.command(), log, {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}) as process:
        began = said = time.monotonic()
        while (url := _url(log)) is None:
            now = time.monotonic()
            if process.poll() is not None:
                raise _failed(f"the server of {serving.model} ended with status {process.returncode}", log)
            if now - began > serving.timeout:
                reason = f"the server of {serving.model} was not up after {serving.timeout:.0f} s"
                raise _failed(reason, log, "; more time: --server_timeout")
            if now - said > 15:
                print(f"  waiting for the server of {serving.model}, {now - began:.0f} s", file=sys.stderr)
                said = now
            time.sleep(POLL)
        yield Served(url, process, log)


def _failed(reason: str, log: Path, advice: str = "") -> ProcessFailedError:
    return ProcessFailedError(f"{reason}:\n{last_lines(log)}\n(log: {log}{advice})")


def _url(log: Path) -> str | None:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.removeprefix(READY).strip() for line in lines if line.startswith(READY)), None)
