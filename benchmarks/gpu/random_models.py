"""Models of the published sizes with random weights, made where they are used: nothing is downloaded or written.

The tokenizer and the image processor are those of the tiny model of the tests: their token ids are the first few
hundred of the large vocabulary, and the configuration names the ids of that tokenizer for images and ends. Sampled ids
beyond them have no text, which changes no cost.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from vision_zero.plan.shape import read_config

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parent.parent / "tests" / "models" / "bench_model"
SEED = 0
NOT_THE_TOKENIZERS = {"config.json", "model.safetensors"}


def published(size: str) -> dict[str, Any]:
    """The published configuration of Qwen2.5-VL: `size` is 3b or 7b."""
    return read_config(f"qwen2.5-vl-{size}")


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """The same model in small, for machines without a GPU: tied or not and grouped heads as in the large one."""
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128}
    language = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    language |= {"intermediate_size": 128, "vocab_size": 1024, "max_position_embeddings": 4096}
    return {
        **config,
        **language,
        "vision_config": {**config["vision_config"], **vision, "fullatt_block_indexes": [1]},
        "rope_scaling": {**config["rope_scaling"], "mrope_section": [4, 6, 6]},
    }


def write_folder(config: dict[str, Any], folder: Path) -> None:
    """A model folder without weights: `config` with the tokenizer's ids in it, and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in TOKENIZER.iterdir():
        if file.name not in NOT_THE_TOKENIZERS:
            shutil.copyfile(file, folder / file.name)
    own = json.loads((TOKENIZER / "config.json").read_text())
    ids = {name: value for name, value in own.items() if name.endswith("_token_id")}
    (folder / "config.json").write_text(json.dumps({**config, **ids}, indent=2))


def processor_of(folder: Path) -> ProcessorMixin:
    """As `models.load_processor`, which refuses a folder without weights."""
    return AutoProcessor.from_pretrained(folder, padding_side="left", truncation_side="left")


def random_model(folder: str, *, dtype: str | torch.dtype = "float32", **options: Any) -> PreTrainedModel:
    """In place of TRL's `create_model_from_path`: the same weights in every call, drawn on the device itself."""
    config = AutoConfig.from_pretrained(folder)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    device = "cuda" if torch.cuda.is_available() and options.get("device") != "cpu" else "cpu"
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=options.get("attn_implementation", "sdpa")
        )
    model.generation_config = GenerationConfig.from_pretrained(folder)
    model.name_or_path = folder  # vLLM reads its configuration and tokenizer from here
    return model
