"""Policy of vLLM servers on GPUs of their own, over HTTP.

`run_scripts/vllm_server.sh` starts such a server; docs/training.md describes the setup. Every training process sends
its own turns. The main process sends weights once per iteration, with TRL's client over NCCL; or has servers that were
started with --enable-lora load a run's LoRA adapter, alone, from a file of the run's folder.

* A prompt is sent with one placeholder per image and returned expanded. It must equal the trainer's own expansion.
* An image is sent once per rollout to a server and then named by its content; one that has dropped it gets it again.
* The server's workers divide the logits by the temperature (`temperature`), so that log-probabilities are those of
  training.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import prompt_of, without_adapter_wrapper
from vision_zero.rollout.vllm.client import GENERATE, ServerConnection, ServerOptions, VLLMServerError, json_of, reading
from vision_zero.rollout.vllm.requests import EnginePolicy, unexpanded_prompt_ids
from vision_zero.rollout.vllm.servers import Servers
from vision_zero.rollout.vllm.trl_with_vllm import VLLMClient, VLLMGeneration
from vision_zero.types import Completion

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class ServerEngine(VLLMGeneration):
    """Servers of a run, with TRL's weight sync. All processes call its methods, and raise VLLMServerError, together."""

    def __init__(
        self,
        model: PreTrainedModel,
        accelerator: Accelerator,
        processor: ProcessorMixin,
        sampling: Sampling,
        options: Sequence[ServerOptions],
        *,
        folder: Path,
    ) -> None:
        self.sampling, self.folder = sampling, folder
        # Processes begin with another server each, so that few games of each are spread evenly too.
        first = accelerator.process_index % len(options)
        self.servers = Servers([*options[first:], *options[:first]], shown=accelerator.is_main_process)
        self.dtype = self.run = self.adapter = ""
        self._parameters: Iterator[tuple[str, torch.Tensor]] = iter(())
        super().__init__(model=model, accelerator=accelerator, processing_class=processor, mode="server")

    def _init_vllm(self) -> None:
        with self._together():
            if self.accelerator.is_main_process:
                if not isinstance(self.model, PeftModel):
                    self.check_device()  # before a server is waited for
                for server in self.servers.alive:
                    server.wait_until_up()
                about = {one.options.url: check_server(one, self.sampling.temperature) for one in self.servers.alive}
                first = next(iter(about.values()))
                self.dtype = first["dtype"]  # as torch.bfloat16
                if len(set(map(str, about.values()))) > 1:
                    raise VLLMServerError(f"the vLLM servers are not alike: {about}")
                starts = {str(one.workers): one.options.url for one in self.servers.alive}
                for one in self.servers.alive:  # each start is its own, whatever the addresses are called
                    if (url := starts[str(one.workers)]) != one.options.url:
                        raise VLLMServerError(f"{one} is the one at {url}: every server must be one of its own")
                if rank := int(first["max_lora_rank"]):
                    check_served(self.model, rank)
                    self.run = secrets.token_hex(4)
                else:
                    self.check_device()
                    self.vllm_client = self.weight_channel()
        workers = {server.options.url: server.workers for server in self.servers.alive}
        self.dtype, self.run, workers = gather_object([(self.dtype, self.run, workers)])[0]
        for server in self.servers.alive:
            server.workers = workers[server.options.url]

    def check_device(self) -> None:
        """Raises VLLMServerError on a device that cannot send weights."""
        if self.accelerator.device.type != "cuda":
            raise VLLMServerError(
                "vllm_mode=server sends weights over NCCL, which needs a GPU; use vllm_mode=colocate, or LoRA and a "
                "server with --enable-lora"
            )

    def weight_channel(self) -> WeightSender:
        """TRL's client, whose `update_named_params` sends weights to the servers over NCCL."""
        sender = WeightSender(self.servers)
        for client in sender.clients.values():
            client.init_communicator(device=self.accelerator.device)
        return sender

    def policy(self) -> ServerPolicy:
        return ServerPolicy(self.servers, self.model, self.processing_class, self.sampling, self.adapter)

    def sync_weights(self) -> None:
        """Load the weights of the training model and clear what was computed with the old ones, on all processes."""
        with self._together():  # a loss is agreed on before any process gathers split parameters
            if self.accelerator.is_main_process:
                self.servers.each(ServerConnection.check_same)
        with self._together():
            if self.run:
                self._serve_adapter()
            else:
                super().sync_weights()
            if self.accelerator.is_main_process:
                self.servers.each(drop_caches)

    def _serve_adapter(self) -> None:
        """Have the servers load the adapter as it is now, under a new name; they forget the one before."""
        before, number = self.adapter, int(self.adapter.rpartition("-")[2] or 0) + 1
        self._parameters = self.iter_adapter()
        state = {f"base_model.model.{name}": one.cpu().contiguous() for name, one in self._parameters}
        self.adapter = f"{self.run}-{number}"
        if self.accelerator.is_main_process:
            folder = self.folder / f"{number % 2}"  # a server may still look into the one before
            self.model.peft_config[self.model.active_adapter].save_pretrained(folder)
            save_file(state, folder / "adapter_model.safetensors")
            self.servers.each(lambda server: load_adapter(server, self.adapter, folder, before))

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._parameters = super()._iter_named_params()
        return self._parameters

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Context of a whole rollout, after `sync_weights`; requests that are pending at its end are cancelled."""
        try:
            yield
        finally:
            self.servers.cancel()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Context that ends on all processes together, or raises on all. A server that one has lost is lost to all."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            for _ in self._parameters:  # all processes must take part in gathering split parameters
                pass
        known = failure is None or isinstance(failure, VLLMServerError)
        message = str(failure or "") if known else f"{' or '.join(map(str, self.servers.alive))}: {failure!r}"
        gathered = gather_object([(message, self.servers.lost)])
        if said := [one for one, _ in gathered if one]:
            raise VLLMServerError(said[0]) from failure
        lost = {url: reason for _, reasons in gathered for url, reason in reasons.items()}
        for server in [one for one in self.servers.alive if one.options.url in lost]:
            self.servers.lose(server, lost[server.options.url])


class WeightClient(VLLMClient):
    """TRL's client for weights. Its calls are the connection's, so that they end, and nothing is tried again."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        super().__init__(base_url=connection.options.url, group_port=connection.options.group_port)

    def check_server(self, *_: Any, **__: Any) -> None:
        """Nothing: it has been waited for."""

    def get_server_info(self) -> Any:
        return self._get(f"{self.base_url}/server_info?config_format=json")["vllm_config"]

    def _get(self, url: str, **content: Any) -> Any:
        return json_of(self.connection.call("GET", url.removeprefix(self.base_url), **content))

    def _post(self, url: str, **content: Any) -> Any:
        try:
            return json_of(self.connection.call("POST", url.removeprefix(self.base_url), **content))
        except VLLMServerError:
            group, self.communicator = self.communicator, None
            if group:  # a broadcast to a process that is gone would not end
                group.destroy()
            raise


