"""Load a vision-language model and its processor, and name its attention, with clear errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    TrainingArguments,
)
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config


def load_model(name_or_path: str | Path, **options: Any) -> PreTrainedModel:
    """The model of a folder or of the Hub with all its weights; `options` go to `from_pretrained`.

    With device_map="meta" no weight is kept and only the files are checked. Raises ValueError for files that cannot be
    loaded, and for weights that are not in them: transformers would go on with random ones.
    """
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(name_or_path, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"model {name_or_path}: {first_line}") from error
    if missing := sorted(report["missing_keys"]):  # tied weights, such as lm_head's, are not among them
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"model {name_or_path}: its files lack the weights {', '.join(missing[:3])}{more}")
    return model


@contextmanager
def whole_models(args: TrainingArguments) -> Iterator[None]:
    """While ZeRO-3 is on, a model that is loaded is split over all processes. Inside this, it is not."""
    if not args.deepspeed:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.hf_deepspeed_config)


def load_processor(
    name_or_path: str, min_pixels: int | None = None, max_pixels: int | None = None, *, trust_remote_code: bool = False
) -> ProcessorMixin:
    """The processor of `name_or_path`, padding left, its images resized to between `min_pixels` and `max_pixels`.

    Raises ValueError for a model that is not there or takes no images, and for pixel bounds on a family whose images
    have a fixed size.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            name_or_path, padding_side="left", truncation_side="left", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if not Path(name_or_path).exists():
            reason = "there is no such folder, nor such a model in the Hub's cache or on the Hub"
        raise ValueError(f"model {name_or_path}: {reason}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(f"{name_or_path} has no image processor: it is not a vision-language model")
    if min_pixels is None and max_pixels is None:
        return processor
    image_processor = processor.image_processor
    size = dict(image_processor.size)
    if set(size) != {"shortest_edge", "longest_edge"}:
        raise ValueError(
            f"min_pixels / max_pixels do not apply to {type(image_processor).__name__}, whose images have a fixed size"
        )
    size["shortest_edge"] = size["shortest_edge"] if min_pixels is None else min_pixels
    size["longest_edge"] = size["longest_edge"] if max_pixels is None else max_pixels
    if not 0 < size["shortest_edge"] <= size["longest_edge"]:
        raise ValueError(f"min_pixels={size['shortest_edge']} must be positive and at most {size['longest_edge']}")
    image_processor.size = type(image_processor.size)(**size) if not isinstance(image_processor.size, dict) else size
    image_processor.min_pixels, image_processor.max_pixels = size["shortest_edge"], size["longest_edge"]
    return processor


def attention_implementation(asked: str | None, *, use_cpu: bool = False) -> str:
    """`asked`, or FlashAttention 2 where it is installed on a GPU, else SDPA with one line of notice."""
    if asked is not None:
        return asked
    if torch.cuda.is_available() and not use_cpu:
        if find_spec("flash_attn") is not None:
            return "flash_attention_2"
        print("flash-attn is not installed: using PyTorch's SDPA attention", file=sys.stderr)
    return "sdpa"
