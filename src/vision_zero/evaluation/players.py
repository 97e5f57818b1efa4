"""Models as players of the arena: found by name, loaded from any of the folders that a run leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from vision_zero.checkpoint import BASE_FILE, base_of
from vision_zero.models import attention_implementation, load_model, load_processor
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers import TransformersPolicy
from vision_zero.run_folder import CONFIG, EXPORT, complete_checkpoints, is_complete
from vision_zero.types import Reply


class ModelPlayer:
    """A model that answers inside `around()`, such as autocast or a switched-off adapter."""

    def __init__(
        self, policy: TransformersPolicy, around: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self.policy = policy
        self.around = around

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        with self.around():
            return self.policy.answer(requests)

    def forget(self) -> None:
        """Drop prompt caches, image features and preprocessed images: another set of games comes, or other weights."""
        self.policy.new_weights()
        self.policy.memo.clear()


@dataclass(frozen=True)
class Loading:
    """How models are loaded and how they answer."""

    sampling: Sampling
    max_batch: int = 256
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: str = "auto"
    use_cpu: bool = False

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() and not self.use_cpu else "cpu"


def run_of(model: str) -> Path | None:
    """The run folder that `model` is, or is a checkpoint or an export of; None if it is neither."""
    path = Path(model)
    return next((folder for folder in (path, *path.absolute().parents[:2]) if (folder / CONFIG).is_file()), None)


def step_of(model: str) -> int | None:
    """The optimizer step of a checkpoint or of its export, by its folder's name."""
    path = Path(model)
    name = re.fullmatch(r"checkpoint-(\d+)", path.parent.name if path.name == EXPORT else path.name)
    return int(name[1]) if name else None


def find_models(names: Sequence[str]) -> list[str]:
    """`names`, with every run folder replaced by all its complete checkpoints, oldest first.

    Raises ValueError for a run without a complete checkpoint and for a model that is named twice.
    """
    models: list[str] = []
    for name in names:
        if not (Path(name) / CONFIG).is_file():
            models.append(name)
            continue
        found = complete_checkpoints(Path(name))
        if not found:
            raise ValueError(f"{name} is a run without a complete checkpoint: there is no model to play")
        models += map(str, found)
    if len(set(models)) < len(models):
        raise ValueError(f"a model is named twice: {', '.join(models)}")
    return models


def check_model(model: str) -> str:
    """The folder or Hub name of the files beside the weights, which for a checkpoint are its base model's.

    Raises ValueError or OSError for what is no model, and for a checkpoint of a run that is not complete.
    """
    path = Path(model)
    checkpoint = path.parent if path.name == EXPORT else path
    if step_of(model) is not None and (checkpoint.parent / CONFIG).is_file() and not is_complete(checkpoint):
        raise ValueError(f"{checkpoint} is not complete (it was not saved whole, or is half removed): choose another")
    is_adapter = (path / "adapter_config.json").is_file()
    if path.exists() and not is_adapter and not (path / "config.json").is_file():
        raise ValueError(f"{model} is no model: it has no config.json")
    files = base_of(path) if is_adapter or (path / BASE_FILE).is_file() else model
    if not Path(files).exists():
        load_processor(files)  # from the Hub or its cache
    return files


def load_player(model: str, loading: Loading) -> ModelPlayer:
    """The model of a checkpoint (full or LoRA, which is merged), an export, a folder as on the Hub, or a Hub name.

    Raises ValueError or OSError, which name the model, for what cannot be loaded.
    """
    files = check_model(model)
    is_adapter = (Path(model) / "adapter_config.json").is_file()
    processor = load_processor(files, loading.min_pixels, loading.max_pixels)
    dtype = "float32" if loading.dtype == "auto" and loading.device == "cpu" else loading.dtype
    weights = load_model(
        files if is_adapter else model,
        dtype=dtype,
        attn_implementation=attention_implementation(None, use_cpu=loading.use_cpu),
    )
    if is_adapter:
        weights = PeftModel.from_pretrained(weights, model).merge_and_unload()
    policy = TransformersPolicy(
        weights.to(loading.device).eval(), processor, loading.sampling, max_batch=loading.max_batch
    )
    return ModelPlayer(policy)
