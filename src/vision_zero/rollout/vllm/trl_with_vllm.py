"""TRL's modules for vLLM, loaded again with vLLM in them: TRL was imported without (`trainer.trl_without_vllm`)."""

import importlib

from trl.generation import vllm_client, vllm_generation

VLLMClient = importlib.reload(vllm_client).VLLMClient
VLLMGeneration = importlib.reload(vllm_generation).VLLMGeneration

__all__ = ["VLLMClient", "VLLMGeneration", "vllm_generation"]
