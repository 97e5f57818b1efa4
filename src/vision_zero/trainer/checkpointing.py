"""A GRPOTrainer whose checkpoints can be trusted: whole or not there, and enough to go on exactly.

The mark that a checkpoint is complete is written last, and only complete ones are rotated or resumed. The portable
export is made from a complete checkpoint, beside it.
"""

import json
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, save_fsdp_optimizer
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.trainer import SCHEDULER_NAME

from vision_zero import ranks, run_folder
from vision_zero.export import export_checkpoint
from vision_zero.models import write_base, zero3_disabled
from vision_zero.rollout.self_check import SelfCheckError
from vision_zero.trainer.finite import stop_unless_finite
from vision_zero.trainer.trl_without_vllm import GRPOTrainer


@contextmanager
def _whole_or_removed(checkpoint: Path) -> Iterator[None]:
    try:
        with run_folder.writing(checkpoint):
            yield
    except run_folder.WriteError:
        ranks.blame_others()  # a collective that failed is a RuntimeError, as torch's for a full disk
        with suppress(OSError):  # a lost mount
            if not run_folder.is_complete(checkpoint):
                shutil.rmtree(checkpoint, ignore_errors=True)
        raise


def _is_whole(export: Path, mark: Path) -> bool:
    """Whether an export is there and as it was written. A damaged one is told, and replaced by `export_checkpoint`."""
    try:
        if export.exists():
            run_folder.verify(export, mark)
        return export.exists()
    except run_folder.RunFolderError as error:
        print(f"{error}; it is made again", file=sys.stderr)
        return False


class LastIteration:
    """What moves before the first optimizer step: stage, averages, counters and random generators, kept at the end of
    an iteration. A run that stops within the next one saves it with the weights, which have not moved.
    """

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


def is_saved(trainer: Any, step: int) -> bool:
    """Whether the main process sees its complete checkpoint: a network file system may show others a file late."""
    return bool(trainer.gather([run_folder.is_complete(run_folder.checkpoint_path(trainer.args.output_dir, step))])[0])


def save_last_iteration(trainer: Any) -> Path | None:
    """Save the end of the last iteration if no weight has moved since. The newest complete checkpoint, if any."""
    step, folder = trainer.state.global_step, Path(trainer.args.output_dir)
    ended = step and step % trainer.args.optimizer_steps_per_iteration == 0
    if ended and not is_saved(trainer, step):
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


def split_by_fsdp(trainer: Any) -> None:
    """Let a trainer's model be split by FSDP2, and its checkpoints be what they are without."""
    prepare, save, load = trainer._prepare_for_training, trainer._save, trainer._load_from_checkpoint
    accelerator, plugin = trainer.accelerator, trainer.accelerator.state.fsdp_plugin
    # Else every process adds up whole gradients until the last micro-batch.
    accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True

    def prepare_for_training(max_steps: int, loader: Any, checkpoint: str | None) -> Any:
        if checkpoint is not None:  # into the whole model, in the float32 that accelerate would make later
            for parameter in filter(lambda one: one.requires_grad, trainer.model.parameters()):
                parameter.data = parameter.data.float()
            load(checkpoint)
        # Families name layers, too, that a model of theirs does not have (Gemma 3: SigLIP's for text).
        has = {type(part).__name__ for part in trainer.model.modules()}
        plugin.transformer_cls_names_to_wrap = [one for one in trainer.model._no_split_modules or () if one in has]
        prepared = prepare(max_steps, loader, checkpoint)
        for name, parameter in trainer.model.named_parameters():
            if not isinstance(parameter, DTensor):
                raise SelfCheckError(f"fsdp_config: {name} is not split; use --deepspeed configs/deepspeed/zero3.json")
        head = trainer.model.get_output_embeddings()
        if isinstance(head, FSDPModule):  # TRL takes its weight without calling it; the part of each process would
            trainer.model.register_forward_pre_hook(lambda *_: head.unshard())  # get the gradient of its rows alone
        return prepared

    def save_optimizer_and_scheduler(folder: str) -> None:  # transformers writes a copy of the weights, too
        save_fsdp_optimizer(plugin, accelerator, trainer.optimizer, trainer.model, folder)
        if trainer.args.should_save:
            torch.save(trainer.lr_scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)

    def save_weights(folder: str, state_dict: dict[str, Any]) -> None:  # a tied one (lm_head's) is among them twice
        tied = trainer.model.all_tied_weights_keys
        save(folder, {name: weight for name, weight in state_dict.items() if name not in tied})

    trainer._load_from_checkpoint = lambda *_: None
    trainer._prepare_for_training, trainer._save = prepare_for_training, save_weights
    trainer._save_optimizer_and_scheduler = save_optimizer_and_scheduler


