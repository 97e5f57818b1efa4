"""Processes that end with all that they started: tools in environments of their own, and served models for them.

A served model is a checkpoint behind an OpenAI-style API for as long as a block runs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from vision_zero.evaluate.benchmarks.options import BenchmarkConfig, pixel_bounds

GRACE = 10.0  # seconds between the request to end and the kill
POLL = 0.2
READY = "listening on "  # how the line begins in which the server prints its address, once it is up
NOT_PASSED_ON = re.compile(
    r"(OPENAI|AZURE_OPENAI|LMDEPLOY|VLMEVAL|LMMS|BOYUE)_.*|PRED_FORMAT|EVAL_FORMAT|EVAL_PROXY|MMEVAL_ROOT|SKIP_ERR|"
    r"SPLIT_THINK|LOCAL_LLM|FWD_API|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV"
)
"""Variables by which the tools read other formats, other judges or other models than this run records."""


@dataclass(frozen=True)
class ToolEnvironment:
    """The Python of a tool, the versions of its packages, and its hardware."""

    python: Path
    versions: Mapping[str, str]
    gpus: int
    flash_attention: bool


_LOOK = """
import importlib.metadata as metadata, importlib.util, json, platform
import torch
versions = {name: metadata.version(name) for name in NAMES}
print(json.dumps({"versions": {"python": platform.python_version(), **versions}, "gpus": torch.cuda.device_count(),
                  "flash_attention": importlib.util.find_spec("flash_attn") is not None}))
"""


def tool_variables() -> dict[str, str]:
    """This process's environment variables without NOT_PASSED_ON, with local addresses asked without a proxy."""
    kept = {name: value for name, value in os.environ.items() if not NOT_PASSED_ON.fullmatch(name)}
    local = ",".join(filter(None, (kept.get("NO_PROXY"), "127.0.0.1", "localhost")))
    return kept | {"NO_PROXY": local, "no_proxy": local, "PYTHONUNBUFFERED": "1"}


def inspect_environment(python: Path, packages: Sequence[str], setup: str) -> ToolEnvironment:
    """Raises ValueError, naming the script that makes a tool's environment, where `packages` are not in it."""
    advice = f"make the environment with: bash run_scripts/setup_vlmevalkit.sh{setup}"
    if not python.is_file():
        raise ValueError(f"{python} is not there; {advice}")
    code = _LOOK.replace("NAMES", repr([*packages, "torch", "transformers"]))
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, env=tool_variables(), check=False)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["it does not run"])[-1]
        raise ValueError(f"{python}: {reason}; {advice}")
    return ToolEnvironment(python=python, **json.loads(asked.stdout.splitlines()[-1]))


class ProcessFailedError(ValueError):
    """A process that ended badly, or did not come up. The message names its log file."""


@contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, its output in `log`; it and all that it started end with the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessFailedError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process's session, then SIGKILL to what is left of it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):  # the process, or children that outlived it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, server: "Server | None" = None) -> None:
    """Wait until the process ends, looking at `server` every second. Raises ProcessFailedError for a status but 0."""
    running = True
    while running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        running = process.poll() is None
        if server is not None:
            server.tick()
    if process.returncode:
        raise _failed(f"ended with status {process.returncode}", log)


def server_command(model: str, config: BenchmarkConfig, **more: Any) -> list[str]:
    """Command line of the server of a model as a benchmark's options serve it; `more`: other options of the server."""
    low, high = pixel_bounds(model, config)
    options = {name: getattr(config, name) for name in ("max_batch", "dtype", "use_cpu", "post_process")}
    options |= {"min_pixels": low, "max_pixels": high, "max_tokens": config.max_new_tokens, **more}
    words = [sys.executable, "-m", "vision_zero.evaluate.benchmarks.server.server", model, "--port", "0"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


@dataclass(frozen=True)
class Server:
    """A server that is up, with a bar of answered questions. `url` has no /v1."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    bar: Any

    def tick(self) -> None:
        """Move the bar. Raises ProcessFailedError, which names the log, when the server has ended."""
        if self.process.poll() is not None:
            raise _failed(f"lost the server, which ended with status {self.process.returncode}", self.log)
        self.bar.update(self.counts().get("answered", self.bar.n) - self.bar.n)

    def counts(self) -> dict[str, int]:
        """Counts of requests: answered, failed, truncated at the longest answer, and answered by nothing."""
        with suppress(httpx.HTTPError):  # a busy server may be late
            answer = httpx.get(f"{self.url}/health", timeout=30, trust_env=False).raise_for_status().json()
            return {name: value for name, value in answer.items() if isinstance(value, int)}
        return {}


@contextmanager
def served(
    model: str, name: str, config: BenchmarkConfig, folder: Path, system_prompt: str | None = None
) -> Iterator[Server]:
    """Context with a running server; log and requests in `folder`, `system_prompt` for conversations without one.

    Raises ProcessFailedError, naming the log, if it ends or is not up in time.
    """
    log, kept = folder / "server.log", folder / "requests.jsonl" if config.keep_requests else None
    folder.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    source = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    command = server_command(model, config, name=name, system_prompt=system_prompt, keep_requests=kept)
    with started(command, log, {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}) as process:
        began = said = time.monotonic()
        while not (urls := re.findall(rf"^{READY}(.*\S)", log.read_text("utf-8", errors="replace"), re.MULTILINE)):
            now = time.monotonic()
            if process.poll() is not None:
                raise _failed(f"the server of {model} ended with status {process.returncode}", log)
            if now - began > config.server_timeout:
                reason = f"the server of {model} was not up after {config.server_timeout:.0f} s"
                raise _failed(reason, log, "; more time: --server_timeout")
            if now - said > 15:
                print(f"  waiting for the server of {model}, {now - began:.0f} s", file=sys.stderr)
                said = now
            time.sleep(POLL)
        with tqdm(desc=name, unit="question", disable=None, leave=False) as bar:
            yield Server(urls[0], process, log, bar)


def _failed(reason: str, log: Path, advice: str = "") -> ProcessFailedError:
    """The error with the last lines of the log."""
    lines = log.read_text("utf-8", errors="replace").replace("\r", "\n").splitlines()
    last = "\n".join(f"  | {line[:300]}" for line in [line for line in lines if line.strip()][-8:])
    return ProcessFailedError(f"{reason}:\n{last}\n(log: {log}{advice})")
