"""What policies of vLLM engines have in common: prompts and sampling parameters of turns; the options of an engine."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.rollout.image_store import chat_text, special_tokens
from vision_zero.rollout.policy import QueuedPolicy, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import end_ids, placeholder_ids, without_adapter_wrapper
from vision_zero.types import Completion

BANNED_BIAS = -100.0


def unexpanded_prompt_ids(processor: ProcessorMixin, request: TurnRequest) -> list[int]:
    """Token ids with one placeholder for the image, which vLLM expands."""
    text = chat_text(processor, request.prompt.text)
    return processor.tokenizer(text, **special_tokens(processor, text))["input_ids"]


class EnginePolicy(QueuedPolicy):
    """Policy of an engine whose logits are divided by the temperature. Its counters are `TransformersPolicy`'s."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> None:
        self.processor = processor
        self.sampling = sampling
        self.prefilled_tokens = self.reused_tokens = self.new_tokens = 0
        inner = without_adapter_wrapper(model)
        self._bias = dict.fromkeys(placeholder_ids(processor, inner), BANNED_BIAS)
        self._ends = end_ids(processor, inner)
        self._waiting: dict[str, tuple[TurnRequest, Any]] = {}
        self._names = map(str, count())
        self._last: tuple[tuple[str, str], Any] | None = None

    def submit(self, request: TurnRequest) -> None:
        name, prompt = next(self._names), self._prompt(request)
        self._send(name, request, prompt)
        self._waiting[name] = (request, prompt)

    def _prompt(self, request: TurnRequest) -> Any:
        """The engine's input of a prompt, cached for the next turn with an equal prompt, such as a game's votes."""
        key = (request.image.key, request.prompt.text)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._new_prompt(request))
        return self._last[1]

    @abstractmethod
    def _new_prompt(self, request: TurnRequest) -> Any:
        """The engine's input of a prompt."""

    @abstractmethod
    def _send(self, name: str, request: TurnRequest, prompt: Any) -> None:
        """Give the engine a request, under a `name` of its own."""

    def _sampling_params(self, request: TurnRequest) -> dict[str, Any]:
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

    def _counted(
        self, prompt_ids: Sequence[int], tokens: tuple[int, ...], logprobs: tuple[float, ...], n_cached: int
    ) -> Completion:
        """The completion of these tokens, once they are counted."""
        self.new_tokens += len(tokens)
        self.reused_tokens += n_cached
        self.prefilled_tokens += len(prompt_ids) - n_cached
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(text, tuple(prompt_ids), tokens, logprobs)


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
