"""A LoRA adapter as plain weights, W + ΔW, computed beside the model that trains, of which nothing changes.

PEFT's `merge_adapter` adds ΔW to the frozen weights and `unmerge_adapter` subtracts it again. Both round: a 16-bit base
would drift away from the published one, and reference, arena start and export with it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Conv1d, Conv2d, Conv3d, Embedding, Linear, LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from transformers import BitsAndBytesConfig, PreTrainedModel

NOT_SENT = {"original_module", "modules_to_save", *LoraLayer.adapter_layer_names, "lora_magnitude_vector"}
LAYERS = (Linear, Embedding, Conv1d, Conv2d, Conv3d, ParamWrapper)
KEEPING = {
    "bias": ("none",),
    "lora_bias": (False,),
    "layer_replication": (None,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Values of LoraConfig that leave the base as it was published."""


LANGUAGE = "language"
"""As `lora_target_modules`: the linear layers of the language model."""


def language_layers(model: PreTrainedModel) -> str:
    """A regular expression for the names of the language model's linear layers, whatever its family calls them."""
    decoder = model.get_decoder()
    where = next(name for name, module in model.named_modules() if module is decoder)
    linear = {name.split(".")[-1] for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)}
    return rf".*{re.escape(where)}\..*\.({'|'.join(sorted(linear))})"


def four_bits(model: PreTrainedModel, computes_in: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantization (QLoRA, arXiv 2305.14314) for the linear layers of the language model alone."""
    from bitsandbytes.nn import modules as bitsandbytes

    # A CPU with bfloat16 instructions would compute in that, with weights packed otherwise, in eval mode.
    vars(bitsandbytes)["has_avx512bf16"] = lambda: False
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computes_in,
        llm_int8_skip_modules=[name for name in linear if not re.fullmatch(language_layers(model), name)],
    )


def plain_weight(weight: torch.nn.Parameter) -> torch.Tensor:
    """The numbers that a weight of 4 bits stands for; other weights as they are."""
    if not hasattr(weight, "quant_state"):
        return weight.data
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def check_adapter(model: PeftModel) -> None:
    """Raises ValueError for an adapter whose model cannot be written as its base with other weights."""
    adapters, base = model.active_adapters, model.get_base_model()
    config = model.peft_config[adapters[0]]
    if not isinstance(config, LoraConfig) or len(adapters) > 1:
        raise ValueError(f"{type(config).__name__} of {', '.join(adapters)}: give one LoraConfig")
    for option, values in KEEPING.items():
        if getattr(config, option) not in values:
            raise ValueError(f"LoRA: {option}={getattr(config, option)} changes the base model; leave it out")
    users = Counter(id(weight) for _, weight in base.named_parameters(remove_duplicate=False))
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            weights = list(module.original_module.parameters())
        elif isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            inner = getattr(module, "base_layer", module)
            variant = getattr(module, "lora_variant", None) and not any(module.use_dora.values())
            plain = type(module) in LAYERS or type(module).__name__ == "Linear4bit"
            plain = plain and getattr(inner, "groups", 1) == 1 and not variant
            whole = plain and (_adapted(module).dtype.itemsize > 1 or hasattr(_adapted(module), "quant_state"))
            if not whole:
                raise ValueError(
                    f"LoRA: {name} ({type(module).__name__} of {type(inner).__name__}) is neither LoRA nor DoRA of a "
                    "plain layer; leave it out of the targets, or give a model that is not quantized"
                )
            weights = [_adapted(module)]
        else:
            continue
        if any(users[id(weight)] > 1 for weight in weights):
            raise ValueError(
                f"LoRA: {name} shares its weight with another layer or adapter, as embed_tokens does with lm_head, "
                "and vLLM and an export would change both; leave it out of the targets and of lora_modules_to_save"
            )
        users.update(map(id, weights))  # twice adapted is shared too


def merged_parameters(
    model: PeftModel, gather: Callable[[list[torch.nn.Parameter]], AbstractContextManager[None]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that `model` computes with, one by one, under the base's names and in its dtypes.

    `gather` makes parameters whole that are split over processes, which iterate together.
    """
    base, (adapter,) = model.get_base_model(), model.active_adapters
    layers = {id(_adapted(module)): module for module in base.modules() if isinstance(module, LoraLayer)}
    for full_name, weight in base.named_parameters():
        parts = full_name.replace(f".modules_to_save.{adapter}.", ".").split(".")
        if not NOT_SENT.isdisjoint(parts):
            continue
        name, layer = ".".join(part for part in parts if part != "base_layer"), layers.get(id(weight))
        if layer is None:
            with gather([weight]):
                yield name, plain_weight(weight)
            continue
        own = [one for part, one in layer.named_parameters() if not part.startswith("base_layer.")]
        with gather([weight, *own]), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            merged = _merged(weight, layer, adapter)
        yield name, merged


def adapter_parameters(
    model: PeftModel, gather: Callable[[list[torch.nn.Parameter]], AbstractContextManager[None]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """As `merged_parameters`, but the weights of the adapter alone, which the base lacks."""
    for name, weight in model.get_base_model().named_parameters():
        if ".lora_" in name:
            with gather([weight]):
                yield name.replace(f".{model.active_adapter}.", "."), weight.data


def _adapted(layer: LoraLayer) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
    return weight


def _merged(parameter: torch.nn.Parameter, layer: LoraLayer, adapter: str) -> torch.Tensor:
    """W + ΔW, with DoRA scaled to its magnitudes, in float32 and rounded once to the dtype of W."""
    weight = plain_weight(parameter)
    transposed = isinstance(layer, Embedding) or getattr(layer, "fan_in_fan_out", False)
    if isinstance(layer, Embedding):
        a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    elif isinstance(layer, ParamWrapper) and layer.num_experts > 1:
        b, a, _ = layer.get_delta_factors(adapter)
    else:
        a, b = layer.lora_A[adapter].weight.flatten(1), layer.lora_B[adapter].weight.flatten(1)
    delta = b.float() @ a.float() * layer.scaling[adapter]
    merged: torch.Tensor = weight.float() + (delta.T if transposed else delta).reshape(weight.shape)
    if layer.use_dora.get(adapter):
        others = [dim for dim in range(weight.dim()) if dim != int(transposed)]
        norms = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
        merged = merged * (layer.lora_magnitude_vector[adapter].weight.float().view(norms.shape) / norms)
    return merged.to(weight.dtype)