class WeightSender(VLLMClient):
    """TRL's way of sending weights, to several servers: a call goes to all, a packed tensor to the group of each."""

    base_url, _updating_weights = "", False

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.clients = {server: WeightClient(server) for server in servers.alive}
        self.communicator = self

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        """As the communicator of a single group, on the current stream."""
        for server in self.servers.alive:
            if group := self.clients[server].communicator:
                group.broadcast(tensor, src=src)

    def _post(self, path: str, **content: Any) -> None:
        self.servers.each(lambda server: self.clients[server]._post(path, **content))


def check_server(connection: ServerConnection, temperature: float) -> dict[str, str]:
    """The server's model, dtype and vLLM, its temperature set. Raises VLLMServerError for one without our options."""
    info = connection.call("GET", "/server_info", params={"config_format": "json"})
    if info.status_code == 404:
        why = "no development endpoints, without which it would go on seeing images with old weights"
        raise connection.wrong(f"has {why}", "VLLM_SERVER_DEV_MODE=1 in its environment")
    with reading(info.request.url, said := json_of(info)):
        config = said["vllm_config"]["model_config"]
        about, mode = {name: str(config[name]) for name in ("model", "dtype")}, config["logprobs_mode"]
        lora = said["vllm_config"].get("lora_config") or {"max_lora_rank": 0}
        about["max_lora_rank"] = str(int(lora["max_lora_rank"]))
    if mode != "raw_logprobs":
        why = f"logprobs_mode={mode}, which leaves out what top-k and banned tokens leave out, unlike training"
        raise connection.wrong(f"has {why}", "--logprobs-mode raw_logprobs")
    if connection.call("POST", GENERATE, json={}).status_code == 404:
        raise connection.wrong("takes no token ids", "--enable-scale-out")
    version = connection.call("GET", "/version")
    with reading(version.request.url, said := json_of(version)):
        about["vLLM"] = said["version"]
    connection.workers = connection.sample_at(temperature)
    return about


