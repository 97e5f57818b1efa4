"""What the workers of a vLLM server on the CPU need so that tests can give them new weights, and a quicker start.

vLLM's CPU build packs linear weights when it loads them, and packed ones take no others. It spawns two processes, the
engine and its worker, which import it anew for 15 CPU seconds each.
"""

from __future__ import annotations

import os
from typing import Any

from safetensors.torch import load_file
from torch.nn.functional import linear
from vllm.model_executor.layers import utils as vllm_layers
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from vision_zero.rollout.vllm.temperature import TemperatureWorker


def _plain(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = linear


vllm_layers.dispatch_cpu_unquantized_gemm = _plain  # imported by the workers before the model is loaded


_check_and_update_config = CpuPlatform.check_and_update_config


def _check_and_fork(config: Any) -> None:
    _check_and_update_config(config)
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"


CpuPlatform.check_and_update_config = staticmethod(
    _check_and_fork
)  # by the server, which looks the executor up before that


class EngineAndWorker(UniProcExecutor):
    """Executor whose worker lives in the engine's process."""


class CPUWorker(TemperatureWorker):
    def load_weights_of(self, file: str) -> None:
        """In place of what NCCL brings: the engine behind it calls `load_weights` with the same names too."""
        self.model_runner.get_model().load_weights(load_file(file).items())
