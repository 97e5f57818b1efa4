"""What the workers of a vLLM server on the CPU need so that tests can give them new weights.

vLLM's CPU build packs linear weights when it loads them, and packed ones take no others.
"""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file
from torch.nn.functional import linear
from vllm.model_executor.layers import utils as vllm_layers

from vision_zero.rollout.vllm.temperature import TemperatureWorker


def _plain(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = linear


vllm_layers.dispatch_cpu_unquantized_gemm = _plain  # imported by the workers before the model is loaded


class CPUWorker(TemperatureWorker):
    def load_weights_of(self, file: str) -> None:
        """In place of what NCCL brings: the engine behind it calls `load_weights` with the same names too."""
        self.model_runner.get_model().load_weights(load_file(file).items())
