"""TRL's modules for vLLM, loaded again with vLLM in them: TRL was imported without (`trainer.trl_without_vllm`)."""

import importlib
from collections.abc import Iterator

import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor
from trl.generation import vllm_client, vllm_generation

from vision_zero.models import in_hub_layout
from vision_zero.rollout.lora import adapter_parameters, merged_parameters
from vision_zero.rollout.transformers_policy import without_adapter_wrapper

VLLMClient = importlib.reload(vllm_client).VLLMClient
importlib.reload(vllm_generation)

__all__ = ["VLLMClient", "VLLMGeneration", "vllm_generation"]


class VLLMGeneration(vllm_generation.VLLMGeneration):
    """TRL's, except that weights have the Hub's names and layout, and that a LoRA adapter is merged beside the model:
    the frozen weights stay as they were published.
    """

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        weights = super()._iter_named_params()
        if isinstance(self.model, PeftModel):
            merged = merged_parameters(self.model, self._dist.gather_params)
            plain = ((name, one.full_tensor() if isinstance(one, DTensor) else one) for name, one in merged)  # FSDP's
            weights = ((self._fix_param_name_to_vllm(name), weight) for name, weight in plain)
        yield from in_hub_layout(without_adapter_wrapper(self.model), weights)

    def iter_adapter(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights of the LoRA adapter alone, under the Hub's names of its layers."""
        weights = adapter_parameters(self.model, self._dist.gather_params)
        yield from in_hub_layout(without_adapter_wrapper(self.model), weights)
