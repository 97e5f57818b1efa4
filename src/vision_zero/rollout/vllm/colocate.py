"""Policy of a vLLM engine inside the training process, alone or shared by a group of processes (tensor parallelism).

Differences to TRL 1.16 and their reasons:

* A prompt has one placeholder per image, as the tokenizer leaves it, because vLLM expands it. TRL passes expanded
  prompts, which are expanded again (trl#6294): nothing is learnt and nothing complains.
* New weights clear the vision encoder's cache too (trl#7198): images would keep the features of the old weights.
* Image and video placeholders are never sampled; a sampled one crashes the training forward.
* Every turn has its own seed, so its tokens do not depend on the rest of the batch (float32).
* The engine's logits are divided by the temperature, so that its log-probabilities are those of training: log
  softmax(logits / temperature), whatever top-k and banned tokens exclude.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from peft import PeftModel
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin
from vllm import LLM, SamplingParams
from vllm.model_executor.layers import utils as vllm_layers
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.utils.network_utils import get_open_port

from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.policy import NotFiniteError, PromptTooLongError, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.stopping import STOP, StoppedError
from vision_zero.rollout.vllm.requests import EngineOptions, EnginePolicy, unexpanded_prompt_ids
from vision_zero.rollout.vllm.temperature import put_temperature_into_logits
from vision_zero.rollout.vllm.trl_with_vllm import VLLMGeneration, vllm_generation
from vision_zero.types import Completion

BATCHED_TOKENS = 4096  # TRL's maximum of tokens per step of the engine
Pixels = dict[str, tuple[tuple[int, int], bytes]]  # size and RGB bytes of images, by key


class ColocatedEngine(VLLMGeneration):
    """TRL's engine with its weight sync, but our arguments and requests."""

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
            max_model_length=options.max_model_length or -1,  # the model's own, or what the memory holds of it
            max_num_seqs=options.max_num_seqs,
            enable_sleep_mode=options.sleep,
            model_impl=options.model_impl,
            trust_remote_code=options.trust_remote_code,
        )
        put_temperature_into_logits(self.inner_model, sampling.temperature)

    def _init_vllm(self) -> None:
        """TRL's method, with our arguments added where it calls `LLM`."""
        ours: dict[str, Any] = {
            "dtype": self.options.dtype,
            "enforce_eager": self.options.enforce_eager,
            "logprobs_mode": "raw_logprobs",
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "mm_processor_kwargs": image_size_arguments(self.processing_class),
            "generation_config": "vllm",  # not the model's own file for parameters that are not given
            "quantization": None,  # TRL's would be that of a model in 4 bits, whose weights are sent written out
        }
        if current_platform.is_cpu():
            # A prompt computed in chunks needs a random generator that can be reset, which a CPU's cannot.
            longest = self.options.max_model_length or self.model.config.get_text_config().max_position_embeddings
            ours |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(BATCHED_TOKENS, longest)}
        ours |= self.options.more
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine must be in this process to get weights
        if self.accelerator.num_processes == 1:  # two runs on one machine need two ports
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
    def dtype(self) -> str:
        return str(self.engine.model_config.dtype)

    @property
    def inner_model(self) -> torch.nn.Module:
        return self.engine.model_executor.driver_worker.model_runner.model

    def policy(self) -> VLLMPolicy | TensorParallelPolicy:
        policy = VLLMPolicy(self.engine, self.model, self.processing_class, self.sampling)
        return policy if self.options.tensor_parallel_size == 1 else TensorParallelPolicy(policy, self.tp_group)

    def sync_weights(self) -> None:
        """Load the weights of the training model and clear what was computed with the old ones."""
        super().sync_weights()
        self.engine.reset_encoder_cache()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Context of a whole rollout, after `sync_weights`; the engine's memory is freed at its end."""
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
    """Stop vLLM from packing linear weights for its CPU kernels: packed weights cannot be updated."""

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    vllm_layers.dispatch_cpu_unquantized_gemm = plain


def image_size_arguments(processor: ProcessorMixin) -> dict[str, Any]:
    """Bounds of an image's pixels or tiles for the engine's own processor, for families that have some."""
    image_processor = processor.image_processor
    if getattr(image_processor, "max_patches", None):
        return {"max_patches": image_processor.max_patches}
    size = dict(image_processor.size)
    return {"size": size} if "longest_edge" in size else {}


