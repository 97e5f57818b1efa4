"""Temperature where vLLM makes logits, so that its raw log-probabilities are log softmax(logits / temperature).

That is what training computes. vLLM itself divides by the temperature only when it samples: its raw log-probabilities
are those of temperature 1, and its processed ones leave out what top-k, top-p and banned tokens leave out.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.logits_processor import LogitsProcessor


def logit_makers(model: Any) -> list[LogitsProcessor]:
    """The layers of a model inside a vLLM worker that make its logits."""
    return [module for module in model.modules() if isinstance(module, LogitsProcessor)]


def put_temperature_into_logits(model: Any, temperature: float) -> None:
    """Divide the logits of `model`, the one inside a vLLM worker, by `temperature` (0: greedy, divided by 1) for good.

    Raises RuntimeError for a model that makes its logits elsewhere.
    """
    makers = logit_makers(model)
    if not makers:
        raise RuntimeError(f"{type(model).__name__} has no place where logits are made")
    for maker in makers:
        maker.scale = float(maker.scale) / (temperature or 1.0)


class TemperatureWorker:
    """What a server's workers can do beside their own (`vllm serve --worker-extension-cls`)."""

    temperature_in_logits = 1.0
    model_runner: Any

    def sample_at(self, temperature: str) -> dict[str, float]:
        """From now on logits are divided by `temperature`, instead of by what an earlier call said."""
        put_temperature_into_logits(
            self.model_runner.get_model(), (float(temperature) or 1.0) / self.temperature_in_logits
        )
        self.temperature_in_logits = float(temperature) or 1.0
        return {"temperature": self.temperature_in_logits}