def check_served(model: PreTrainedModel, max_lora_rank: int) -> None:
    """Raises VLLMServerError for weights that servers with --enable-lora do not compute with as training does."""
    without = "start the server without --enable-lora, so that whole weights are sent"
    config = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
    if not isinstance(config, LoraConfig):
        raise VLLMServerError(f"all weights train, and the server has LoRA: {without}")
    others = ("use_dora", "modules_to_save", "target_parameters", "rank_pattern", "alpha_pattern")
    if given := [name for name in others if getattr(config, name)]:
        raise VLLMServerError(f"vLLM does not serve an adapter with {given[0]}: {without}")
    if getattr(model, "is_loaded_in_4bit", False):
        raise VLLMServerError(f"the server's base has no 4 bits as training has (load_in_4bit): {without}")
    if embeddings := [name for name, _ in model.named_parameters() if ".lora_embedding_" in name]:
        raise VLLMServerError(f"vLLM does not serve the adapter of an embedding ({embeddings[0]}): {without}")
    if config.r > max_lora_rank:
        raise VLLMServerError(f"lora_r={config.r}, the server has --max-lora-rank {max_lora_rank}: start it with more")


def load_adapter(connection: ServerConnection, name: str, folder: Path, before: str) -> None:
    """Raises VLLMServerError where the server cannot read the `folder`, or has no layer for a part of the adapter."""
    loaded = connection.call("POST", LOAD, json={"lora_name": name, "lora_path": str(folder.resolve())})
    if loaded.status_code == 404:
        raise VLLMServerError(
            f"{connection} cannot load {folder.resolve()} ({loaded.text[:300]}): it must see the run's folder at this "
            "path, and have VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
        )
    if not loaded.is_success:
        raise VLLMServerError(f"{connection} does not load the adapter {folder.resolve()}: {loaded.text[:500]}")
    asked = connection.call("POST", "/collective_rpc", json={"method": "lost_of_adapters"})
    with reading(asked.request.url, said := json_of(asked)):
        if lost := [one for worker in said["results"] for one in worker]:
            whole = "start the server without --enable-lora"
            raise VLLMServerError(
                f"vLLM would leave out the adapter of {lost[0]}, outside of the language model: {whole}"
            )
    if before:
        connection.call("POST", UNLOAD, json={"lora_name": before})


def drop_caches(connection: ServerConnection) -> None:
    """Clear the prefixes and image features of the old weights. Raises VLLMServerError if that fails."""
    reset = connection.call("POST", "/reset_prefix_cache")
    with reading(reset.request.url, said := json_of(reset)):
        if said["success"] not in (True, False):
            raise ValueError("success is neither true nor false")
    if not said["success"]:
        works = "works on other requests while it gets new weights: it cannot be shared with another run"
        raise VLLMServerError(f"{connection} {works}")
    images = connection.call("POST", "/reset_encoder_cache")  # whose reply is empty
    if not images.is_success:
        json_of(images)


