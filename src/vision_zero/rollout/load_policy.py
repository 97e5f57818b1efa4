"""Policies of trained models: a checkpoint, export or Hub model loaded to play games."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from tqdm import tqdm

from vision_zero.models import check_model, load_processor, load_trained
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.self_check import check_files, check_player, first_requests, gap_limit
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.types import Completion, Game


@dataclass(frozen=True)
class ModelPlayer:
    """Policy of a model that generates inside the context `around()`, such as autocast or a disabled adapter."""

    policy: TransformersPolicy
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    frozen: bool = False  # so its completions say, which are not to be trained on

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        with self.around():
            return [replace(said, frozen=self.frozen) for said in self.policy.answer(requests)]

    def forget(self) -> None:
        """Clear prompt caches, image features and preprocessed images, before other games or other weights."""
        self.policy.new_weights()
        self.policy.images.clear()


@dataclass(frozen=True)
class Loading:
    sampling: Sampling
    max_batch: int = 256
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: str = "auto"
    use_cpu: bool = False


def load_player(model: str, loading: Loading, game: Game | None = None, template: str = "auto") -> ModelPlayer:
    """The model that `load_trained` loads, tried on a `game`. Raises ValueError or OSError, naming the model."""
    processor = load_processor(check_model(model), loading.min_pixels, loading.max_pixels)
    weights = load_trained(model, dtype=loading.dtype, use_cpu=loading.use_cpu)
    check_files(processor, weights, model)

    def policy() -> TransformersPolicy:
        return TransformersPolicy(weights, processor, loading.sampling, max_batch=loading.max_batch)

    if game is not None:
        tried = first_requests(game, template)
        more = (processor, tried, loading.sampling.temperature, gap_limit(weights))
        line = check_player(model, lambda: nullcontext(policy()), lambda: nullcontext(weights), *more)
        tqdm.write(f"{model}: {line}", file=sys.stderr)
    return ModelPlayer(policy())
