"""TRL's modules for vLLM, loaded again with vLLM in them: TRL was imported without (`trainer.trl_without_vllm`)."""

import importlib
from collections.abc import Iterator

import torch
from peft import PeftModel
from trl.generation import vllm_client, vllm_generation

from vision_zero.rollout.lora import merged_parameters

VLLMClient = importlib.reload(vllm_client).VLLMClient
importlib.reload(vllm_generation)

__all__ = ["VLLMClient", "VLLMGeneration", "vllm_generation"]


class VLLMGeneration(vllm_generation.VLLMGeneration):
    """TRL's, except that a LoRA adapter is merged beside the model: the frozen weights stay as they were published."""

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not isinstance(self.model, PeftModel):
            yield from super()._iter_named_params()
            return
        for name, weight in merged_parameters(self.model, self._dist.gather_params):
            yield self._fix_param_name_to_vllm(name), weight
