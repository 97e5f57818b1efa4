"""Wall-clock seconds and peak memory of parts of a program that hands work to a GPU."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up `seconds` and keeps the highest `peak_bytes` of each named part.

    The GPU is waited for at both ends of a part. On a CPU the peak is that of the process so far.
    """

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    def clear(self) -> None:
        self.seconds.clear()
        self.peak_bytes.clear()

    def now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self) -> float:
        started = self.now()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        return started

    def stop(self, part: str, started: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - started
        if self.on_gpu:
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes[part] = max(peak, self.peak_bytes.get(part, 0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self.start()
        yield
        self.stop(name, started)
