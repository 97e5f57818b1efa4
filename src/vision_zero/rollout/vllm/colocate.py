"""A policy that is a vLLM engine inside the training process, fed through the engine's own queue.

What stock TRL 1.16 does not do, and what happens without it:

* The prompt is handed over with one placeholder per image, as the tokenizer leaves it, because vLLM expands it. Stock
  TRL hands over expanded ones, which are expanded again (trl#6294): nothing is learnt and nothing complains.
* After new weights the vision encoder's cache is dropped too (trl#7198): images would be seen with the old weights.
* Image and video placeholders are never sampled; a sampled one crashes the training forward.
* Every turn has its own seed, so what is sampled does not depend on what else is in the batch (float32).
* Temperature is applied where the engine makes logits, so that the log-probabilities it returns are those that training
  computes: log softmax(logits / temperature), whatever top-k and banned tokens leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch.distributed
from PIL import Image

from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.policy import TurnRequest
from vision_zero.types import Completion

if TYPE_CHECKING:
    pass

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin
from vllm import LLM, SamplingParams
from vllm.model_executor.layers import utils as vllm_layers
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.utils.network_utils import get_open_port

from vision_zero.rollout.policy import PromptTooLongError, QueuedPolicy
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.vllm.requests import EngineOptions, RequestBuilder
from vision_zero.rollout.vllm.temperature import put_temperature_into_logits
from vision_zero.rollout.vllm.trl_with_vllm import vllm_generation

BATCHED_TOKENS = 4096
"""TRL's number of tokens that one step of the engine takes at most."""


class ColocatedEngine(vllm_generation.VLLMGeneration):
    """TRL's engine with its weight sync; how it is built and asked is ours."""

    def __init__(
        self,
        model: PreTrainedModel,
        accelerator: Accelerator,
        processor: ProcessorMixin,
        sampling: Sampling,
        options: EngineOptions,
    ) -> None:
        self.sampling = sampling
        self.options = options
        if current_platform.is_cpu():
            keep_plain_weights_on_cpu()
        super().__init__(
            model=model,
            accelerator=accelerator,
            processing_class=processor,
            tensor_parallel_size=options.tensor_parallel_size,
            gpu_memory_utilization=options.gpu_memory_utilization,
            max_model_length=options.max_model_length,
            max_num_seqs=options.max_num_seqs,
            enable_sleep_mode=options.sleep,
            model_impl=options.model_impl,
            trust_remote_code=options.trust_remote_code,
        )
        put_temperature_into_logits(self.inner_model, sampling.temperature)

    def _init_vllm(self) -> None:
        """TRL's, with our arguments over its own where it calls `LLM`."""
        ours: dict[str, Any] = {
            "dtype": self.options.dtype,
            "enforce_eager": self.options.enforce_eager,
            "logprobs_mode": "raw_logprobs",
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "mm_processor_kwargs": image_size_arguments(self.processing_class),
            "generation_config": "vllm",  # else values of the model's own file would stand in for what is not given
        }
        if current_platform.is_cpu():
            # A prompt that is computed in pieces needs a generator that can be set back, which a CPU's cannot.
            longest = self.options.max_model_length or self.model.config.get_text_config().max_position_embeddings
            ours |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(BATCHED_TOKENS, longest)}
        ours |= self.options.more
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are loaded into the engine of this process
        if self.accelerator.num_processes == 1:  # else two runs on one machine would want the same port
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_open_port())}
        stock = vllm_generation.LLM
        vllm_generation.LLM = lambda **arguments: LLM(**{**arguments, **ours})
        try:
            super()._init_vllm()
        finally:
            vllm_generation.LLM = stock

    @property
    def engine(self) -> Any:
        return self.llm.llm_engine

    @property
    def inner_model(self) -> torch.nn.Module:
        """The model inside the engine."""
        return self.engine.model_executor.driver_worker.model_runner.model

    def policy(self) -> VLLMPolicy | TensorParallelPolicy:
        policy = VLLMPolicy(self.engine, self.model, self.processing_class, self.sampling)
        return policy if self.options.tensor_parallel_size == 1 else TensorParallelPolicy(policy, self.tp_group)

    def sync_weights(self) -> None:
        """The weights of the model that trains, and nothing kept that was computed with others."""
        super().sync_weights()
        self.engine.reset_encoder_cache()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """For a whole rollout, after `sync_weights`: memory is given back when it ends, not after every call."""
        if self.options.tensor_parallel_size > 1 and isinstance(self.model, PeftModel):
            # Small all-reduces of adapters and the engine's first collective can meet and hang (trl#3671).
            self.accelerator.wait_for_everyone()
        if self.options.sleep:
            self.llm.wake_up(tags=["kv_cache"])
        try:
            yield
        finally:
            if self.options.sleep:
                self.llm.sleep(level=2)
                self._llm_weights_sleeping = True


def keep_plain_weights_on_cpu() -> None:
    """vLLM packs linear weights for its CPU kernels; packed ones take no new weights, so training would never show."""

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    vllm_layers.dispatch_cpu_unquantized_gemm = plain


def image_size_arguments(processor: ProcessorMixin) -> dict[str, Any]:
    """Bounds of an image's pixels, for families that resize: the engine has a processor of its own."""
    size = dict(processor.image_processor.size)
    return {"size": size} if set(size) == {"shortest_edge", "longest_edge"} else {}