class VLLMPolicy(EnginePolicy):
    """Policy of a vLLM engine (`llm.llm_engine`). `submit` raises PromptTooLongError before the engine has the turn."""

    def __init__(self, engine: Any, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> None:
        super().__init__(model, processor, sampling)
        self.engine = engine

    def _new_prompt(self, request: TurnRequest) -> Any:
        ids = unexpanded_prompt_ids(self.processor, request)
        self._check_length(request, len(ids))
        prompt = {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": request.image},
            "multi_modal_uuids": {"image": [request.image.key]},
        }
        return self.engine.renderer.render_cmpl([prompt])[0]

    def _send(self, name: str, request: TurnRequest, prompt: Any) -> None:
        self._check_length(request, len(prompt["prompt_token_ids"]))  # with the image's tokens
        parameters = self._sampling_params(request)
        self.engine.add_request(name, prompt, SamplingParams(**parameters, output_kind=RequestOutputKind.FINAL_ONLY))

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        done: list[tuple[TurnRequest, Completion]] = []
        while self._waiting and not done:
            finished = [output for output in self.engine.step() if output.finished]
            done += [(self._waiting.pop(output.request_id)[0], self._completion(output)) for output in finished]
        return done

    def _check_length(self, request: TurnRequest, n_prompt: int) -> None:
        most = self.engine.model_config.max_model_len
        if n_prompt + request.token_limits.maximum > most:
            raise PromptTooLongError(
                f"game {request.game.index}, pair {request.game.pair.id}: a prompt of {n_prompt} tokens and a "
                f"completion of up to {request.token_limits.maximum} are more than the engine holds, {most}"
            )

    def _completion(self, output: Any) -> Completion:
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"the engine ended a completion with {completion.finish_reason!r} instead of an end")
        tokens = tuple(completion.token_ids)
        logprobs = tuple(at[token].logprob for at, token in zip(completion.logprobs, tokens, strict=True))
        if any(map(math.isnan, logprobs)):
            raise NotFiniteError("the log-probabilities of the engine are not finite")
        return self._counted(output.prompt_token_ids, tokens, logprobs, output.num_cached_tokens)


class TensorParallelPolicy:
    """Policy of an engine that is spread over the processes of `group`, without a queue.

    Each process must submit the same turns in the same order. So every call gathers the turns of all processes, and
    returns a process the completions of its own. All must call equally often, as they do with equal numbers of games.
    Counters are an even share of the group's, so that their sum over processes counts every token once.
    """

    prefilled_tokens = reused_tokens = new_tokens = 0.0

    def __init__(self, policy: VLLMPolicy, group: torch.distributed.ProcessGroup) -> None:
        self.policy = policy
        self.group = group
        self.rank = torch.distributed.get_rank(group)
        self.size = torch.distributed.get_world_size(group)
        self._images: dict[str, GameImage] = {}
        self._sent: set[str] = set()

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        gathered: list[tuple[list[TurnRequest], Pixels, bool]] = [([], {}, False)] * self.size
        # A pickled `GameImage` has no pixels: each process sends those of an image once.
        new = {request.image.key: request.image for request in requests if request.image.key not in self._sent}
        self._sent |= new.keys()
        new_pixels = {key: (image.size, image.tobytes()) for key, image in new.items()}
        own = (list(requests), new_pixels, STOP.over())
        torch.distributed.all_gather_object(gathered, own, self.group)
        if any(stopped for *_, stopped in gathered):
            raise StoppedError
        group_requests: list[TurnRequest] = []
        for some, pixels, _ in gathered:
            for key, (size, data) in pixels.items():
                self._images.setdefault(key, GameImage(key, Image.frombytes("RGB", size, data)))
            group_requests += [replace(request, image=self._images[request.image.key]) for request in some]
        completions = self.policy.answer(group_requests)
        for counter in ("prefilled_tokens", "reused_tokens", "new_tokens"):
            setattr(self, counter, getattr(self.policy, counter) / self.size)
        start = sum(len(some) for some, *_ in gathered[: self.rank])
        return completions[start : start + len(requests)]
