"""TRL's modules for vLLM, loaded with vLLM in them.

Whoever imported TRL's GRPOTrainer first did so without (`trainer.trl_without_vllm`), so these are loaded again.
"""

import importlib

from trl.generation import vllm_client, vllm_generation

vllm_client = importlib.reload(vllm_client)
vllm_generation = importlib.reload(vllm_generation)

VLLMClient = vllm_client.VLLMClient
VLLMGeneration = vllm_generation.VLLMGeneration

__all__ = ["VLLMClient", "VLLMGeneration", "vllm_generation"]