class ServerPolicy(EnginePolicy):
    """Policy of vLLM servers, for one rollout. Its prompts are before and after the image's placeholder is expanded.

    A server without --enable-prompt-tokens-details does not report cached tokens, which counts as none.
    """

    def __init__(
        self,
        servers: Servers,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        sampling: Sampling,
        adapter: str = "",
    ) -> None:
        super().__init__(model, processor, sampling)
        self.servers = servers
        self._model = {"model": adapter} if adapter else {}
        vocabulary = without_adapter_wrapper(model).config.get_text_config().vocab_size
        self._sampled_ids = set(range(vocabulary)) - self._bias.keys()
        self._images: dict[str, dict[str, str]] = {}

    def _new_prompt(self, request: TurnRequest) -> tuple[list[int], list[int]]:
        return unexpanded_prompt_ids(self.processor, request), prompt_of(self.processor, request).ids

    def _send(self, name: str, request: TurnRequest, prompt: tuple[list[int], list[int]]) -> None:
        sampling = self._sampling_params(request)
        body = {"token_ids": prompt[0], "return_token_ids": True, "sampling_params": sampling, **self._model}
        key = request.image.key
        if key not in self._images:
            self._images[key] = image_part(request.image)
        self.servers.send(name, request.turn.game, body, self._images[key])

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        done = []
        for name, server, content in self.servers.receive() if self._waiting else []:
            request, (_, prompt_ids) = self._waiting.pop(name)
            done.append((request, self._completion(request, prompt_ids, content, server.options.url)))
        return done

    def _completion(self, request: TurnRequest, prompt_ids: list[int], content: Any, server_url: str) -> Completion:
        limits = request.token_limits
        with reading(server_url + GENERATE, content):
            (choice,) = content["choices"]
            if choice["finish_reason"] not in ("stop", "length"):
                raise ValueError(f"a completion ended with {choice['finish_reason']!r:.40} instead of an end")
            n_prompt, tokens = len(content["prompt_token_ids"]), tuple(choice["token_ids"])
            if content["prompt_token_ids"] != prompt_ids:
                raise VLLMServerError(
                    f"the server at {server_url} makes {n_prompt} tokens of a "
                    f"prompt with a {request.image.width}x{request.image.height} image, training makes "
                    f"{len(prompt_ids)}: start it with the same MODEL, MIN_PIXELS and MAX_PIXELS"
                )
            if not limits.minimum <= len(tokens) <= limits.maximum:
                raise ValueError(f"{len(tokens)} tokens, where {limits.minimum} to {limits.maximum} were asked for")
            logprobs = []
            for token, said in zip(tokens, choice["logprobs"]["content"], strict=True):
                logprobs.append(logprob := said["logprob"])
                if type(token) is not int or token not in self._sampled_ids:
                    raise ValueError(f"the token id {token!r:.40} cannot have been sampled")
                if said["token"] != f"token_id:{token}":
                    raise ValueError(f"the log-probability of {said['token']:.40} is given for token {token}")
                if type(logprob) is not float or not -math.inf < logprob <= 1e-3:  # rounding
                    raise ValueError(f"the log-probability of token {token} is {logprob!r:.40}")
            cached = (content["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0
            if cached not in range(n_prompt + 1):
                raise ValueError(f"{cached} of {n_prompt} tokens were cached")
        return self._counted(prompt_ids, tokens, tuple(logprobs), cached)


def image_part(image: GameImage) -> dict[str, str]:
    """Part of a request. Its `uuid` is a hash of the pixels, because a server may outlive a run's image keys."""
    name = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # without loss, and quick
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "uuid": name, "url": url}