class ResumableTrainer(GRPOTrainer):
    """State of a subclass beside model and optimizer goes through its `state_dict` and `load_state_dict`.

    It has plain values that JSON can hold, equal on all processes.
    """

    last_iteration: LastIteration | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint, our state, and last of all the mark that it is complete. Only then are old ones removed."""
        ranks.at("saving")
        stop_unless_finite(self, self.model.named_parameters())
        folder = run_folder.checkpoint_path(self.args.output_dir, self.state.global_step)
        if self.accelerator.is_main_process:
            run_folder.remove_incomplete(folder)
            run_folder.warn_of_little_space(folder.parent)
        self.accelerator.wait_for_everyone()
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with _whole_or_removed(folder):
                super()._save_checkpoint(model, trial)
                if self.accelerator.is_main_process:
                    run_folder.write_json(
                        folder / run_folder.STATE, {"step": self.state.global_step, **self.state_dict()}
                    )
                    write_base(folder, self.model.config._name_or_path)
                written = self.gather(list(run_folder.files_below(folder)))
                if self.accelerator.is_main_process:
                    run_folder.mark_complete(folder, None, written)
        finally:
            self.args.save_total_limit = keep
        if self.accelerator.is_main_process:
            run_folder.rotate(Path(self.args.output_dir), keep)
            number = self.state.global_step // int(self.args.save_steps)
            is_last = self.state.global_step >= self.state.max_steps
            if is_last or (self.args.export_every and number % self.args.export_every == 0):
                self.export(folder)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: TRL's would name a base model, a method and a paper that are not this run's."""

    def export(self, checkpoint: Path) -> Path:
        """The portable model of a complete checkpoint, in its `export/`. For the main process alone.

        Under ZeRO-3 a model that is split would wait for the other processes.
        """
        target = checkpoint / run_folder.EXPORT
        if _is_whole(target, checkpoint / run_folder.EXPORTED):
            return target
        with zero3_disabled(self.args), run_folder.writing(target):
            export_checkpoint(checkpoint, target)
        return target

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load full weights through `from_pretrained`, which knows the names they are saved under.

        transformers saves weights under the hub's names; its own resume looks for the names inside the model and only
        warns when it finds none, so that training would go on from the base model.
        """
        model = self.model if model is None else model
        if isinstance(model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # float32 holds every precision exactly; each parameter is copied back in its own.
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        model.load_state_dict(saved.state_dict())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Transformers', unless another number of processes saved them: a process would get those of another rank."""
        if checkpoint is None or len([*Path(checkpoint).glob("rng_state*.pth")]) == self.args.world_size:
            super()._load_rng_state(checkpoint)

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """Transformers', whose resumed runs would go on with save_steps and logging_steps of the checkpoint."""
        done = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        return done

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.load_state_dict(json.loads((Path(checkpoint) / run_folder.STATE).read_text("utf-8")))

    def gather(self, values: list[Any]) -> list[Any]:
        """All processes' values, in order of rank."""
        ranks.at("")
        return gather_object(values)

    def first_error(self, error: Exception | None) -> str | None:
        """The message of the first process that met an error, None if none did; the same on all processes."""
        return next((message for message in self.gather([str(error) if error else ""]) if message), None)

    def raise_on_all_ranks(self, error: Exception | None, kind: type[Exception], advice: str) -> None:
        """Stop all processes together, after a checkpoint, if one of them met an `error` of this `kind`."""
        message = self.first_error(error if isinstance(error, kind) else None)
        if message is None:
            return
        raise kind(f"{message}\n{save_and_say_where(self)}. {advice}") from error
