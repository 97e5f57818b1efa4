"""Numbers that must be finite before a weight moves or a checkpoint is believed.

A loss, advantage or weight that is NaN spreads to every weight with the next step, the log shows nothing of it, and
good checkpoints are rotated away by broken ones. So a run stops there, on all processes, and keeps the batch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from vision_zero import ranks, run_folder
from vision_zero.models import first_not_finite
from vision_zero.rollout.policy import NotFiniteError

EMPTY: Mapping[str, Any] = {}
STOPPED = "stopped"
"""Folder of a run for the batch at which it stopped."""


def keep_batch(output_dir: Path, step: int, rank: int, batch: Mapping[str, Any]) -> str:
    """Write the tensors of `batch`, to be looked at with torch.load. Returns a sentence that says where they are."""
    file = output_dir / STOPPED / f"step-{step:06d}-rank-{rank}.pt"
    try:
        with run_folder.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({name: value for name, value in batch.items() if isinstance(value, (torch.Tensor, list))}, file)
    except run_folder.WriteError as error:
        return f" The batch is lost: {error}."
    return f" The batch is kept at {file}."


def how_to_go_on(output_dir: Path, when: str = "", *, slower: bool = False) -> str:
    """How to go on after a stop, and `when`. `slower`: perhaps with a lower learning rate, which is another run's."""
    lower = ", with a lower learning_rate if need be" if slower else when
    try:
        complete = run_folder.complete_checkpoints(output_dir)
    except OSError:  # a lost mount
        return "--resume goes on from the last good checkpoint"
    if not complete:
        return f"There is no checkpoint yet; start again{lower}"
    other = f", or another run{lower}: --model_name_or_path {complete[-1]}" if slower else when
    return f"The last good checkpoint is {complete[-1]}; --resume goes on from it{other}"


def stop_unless_finite(
    trainer: Trainer,
    named: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    batch: Mapping[str, Any] = EMPTY,
) -> None:
    """Stop all processes if a number of one is not finite, and keep its `batch`. Raises NotFiniteError."""
    name = first_not_finite(named.items() if isinstance(named, Mapping) else named)
    ranks.at("")
    bad = torch.tensor(float(name is not None), device=trainer.accelerator.device)
    if not trainer.accelerator.reduce(bad, reduction="sum").item():
        return
    kept = ""
    if name is not None and batch:
        place = (Path(trainer.args.output_dir), trainer.state.global_step, trainer.accelerator.process_index)
        kept = keep_batch(*place, batch)
    found = [one for one in gather_object([(name, kept)]) if one[0]]
    names = ", ".join(sorted({one for one, _ in found}))
    stop_not_finite(trainer, f"{names} is not finite", "".join(sentence for _, sentence in found))


def stop_not_finite(trainer: Trainer, what: str, kept: str = "") -> NoReturn:
    raise NotFiniteError(
        f"after step {trainer.state.global_step}: {what}, so nothing more is trained or saved.{kept} "
        + how_to_go_on(Path(trainer.args.output_dir), slower=True)
    )
