"""A vLLM engine that starts without weight files: it gets the trainer's weights before the first turn.

vLLM's own `load_format="dummy"` also overwrites buffers that no later weight restores: the mean and deviation with
which Qwen2.5-VL normalises pixels inside the engine. Images would then be seen as grey, 0.5 per token away in
log-probability, and the trainer refuses such an engine. This loader leaves buffers alone.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

LOAD_FORMAT = "weights_come_later"


@register_model_loader(LOAD_FORMAT)
class WeightsComeLater(DummyModelLoader):
    def load_weights(self, model: Any, model_config: Any) -> None:
        for parameter in model.parameters():
            parameter.data.zero_()
