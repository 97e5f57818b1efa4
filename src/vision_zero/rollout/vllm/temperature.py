"""Temperature in vLLM's logits: its raw log-probabilities become log softmax(logits / temperature), as in training.

vLLM itself divides by the temperature only when it samples: its raw log-probabilities are those of temperature 1, and
its processed ones exclude tokens by top-k, top-p and bans.
"""

import uuid
from typing import Any

from vllm.model_executor.layers.logits_processor import LogitsProcessor


def logit_makers(model: Any) -> list[LogitsProcessor]:
    return [module for module in model.modules() if isinstance(module, LogitsProcessor)]


def put_temperature_into_logits(model: Any, temperature: float) -> None:
    """Divide all logits of a worker's model by `temperature` (0: 1). Raises RuntimeError if it has no such layers."""
    makers = logit_makers(model)
    if not makers:
        raise RuntimeError(f"{type(model).__name__} has no place where logits are made")
    for maker in makers:
        maker.scale = float(maker.scale) / (temperature or 1.0)


class TemperatureWorker:
    """Extension of a server's workers (`vllm serve --worker-extension-cls`)."""

    started = uuid.uuid4().hex  # a restarted server has another, and its initial weights
    temperature_in_logits = 1.0
    model_runner: Any

    def sample_at(self, temperature: str) -> dict[str, Any]:
        """Divide logits by `temperature` in place of an earlier call's."""
        put_temperature_into_logits(
            self.model_runner.get_model(), (float(temperature) or 1.0) / self.temperature_in_logits
        )
        self.temperature_in_logits = float(temperature) or 1.0
        return {"temperature": self.temperature_in_logits, "started": self.started}

    def lost_of_adapters(self) -> list[str]:
        """Layers of the newest LoRA adapter that the worker's model lacks; vLLM leaves them out without a word."""
        manager = self.model_runner.lora_manager._adapter_manager
        adapters = manager.list_adapters()  # those before it stay until their place is needed
        return sorted(adapters[max(adapters)].loras.keys() - manager.modules.keys())
