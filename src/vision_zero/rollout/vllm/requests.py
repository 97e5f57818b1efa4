"""What every vLLM engine is asked, in this process or behind HTTP: prompts and sampling parameters of a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import chat_text, end_ids, placeholder_ids, without_adapter_wrapper

BANNED_BIAS = -100.0
TEXT = "the text of a turn"


class Questions:
    """Turns in vLLM's words. The engine has the temperature in its logits (`vllm_temperature`)."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> None:
        self.processor = processor
        self.sampling = sampling
        inner = without_adapter_wrapper(model)
        self._bias = dict.fromkeys(placeholder_ids(processor, inner), BANNED_BIAS)
        self._ends = end_ids(processor, inner)
        # What the chat template puts before and after a text. Running it for every prompt would cost as much as reading
        # the prompt into tokens.
        self._around = chat_text(processor, TEXT).split(TEXT)

    def prompt_ids(self, request: TurnRequest) -> list[int]:
        """With one placeholder for the image, as the tokenizer leaves it: vLLM expands it."""
        return self.processor.tokenizer(request.prompt.text.join(self._around))["input_ids"]

    def expanded_ids(self, request: TurnRequest) -> list[int]:
        """What training makes of the prompt."""
        text = chat_text(self.processor, request.prompt.text)
        return self.processor(text=[text], images=[[request.image]])["input_ids"][0]

    def parameters(self, request: TurnRequest) -> dict[str, Any]:
        """Arguments of vLLM's `SamplingParams`: one log-probability per token, that of the token itself."""
        return {
            "temperature": 1.0 if self.sampling.temperature else 0.0,  # the rest of it is in the logits
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "seed": request.seed,
            "min_tokens": request.limits.minimum,
            "max_tokens": request.limits.maximum,
            "stop_token_ids": self._ends,
            "logit_bias": self._bias,
            "logprobs": 0,
            "detokenize": False,
        }

    def text(self, tokens: Sequence[int]) -> str:
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)


@dataclass(frozen=True)
class EngineOptions:
    """How a vLLM engine is built. `max_num_seqs` is the number of replies it works on at once, `tensor_parallel_size`
    the number of processes that share it.

    `more` goes to vLLM's `LLM` as it is, over everything else.
    """

    max_num_seqs: int
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    dtype: str = "auto"
    enforce_eager: bool = False
    sleep: bool = False
    model_impl: str = "vllm"
    trust_remote_code: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
