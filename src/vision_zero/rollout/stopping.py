"""Signals that end a run: SIGINT, SIGTERM and SIGUSR1; and the end of a program whose output nobody reads.

The first signal is noted. Before training nothing can be lost, and the process ends; later the trainer looks at `STOP`
where all processes can leave together. A second one ends the process at once. A thread receives them, since Python's
own handlers wait for calls that wait for other processes. Nothing heavy is imported, so that a program listens early.
"""

import io
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

STATUS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
SAME = 0.5
"""Seconds in which the same signal is no second one: a terminal and a launcher may both send it."""
KEY = "vision_zero/stop"


def end_with_reader(*, go_on: bool = False) -> None:
    """For a program whose output may go into a pipe, as `| head`: when that is closed it ends, or says no more.

    So it does, with a line, when a disk is full. A terminal without UTF-8 gets escapes, as Python has them on stderr.
    Every line is written at once, also into a file, so that a log can be followed.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if (old := getattr(sys, name)) is not None:
            pipe = _Pipe(number, go_on)
            how = {one: getattr(old, one) for one in ("encoding", "errors", "write_through")}
            how |= {"errors": how["errors"].replace("strict", "backslashreplace"), "line_buffering": True}
            setattr(sys, name, io.TextIOWrapper(pipe if old.write_through else io.BufferedWriter(pipe), **how))


class _Pipe(io.FileIO):
    def __init__(self, number: int, go_on: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.go_on = go_on

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            broken = isinstance(error, BrokenPipeError)
            if not broken:
                with suppress(OSError):
                    os.write(2, f"error: what is printed cannot be written: {error.strerror}\n".encode())
            os.dup2(nowhere := os.open(os.devnull, os.O_WRONLY), self.fileno())
            os.close(nowhere)
            if self.go_on or (broken and sys.is_finalizing()):
                return super().write(data)
            if sys.is_finalizing():
                os._exit(1)
            raise SystemExit(128 + signal.SIGPIPE if broken else 1) from None  # as the shell has it of other programs


class StoppedError(RuntimeError):
    """The run was stopped by a signal."""


class StopSignal:
    """The signal that this process got, and whether it is time to leave. `agreed`: all processes leave."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.grace = 0.0
        self.training = self.agreed = self._over = False
        self._received = math.inf

    def listen(self) -> None:
        """For the main thread of a program. Forked children go back to the default actions."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in STATUS:
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)
        os.register_at_fork(after_in_child=_default_actions)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: int) -> None:
        launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        while True:
            if select.select([reader], [], [], launcher and 1.0)[0]:
                number = os.read(reader, 1)[0]
            else:  # torchrun was killed, perhaps by a signal that it does not handle
                number = 0 if os.getppid() == launcher else signal.SIGTERM
                launcher = launcher and os.getppid()
            first, now = self.number is None, time.monotonic()
            if number not in STATUS or (not first and now < self._received + SAME):
                continue
            if first:
                self._received, self.number = now, number
            if not self.training and os.environ.get("RANK", "0") == "0":
                name = signal.Signals(number).name
                os.write(2, f"stopped by {name} before training began; nothing is lost\n".encode())
            if not (first and self.training):
                os._exit(STATUS[number])

    def agree(self, number: int | None) -> None:
        """All processes leave for the signal `number`, which another one may have got (None: its own)."""
        self._received, self.agreed = min(self._received, time.monotonic()), True
        self.number = number or self.number or signal.SIGTERM

    def leave_together(self, gather: Callable[[list[Any]], list[Any]], asked: bool) -> None:
        """Raises StoppedError on all processes if one of them is `asked` to leave. All have to call it."""
        everyones = gather([(asked, self.number)])
        if any(one for one, _ in everyones):
            self.agree(next(filter(None, (number for _, number in everyones)), None))
            raise StoppedError

    def set_grace(self, seconds: float) -> None:
        """`seconds`, at most half of those after which torchrun kills: the other half is for a checkpoint."""
        kills_after = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        self.grace = min(seconds, kills_after / 2) if "TORCHELASTIC_RUN_ID" in os.environ else seconds
        if self.grace < seconds and os.environ["RANK"] == "0":
            said = f"--grace {seconds:g} is cut to {self.grace:g}: torchrun kills {kills_after:g} s after a signal; "
            print(f"{said}start it with TORCH_ELASTIC_SHUTDOWN_TIMEOUT=SECONDS in its environment", file=sys.stderr)

    def over(self) -> bool:
        """Whether there was a signal and its grace is over, here or on another process."""
        from torch import distributed

        over = self.number is not None and time.monotonic() >= self._received + self.grace
        if distributed.is_initialized() and not self._over:
            with suppress(RuntimeError):  # the store is gone with torchrun
                store = distributed.distributed_c10d._get_default_store()
                if over:
                    store.set(KEY, str(self.number))
                if over := store.check([KEY]):
                    self.number = self.number or int(store.get(KEY))
        self._over = self._over or over
        return self._over

    def check(self) -> None:
        """Raises StoppedError when it is time to leave what this process does by itself."""
        if self.over():
            raise StoppedError


def _default_actions() -> None:
    signal.set_wakeup_fd(-1)
    for number in STATUS:
        signal.signal(number, signal.SIG_DFL)


STOP = StopSignal()
"""One for the process, as its signals are."""
