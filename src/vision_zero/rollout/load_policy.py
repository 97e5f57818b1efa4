"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from vision_zero.models import attention_implementation, check_model, load_model, load_processor
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
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
