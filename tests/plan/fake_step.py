"""The real model's forward, backward and optimizer step on tensors without memory, and its bytes by part.

The language model is transformers' own class, built from the configuration in FakeTensorMode, with gradient
checkpointing and, for LoRA, PEFT's layers and autocast as in training. Two things are done by hand, since they need
a GPU or numbers that fake tensors lack:

* attention keeps what PyTorch's memory-efficient kernel keeps: its output, a number per query and head, the mask;
* the head is TRL's ChunkedLogProbFunction on the completions' tokens, without its kernels, which allocate nothing.

Two micro-batches are run, as in training, where gradients are there from the first one on.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModelForImageTextToText
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from trl.kernels import chunked_logprob

LORA_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that live, and their peak since `restart`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def restart(self) -> None:
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self._count, out)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            n_bytes = storage.nbytes()
            self._seen.add(key)
            self.live += n_bytes
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key, n_bytes)

    def _free(self, key: int, n_bytes: int) -> None:
        self._seen.discard(key)
        self.live -= n_bytes


class _Attention(torch.autograd.Function):
    """[B, L, H, d] of the memory-efficient kernel, which keeps its output, a number per query and head, and a bias."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> torch.Tensor:
        batch, heads, length, size = query.shape
        out = query.new_empty(batch, length, heads, size)
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        bias = None if mask is None else mask.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, sums, bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any) -> Any:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return _Attention.apply(query, key, value, attention_mask), None


AttentionInterface.register("without_memory", _attention)
AttentionMaskInterface.register("without_memory", sdpa_mask)


@dataclass(frozen=True)
class Step:
    """Bytes by part. `activations`: beside the others at the peak; `head`: what the head takes by itself."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    head: int


@contextlib.contextmanager
def _without_kernels() -> Iterator[None]:
    def nothing(*_: Any, **__: Any) -> None:
        pass

    def addmm(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        """On a GPU the product is accumulated in float32 without copies of its factors."""

    with (
        mock.patch.object(chunked_logprob, "_forward_tile", nothing),
        mock.patch.object(chunked_logprob, "_backward_tile", nothing),
        mock.patch.object(chunked_logprob, "_addmm_fp32", addmm),
    ):
        yield


def _sum(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _log_probs(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    log_probs = chunked_logprob.ChunkedLogProbFunction.apply
    return log_probs(hidden, weight, None, targets.reshape(-1), 0.8, 32768, None, 1.0, ("log_probs", "entropy"))[0]


def _make_fake(model: torch.nn.Module) -> None:
    """Fake tensors in place of those of the meta device, adapters in float32 as PEFT has them."""
    made: dict[int, torch.Tensor] = {}
    for name, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for key, one in tensors.items():
                if one is not None and id(one) not in made:
                    dtype = torch.float32 if "lora_" in name else one.dtype
                    fake = torch.empty(one.shape, dtype=dtype)
                    is_weight = isinstance(one, torch.nn.Parameter)
                    made[id(one)] = torch.nn.Parameter(fake, one.requires_grad) if is_weight else fake
                if one is not None:
                    tensors[key] = made[id(one)]


def fake_step(
    config: dict[str, Any], *, rank: int, rows: int, length: int, completion: int, layers: int | None = None
) -> Step:
    """Bytes of training with `rows` rows of `length` tokens, `completion` of each scored; `rank` 0: all weights.

    All weights train in bfloat16 with float32 masters, as DeepSpeed has them; adapters in float32 under autocast.
    """
    config = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    if layers is not None:
        config.get_text_config().num_hidden_layers = layers
        if getattr(config.get_text_config(), "layer_types", None):
            config.get_text_config().layer_types = config.get_text_config().layer_types[:layers]
    live = LiveBytes()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="without_memory"
        )
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if rank:
            model.enable_input_require_grads()
            lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LORA_LAYERS)
            get_peft_model(model, lora)
    with FakeTensorMode(), _without_kernels(), live:
        _make_fake(model)
        weights = _sum(one for one in model.parameters() if not rank or not one.requires_grad)
        trained = [one for one in model.parameters() if one.requires_grad]
        masters = trained if rank else [one.detach().float() for one in trained]
        for one in masters:
            one.grad = torch.zeros_like(one) if not rank else None
        optimizer = torch.optim.AdamW(masters, lr=1e-5, foreach=False)
        if not rank:
            optimizer.step()
            for one in masters:
                one.grad = None
        model.train()
        embeddings = model.get_input_embeddings()
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool).tril_()
        ids = torch.zeros(rows, length, dtype=torch.long)
        positions = torch.arange(length).expand(rows, length)
        if "mrope_section" in (getattr(config.get_text_config(), "rope_parameters", None) or {}):
            positions = positions.expand(3, rows, length)
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        scored = slice(length - completion - 1, length - 1)
        for _ in range(2):
            live.restart()
            before = live.live
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(rank)):
                hidden = decoder(
                    inputs_embeds=embeddings(ids),
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=False,
                ).last_hidden_state[:, scored]
                some = hidden.reshape(-1, hidden.shape[-1])
                del hidden
                logps = _log_probs(some, head.weight, ids[:, scored])
            del some
            logps.sum().backward()
            del logps
            activations = live.peak - before
        gradients = _sum(one.grad for one in trained if one.grad is not None)
        some = torch.empty(rows * completion, head.weight.shape[1], dtype=torch.bfloat16, requires_grad=True)
        live.restart()
        before = live.live
        _log_probs(some, head.weight, ids[:, scored]).sum().backward()
        head_peak = live.peak - before
        if rank:
            optimizer.step()
        states = _sum(value for state in optimizer.state.values() for value in state.values() if value.numel() > 1)
    return Step(
        weights=weights,
        adapters=_sum(trained) if rank else 0,
        gradients=gradients,
        optimizer=states + (0 if rank else _sum(masters)),
        activations=activations,
        head=head_peak,
    )
