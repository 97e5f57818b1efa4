"""`python tests/signalled_train.py MOMENT STEP SIGNALS RANKS [options of vision_zero.train]`: a run that gets signals.

MOMENT, each after STEP optimizer steps: `rollout` (its second call of the policy), `update` (the first micro-batch),
`save` (of checkpoint-STEP, before our state is there), `arena` (that after STEP), `load` (of a checkpoint). SIGNALS and
RANKS are separated by commas: every one of these processes gets the signals, a second after each other. The random
generators are moved in every rollout.
"""

from __future__ import annotations

import os
import random
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vision_zero import run_folder
from vision_zero.evaluate.win_rate.callback import ArenaCallback
from vision_zero.rollout.stopping import STOP
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer

_, MOMENT, STEP, SIGNALS, RANKS, *ARGUMENTS = sys.argv
RANK = os.environ.get("RANK", "0")
now: dict[str, Any] = {"rollout": False, "calls": 0, "sent": False, "step": -1}


def send() -> None:
    if now["sent"]:
        return
    now["sent"] = True
    if RANK in RANKS.split(","):
        for name in SIGNALS.split(","):
            os.kill(os.getpid(), signal.Signals[name])
            while STOP.number is None:  # ends the process before training
                time.sleep(0.001)
            time.sleep(1.0 if "," in SIGNALS else 0.0)
    elif MOMENT in ("rollout", "arena"):
        time.sleep(0.5)  # so that it still plays when it hears of it


def before(owner: Any, name: str, then: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        then(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def begin(trainer: Any, *_: Any) -> None:
    random.random()  # noqa: TID251
    torch.rand(1)
    now.update(rollout=True, calls=0, step=trainer.state.global_step)


def called(*_: Any) -> None:
    now["calls"] += 1
    if MOMENT == "rollout" and now["step"] == int(STEP) and now["calls"] == 2:
        send()
    if MOMENT == "arena" and now.get("arena"):
        send()


def updating(trainer: Any, *_: Any, **__: Any) -> None:
    if MOMENT == "update" and trainer.state.global_step == int(STEP):
        send()


def written(path: Path, *_: Any) -> None:
    if MOMENT == "save" and path.parent.name == f"checkpoint-{STEP}":
        send()


def arena(callback: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
    now["arena"] = state.global_step == int(STEP) and state.global_step > 0


def loading(*_: Any) -> None:
    if MOMENT == "load":
        send()


before(IterativeSPOTrainer, "_play", begin)
before(TransformersPolicy, "answer", called)
before(IterativeSPOTrainer, "compute_loss", updating)
before(run_folder, "write_json", written)
before(ArenaCallback, "on_step_end", arena)
before(IterativeSPOTrainer, "_load_optimizer_and_scheduler", loading)
sys.modules.pop("vision_zero.train", None)  # executed again, as the program
sys.argv[1:] = ARGUMENTS
runpy.run_module("vision_zero.train", run_name="__main__", alter_sys=True)
