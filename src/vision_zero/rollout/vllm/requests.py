"""Prompts and sampling parameters of a turn as vLLM takes them, and the options of an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.rollout import transformers_policy
from vision_zero.rollout.image_store import chat_text, special_tokens
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import end_ids, placeholder_ids

BANNED_BIAS = -100.0


class RequestBuilder:
    """Prompts and sampling parameters for an engine whose logits are divided by the temperature (`temperature`)."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> None:
        self.processor = processor
        self.sampling = sampling
        inner = transformers_policy.without_adapter_wrapper(model)
        self._bias = dict.fromkeys(placeholder_ids(processor, inner), BANNED_BIAS)
        self._ends = end_ids(processor, inner)
        self.sampled_ids = set(range(inner.config.get_text_config().vocab_size)) - self._bias.keys()

    def unexpanded_prompt_ids(self, request: TurnRequest) -> list[int]:
        """Token ids with one placeholder for the image, which vLLM expands."""
        text = chat_text(self.processor, request.prompt.text)
        return self.processor.tokenizer(text, **special_tokens(self.processor, text))["input_ids"]

    def sampling_params(self, request: TurnRequest) -> dict[str, Any]:
        """Arguments of vLLM's `SamplingParams`: one log-probability per token, that of the token itself."""
        return {
            "temperature": 1.0 if self.sampling.temperature else 0.0,  # the rest of it is in the logits
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "seed": request.seed,
            "min_tokens": request.token_limits.minimum,
            "max_tokens": request.token_limits.maximum,
            "stop_token_ids": self._ends,
            "logit_bias": self._bias,
            "logprobs": 0,
            "detokenize": False,
        }

    def decode(self, tokens: Sequence[int]) -> str:
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)


@dataclass(frozen=True)
class EngineOptions:
    """Options of a vLLM engine: at most `max_num_seqs` completions at once, `tensor_parallel_size` processes share it.

    `more` are arguments of vLLM's `LLM` that override all others.
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
