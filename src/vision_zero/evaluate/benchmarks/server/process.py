"""Process of a served model: a checkpoint behind an OpenAI-style API for as long as a block runs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from vision_zero.evaluate.benchmarks.options import BenchmarkConfig, pixel_bounds
from vision_zero.evaluate.benchmarks.processes import POLL, ProcessFailedError, last_lines, started

READY = "listening on "
"""Start of the line in which the server prints its address, once it is up."""


@dataclass(frozen=True)
class Serving:
    """Options of a served model. `min_pixels`, `max_pixels` None: the model's own rule."""

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
        """Command line of the server, which has all fields but `model` and `timeout` as options by the same names."""
        words = [sys.executable, "-m", "vision_zero.evaluate.benchmarks.server.server", self.model, "--port", "0"]
        for name, value in vars(self).items():
            if name in ("model", "timeout") or value is None or value is False:
                continue
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


def serving_of(model: str, name: str, config: BenchmarkConfig, folder: Path) -> Serving:
    """A model as the options of a benchmark serve it, with requests kept in `folder`."""
    low, high = pixel_bounds(model, config)
    kept = folder / "requests.jsonl" if config.keep_requests else None
    same: dict[str, Any] = {one: getattr(config, one) for one in ("max_batch", "dtype", "use_cpu", "post_process")}
    return Serving(
        model, name, low, high, config.max_new_tokens, keep_requests=kept, timeout=config.server_timeout, **same
    )


@dataclass(frozen=True)
class Server:
    """A server that is up. `url` has no /v1."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Check that the server runs. Raises ProcessFailedError, which names the log, when it has ended."""
        if self.process.poll() is not None:
            raise _failed(f"lost the server, which ended with status {self.process.returncode}", self.log)

    def counts(self) -> dict[str, int]:
        """Counts of requests: answered, failed, truncated at the longest answer, and answered by nothing."""
        answer = httpx.get(f"{self.url}/health", timeout=30, trust_env=False).raise_for_status().json()
        return {name: value for name, value in answer.items() if isinstance(value, int)}


@contextmanager
def served(serving: Serving, log: Path) -> Iterator[Server]:
    """Context with a running server. Raises ProcessFailedError, naming the log, if it ends or is not up in time."""
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
        yield Server(url, process, log)


def _failed(reason: str, log: Path, advice: str = "") -> ProcessFailedError:
    return ProcessFailedError(f"{reason}:\n{last_lines(log)}\n(log: {log}{advice})")


def _url(log: Path) -> str | None:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.removeprefix(READY).strip() for line in lines if line.startswith(READY)), None)


class Progress:
    """Bar of answered questions, where a server counts them."""

    def __init__(self, name: str, server: Server | None) -> None:
        self.server = server
        self.bar = tqdm(desc=name, unit="question", disable=None if server else True, leave=False)

    def tick(self) -> None:
        """Move the bar. Raises ProcessFailedError, which names the log, when the server has ended."""
        if self.server is None:
            return
        self.server.check()
        with suppress(httpx.HTTPError):  # a busy server may be late; the next tick asks again
            self.bar.update(self.server.counts()["answered"] - self.bar.n)

    def counts(self) -> dict[str, int]:
        self.bar.close()
        with suppress(httpx.HTTPError):
            return self.server.counts() if self.server is not None else {}
        return {}
