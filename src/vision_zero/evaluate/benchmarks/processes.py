"""Processes of other environments: started with a log, watched, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE = 10.0
"""Seconds between the request to end and the kill."""
POLL = 0.2


class ProcessFailedError(ValueError):
    """A process that ended badly, or did not come up. The message names its log file."""


@contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own whose output goes to `log`; when the block is left, in whatever way, it and
    all that it started are ended."""
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


def wait_for(process: subprocess.Popen[bytes], log: Path, tick: Callable[[], None] = lambda: None) -> None:
    """Until it ends, with `tick` about once a second. Raises ProcessFailedError for another status than 0."""
    ticked = 0.0
    while process.poll() is None:
        if time.monotonic() - ticked > 1:
            tick()
            ticked = time.monotonic()
        time.sleep(POLL)
    tick()
    if process.returncode:
        raise ProcessFailedError(f"ended with status {process.returncode}:\n{last_lines(log)}\n(log: {log})")


def last_lines(log: Path, count: int = 8) -> str:
    lines = log.read_text("utf-8", errors="replace").replace("\r", "\n").splitlines() if log.exists() else []
    return "\n".join(f"  | {line[:300]}" for line in [line for line in lines if line.strip()][-count:])


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt, so that what was started is ended as at Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
