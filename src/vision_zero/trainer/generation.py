"""The model that trains as a player: by itself, through a vLLM engine in this process, or through a vLLM server.

TRL's own engine is not started, because it is not correct for images (`rollout.vllm.colocate` says why). How weights
reach an engine, and the correction for what it samples with other rounding, stay TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, ProcessorMixin
from trl.models.utils import unwrap_model_for_generation

from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.lora import check_adapter
from vision_zero.rollout.transformers_policy import TransformersPolicy, without_adapter_wrapper
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.run_folder import SERVED

if TYPE_CHECKING:
    from vision_zero.rollout.vllm.colocate import ColocatedEngine, TensorParallelPolicy, VLLMPolicy
    from vision_zero.rollout.vllm.server import ServerEngine, ServerPolicy

    ModelPolicy = TransformersPolicy | VLLMPolicy | TensorParallelPolicy | ServerPolicy

START_SERVER_AGAIN = "Start the server again with run_scripts/vllm_server.sh and continue with --resume"
SHORTER_PROMPTS = (
    "Raise --vllm_max_model_length, or give fewer civilians or rounds, shorter completions (--max_clue_tokens, "
    "--max_vote_tokens) or smaller images (--max_pixels), and continue with --resume"
)


@contextmanager
def whole_weights(wrapped: Any, accelerator: Accelerator, **options: Any) -> Iterator[PreTrainedModel]:
    """TRL's `unwrap_model_for_generation`, which gathers the parameters of ZeRO-3, for those of FSDP too.

    All processes enter and leave together; within it they may do unequal numbers of forwards.
    """
    with unwrap_model_for_generation(wrapped, accelerator, **options) as model:
        parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
        if not parts:
            yield model
            return
        model._get_fsdp_state()._lazy_init()  # this is the root, whichever part a player calls first
        groups = [group for part in parts for group in part._get_fsdp_state()._fsdp_param_groups]
        before = [(group, group.post_forward_mesh_info) for group in groups]
        try:
            for part in parts:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            yield model
        finally:
            for group, mesh in before:
                group.post_forward_mesh_info = mesh
            model.reset_iter_state()  # split again, also what a player left in the middle of a forward


class LogprobGapError(RuntimeError):
    """The completions were not sampled by the policy that trains."""


class Generation:
    """Makes the policy of each rollout. `engine` is None unless vLLM plays."""

    def __init__(
        self,
        args: IterativeSPOConfig,
        model: PreTrainedModel,
        accelerator: Accelerator,
        processor: ProcessorMixin,
    ) -> None:
        self.args, self.accelerator, self.processor = args, accelerator, processor
        if (accelerator.distributed_type == DistributedType.FSDP) != bool(args.fsdp):  # it splits on GPUs alone
            kind = accelerator.distributed_type.value
            raise ValueError(
                f"accelerate makes this {kind}: FSDP is --fsdp_config, torchrun and GPUs; else --deepspeed"
            )
        if accelerator.distributed_type == DistributedType.DEEPSPEED and not args.deepspeed:
            raise ValueError("accelerate switched DeepSpeed on; give its file by --deepspeed, and start with torchrun")
        if isinstance(model, PeftModel):
            check_adapter(model)
        self.engine = self._init_vllm(model) if args.use_vllm else None

    def _init_vllm(self, model: PreTrainedModel) -> ColocatedEngine | ServerEngine:
        inner = without_adapter_wrapper(model)
        for one in getattr(inner, "_weight_conversions", None) or ():  # weights are sent one by one
            if hasattr(one, "operations") and len(one.target_patterns) > 1:
                raise ValueError(f"vLLM cannot play {type(inner).__name__}: its {one.target_patterns} are sent as one")
        common = (model, self.accelerator, self.processor, self.args.sampling())
        # vLLM takes seconds to import, and is not installed everywhere.
        if self.args.vllm_mode == "server":
            from vision_zero.rollout.vllm.server import ServerEngine

            return ServerEngine(*common, self.args.server_options(), folder=Path(self.args.output_dir) / SERVED)
        from vision_zero.rollout.vllm.colocate import ColocatedEngine

        return ColocatedEngine(*common, self.args.engine_options())

    def sync_weights(self) -> VLLMServerError | None:
        """Give the engine the weights of this step. Returns the error of a server that was lost."""
        try:
            if self.engine is not None:
                self.engine.sync_weights()
        except VLLMServerError as error:
            return error
        return None

    def metrics(self) -> dict[str, float]:
        """Where vLLM servers play: how many are left."""
        if not self.args.use_vllm or self.args.vllm_mode != "server":
            return {}
        return {"rollout/servers": len(cast("ServerEngine", self.engine).servers.alive)}

    @contextmanager
    def unwrapped(self, model_wrapped: Any) -> Iterator[PreTrainedModel]:
        """The model itself with all its weights, in the precision in which it trains."""
        with (
            whole_weights(
                model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self.accelerator.autocast() if self.args.bf16 else nullcontext(),
        ):
            yield model

    def tower(self, model_wrapped: Any) -> AbstractContextManager[Any]:
        """Around the vision tower called by itself: FSDP gathers in forwards of the whole model alone."""
        return self.unwrapped(model_wrapped) if self.args.fsdp else self.accelerator.autocast()

    @contextmanager
    def policy(self, model_wrapped: Any) -> Iterator[ModelPolicy]:
        """The model as a player for one rollout, with the weights that it has now."""
        if self.engine is not None:
            with self.engine.awake():
                yield self.engine.policy()
            return
        with self.unwrapped(model_wrapped) as unwrapped:
            yield TransformersPolicy(
                unwrapped, self.processor, self.args.sampling(), max_batch=self.args.rollout_batch_size
            )
