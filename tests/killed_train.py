"""`python tests/killed_train.py WHERE STEP [options of vision_zero.train]`: a run that is killed at a chosen moment.

WHERE, each while checkpoint-STEP is being saved: `model` (weights are there, our state is not), `mark` (all but the
mark that it is complete is there), `rotation` (it is complete, an old one lost its mark and is half removed).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vision_zero import run_folder


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_if(condition: Callable[[Path], bool], function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(path: Path, *arguments: Any) -> Any:
        if condition(Path(path)):
            die()
        return function(path, *arguments)

    return wrapped


def arrange(where: str, checkpoint: str) -> None:
    if where == "model":
        run_folder.write_json = die_if(
            lambda path: path.parent.name == checkpoint and (path.parent / "model.safetensors").exists(),
            run_folder.write_json,
        )
    elif where == "mark":
        run_folder.mark_complete = die_if(lambda path: path.name == checkpoint, run_folder.mark_complete)
    elif where == "rotation":
        new = f"{checkpoint}/COMPLETE"

        def half_removed(old: Path) -> None:
            if (old.parent / new).exists():
                (old / "model.safetensors").unlink()
                die()
            remove(old)

        remove = run_folder.shutil.rmtree
        run_folder.shutil = SimpleNamespace(**{**vars(run_folder.shutil), "rmtree": half_removed})
    else:
        raise SystemExit(f"unknown place {where!r}")


if __name__ == "__main__":
    _, where, step, *sys.argv[1:] = sys.argv
    arrange(where, f"checkpoint-{step}")
    runpy.run_module("vision_zero.train", run_name="__main__", alter_sys=True)
