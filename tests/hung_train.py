"""`python tests/hung_train.py PLACE [options of vision_zero.train]`: rank 1 hangs.

PLACE: `playing`, or `backward` of the last micro-batch, where the other process waits in the collective of DDP.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from vision_zero.trainer import iterative_spo


def hanging(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if os.environ["RANK"] == "1" and calls == call:
            time.sleep(1000)
        return function(*arguments, **options)

    return wrapped


if __name__ == "__main__":
    _, place, *sys.argv[1:] = sys.argv
    if place == "playing":
        iterative_spo.play = hanging(iterative_spo.play, call=2)
    else:
        torch.Tensor.backward = hanging(torch.Tensor.backward, call=4)  # type: ignore[method-assign]
    runpy.run_module("vision_zero.train", run_name="__main__", alter_sys=True)
