"""The end of the last iteration, saved when a run stops within the next one.

While games are played, stage, averages, counters and random generators move. Weights do not before the first optimizer
step, so a checkpoint of them with what was kept at the iteration's beginning is the one of the last iteration's end.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision_zero import run_folder


class LastIteration:
    """What has moved since by the next optimizer step, kept."""

    def __init__(self, trainer: Any) -> None:
        self.step, self._state = trainer.state.global_step, json.dumps(trainer.state_dict())
        self._counters = trainer.state.num_input_tokens_seen, trainer.state.total_flos, trainer.current_flos
        self._python, self._numpy, self._cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self._gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def put_back(self, trainer: Any) -> None:
        trainer.load_state_dict(json.loads(self._state))
        trainer.state.num_input_tokens_seen, trainer.state.total_flos, trainer.current_flos = self._counters
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)


def save_last_iteration(trainer: Any) -> Path | None:
    """Save the end of the last iteration if no weight has moved since. The newest complete checkpoint, if any."""
    step, folder = trainer.state.global_step, Path(trainer.args.output_dir)
    ended = step and step % trainer.args.optimizer_steps_per_iteration == 0
    if ended and not run_folder.is_complete(run_folder.checkpoint_path(folder, step)):
        if trainer.last_iteration is not None and trainer.last_iteration.step == step:
            trainer.last_iteration.put_back(trainer)
        trainer._save_checkpoint(trainer.model, trial=None)
    return next(reversed(run_folder.complete_checkpoints(folder)), None)


def save_and_say_where(trainer: Any) -> str:
    """`save_last_iteration`, in words; a save that fails too is no reason to forget why the run ends."""
    try:
        saved = save_last_iteration(trainer)
    except run_folder.WriteError as error:
        return f"the run could not be saved: {error}"
    return f"the run was saved at {saved}" if saved else "nothing was trained yet"