class VLLMPolicy(QueuedPolicy):
    """Answers turns with a vLLM engine (`llm.llm_engine`) whose logits have the temperature in them.

    Counters over the policy's life: `prefilled_tokens` of prompts were computed, `reused_tokens` were in the prefix
    cache, `new_tokens` were sampled.
    """

    def __init__(self, engine: Any, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> None:
        self.engine = engine
        self.prefilled_tokens = self.reused_tokens = self.new_tokens = 0
        self._requests = RequestBuilder(model, processor, sampling)
        self._waiting: dict[str, TurnRequest] = {}
        self._n_submitted = 0
        self._last: tuple[tuple[str, str], Any] | None = None

    def submit(self, request: TurnRequest) -> None:
        """Raises PromptTooLongError, before the engine is asked."""
        prompt = self._prompt(request)
        self._check_length(request, len(prompt["prompt_token_ids"]))  # with the image's tokens
        name = str(self._n_submitted)
        self._n_submitted += 1
        self._waiting[name] = request
        self.engine.add_request(name, prompt, self._parameters(request))

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        done: list[tuple[TurnRequest, Completion]] = []
        while self._waiting and not done:
            for output in self.engine.step():
                if output.finished:
                    done.append((self._waiting.pop(output.request_id), self._completion(output)))
        return done

    def _prompt(self, request: TurnRequest) -> Any:
        """What the engine makes of the prompt; once for turns that ask the same, such as the votes of a game."""
        key = (request.image.key, request.prompt.text)
        if self._last is None or self._last[0] != key:
            ids = self._requests.prompt_ids(request)
            self._check_length(request, len(ids))
            prompt = {
                "prompt_token_ids": ids,
                "multi_modal_data": {"image": request.image},
                "multi_modal_uuids": {"image": [request.image.key]},
            }
            self._last = (key, self.engine.renderer.render_cmpl([prompt])[0])
        return self._last[1]

    def _check_length(self, request: TurnRequest, n_prompt: int) -> None:
        most = self.engine.model_config.max_model_len
        if n_prompt + request.token_limits.maximum > most:
            raise PromptTooLongError(
                f"game {request.game.index}, pair {request.game.pair.id}: a prompt of {n_prompt} tokens and a "
                f"completion of up to {request.token_limits.maximum} are more than the engine holds, {most}"
            )

    def _parameters(self, request: TurnRequest) -> SamplingParams:
        return SamplingParams(**self._requests.parameters(request), output_kind=RequestOutputKind.FINAL_ONLY)

    def _completion(self, output: Any) -> Completion:
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"the engine ended a completion with {completion.finish_reason!r} instead of an end")
        tokens = tuple(completion.token_ids)
        logprobs = tuple(at[token].logprob for at, token in zip(completion.logprobs, tokens, strict=True))
        self.new_tokens += len(tokens)
        self.reused_tokens += output.num_cached_tokens
        self.prefilled_tokens += len(output.prompt_token_ids) - output.num_cached_tokens
        return Completion(self._requests.text(tokens), tuple(output.prompt_token_ids), tokens, logprobs)


# --------------------------------------------------------------------------------------------------- tensor parallelism

# Processes that share one engine (tensor parallelism): each of them must hand it the same turns in the same order.
#
# So games advance in lock-step over the processes of a group: each call gathers the turns of all, every process submits
# them, and each keeps the completions to its own.


Pixels = dict[str, tuple[tuple[int, int], bytes]]


class TensorParallelPolicy:
    """The completions of `policy`, whose engine is spread over the processes of `group`.

    All of them must call equally often; they do if each has as many games as the others. Counters are an even share of
    the group's, so that sums over processes count every token once.
    """

    def __init__(self, policy: VLLMPolicy, group: torch.distributed.ProcessGroup) -> None:
        self.policy = policy
        self.group = group
        self.rank = torch.distributed.get_rank(group)
        self.size = torch.distributed.get_world_size(group)
        self._images: dict[str, GameImage] = {}
        self._told: set[str] = set()

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        gathered: list[tuple[list[TurnRequest], Pixels]] = [([], {})] * self.size
        torch.distributed.all_gather_object(gathered, (list(requests), self._new_pixels(requests)), self.group)
        everyones = []
        for theirs, pixels in gathered:
            for key, (size, data) in pixels.items():
                self._images.setdefault(key, GameImage(key, Image.frombytes("RGB", size, data)))
            everyones += [replace(request, image=self._images[request.image.key]) for request in theirs]
        completions = self.policy.answer(everyones)
        start = sum(len(theirs) for theirs, _ in gathered[: self.rank])
        return completions[start : start + len(requests)]

    @property
    def new_tokens(self) -> float:
        return self.policy.new_tokens / self.size

    @property
    def prefilled_tokens(self) -> float:
        return self.policy.prefilled_tokens / self.size

    @property
    def reused_tokens(self) -> float:
        return self.policy.reused_tokens / self.size

    def _new_pixels(self, requests: Sequence[TurnRequest]) -> Pixels:
        """Of images that the group has not heard of from here: a pickled `GameImage` is its key alone."""
        new = {request.image.key: request.image for request in requests if request.image.key not in self._told}
        self._told |= new.keys()
        return {key: (image.size, image.tobytes()) for key, image in new.items()}
