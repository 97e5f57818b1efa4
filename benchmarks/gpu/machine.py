"""Description of this machine, and the rates of two simple programs beside the peak rates used for the floors."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from vision_zero.plan import cost as floors

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "numpy",
    "flash-attn",
    "vllm",
)


def measure_machine() -> dict[str, Any]:
    line: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    if not torch.cuda.is_available():
        return line | {"card": None, "processor": platform.machine(), "matmul_tflops": _matmul_flops(256) / 1e12}
    properties = torch.cuda.get_device_properties(0)
    card = floors.card_of(properties.name)
    print(torch.cuda.get_device_properties(0), file=sys.stderr)
    return line | {
        "card": properties.name,
        "memory_gib": properties.total_memory / floors.GIB,
        "cuda": torch.version.cuda,
        "peak_tflops": card.flops / 1e12 if card else None,
        "peak_gb_per_s": card.bandwidth / 1e9 if card else None,
        "matmul_tflops": _matmul_flops(8192) / 1e12,
        "copy_gb_per_s": _copy_bytes() / 1e9,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _seconds(work: Callable[[], object], times: int = 10) -> float:
    """Seconds of one call of `work`, after three to warm up."""
    for _ in range(3):
        work()
    _wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    _wait()
    return (time.perf_counter() - start) / times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _matmul_flops(n: int) -> float:
    """FLOP/s of a square product of random numbers, bfloat16 on a GPU."""
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / _seconds(lambda: a @ b)


def _copy_bytes() -> float:
    """Bytes read and written per second by a copy of 4 GB inside the card's memory."""
    a = torch.empty(2**31, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / _seconds(lambda: b.copy_(a))
