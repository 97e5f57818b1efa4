"""A GRPOTrainer whose model plays: by itself, through a vLLM engine in this process, or through a vLLM server.

TRL's own engine is not started, because it is not correct for images (`rollout.vllm` says why). How weights reach an
engine, and the correction for what it sampled with other rounding, stay TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from trl.models.utils import unwrap_model_for_generation

from vision_zero.rollout.image_cache import ImageMemo, NumberedImages
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.trainer.checkpointing import ResumableTrainer
from vision_zero.trainer.frozen_vision import FrozenTower

if TYPE_CHECKING:
    from vision_zero.rollout.vllm.colocate import SharedEnginePolicy, VLLMPolicy
    from vision_zero.rollout.vllm.server import ServerPolicy

    ModelPolicy = TransformersPolicy | VLLMPolicy | SharedEnginePolicy | ServerPolicy

LOGP_DIFFERENCE = "sampling/sampling_logp_difference/mean"
"""TRL's mean of |log-prob of the engine - log-prob of the model that trains| over the sampled tokens."""

OTHER_SERVER = "Start the server again with run_scripts/vllm_server.sh and continue with --resume"
"""What a user can do about a server that was lost."""

SHORTER_PROMPTS = (
    "Raise --vllm_max_model_length, or give fewer civilians or rounds, shorter replies (--max_clue_tokens, "
    "--max_vote_tokens) or smaller images (--max_pixels), and continue with --resume"
)


class SamplingMismatchError(RuntimeError):
    """The replies were not sampled by the policy that trains."""


class PlayingModel(ResumableTrainer):
    """`args` is an `IterativeSPOConfig`. A subclass that was given `use_vllm` calls `start_engine` when it is built."""

    memo: ImageMemo
    images: NumberedImages
    frozen: FrozenTower | None

    @contextmanager
    def playing(self) -> Iterator[ModelPolicy]:
        """The model that is trained as a player, with its weights of this step, for one rollout."""
        if self.args.use_vllm:
            self._sync_engine()
            self._last_loaded_step = self.state.global_step  # so that TRL does not do it again
            with self.vllm_generation.awake():
                yield self.vllm_generation.policy()
            return
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as unwrapped,
            self.accelerator.autocast() if self.args.bf16 or self.args.fp16 else nullcontext(),
            # What a frozen tower makes of an image in the rollout is kept for the update.
            nullcontext() if self.frozen is None else self.memo.by_number(self.images),
        ):
            yield TransformersPolicy(
                unwrapped, self.processing_class, self.args.sampling(), max_batch=self.args.rollout_batch_size
            )

    def _sync_engine(self) -> None:
        lost: VLLMServerError | None = None
        try:
            self.vllm_generation.sync_weights()
        except VLLMServerError as error:
            lost = error
        self.stop_if_any(lost, VLLMServerError, OTHER_SERVER)

    def start_engine(self) -> None:
        """An engine, here or behind a server. From here on TRL corrects for what it samples with other rounding."""
        common = (self.model, self.accelerator, self.processing_class, self.args.sampling())
        # vLLM takes seconds to import, and is not installed everywhere.
        if self.args.vllm_mode == "server":
            from vision_zero.rollout.vllm import server

            self.vllm_generation = server.ServerEngine(*common, self.args.server_options())
        else:
            from vision_zero.rollout.vllm import colocate

            self.vllm_generation = colocate.ColocatedEngine(*common, self.args.engine_options())
        self.use_vllm = True

    def stop_if_sampled_by_another(self) -> None:
        """Raises SamplingMismatchError, on all processes alike, before a step is taken on tokens of another policy."""
        gaps = self._metrics["train"].get(LOGP_DIFFERENCE)
        if gaps and not gaps[-1] <= self.args.max_logp_difference:
            raise SamplingMismatchError(
                f"the engine's log-probabilities are {gaps[-1]:.3f} per token away from those of the model that trains "
                f"(allowed: max_logp_difference={self.args.max_logp_difference}). That is no rounding: the engine has "
                "other weights, other images or another prompt, and nothing would be learnt. Nothing of this step was "
                "trained; --resume goes on from the last checkpoint, --use_vllm False without the engine"
            )
