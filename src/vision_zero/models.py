"""Load a vision-language model's processor and name its attention, with clear errors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoProcessor, ProcessorMixin


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
