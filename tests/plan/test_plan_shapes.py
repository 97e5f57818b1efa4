"""The plan's parameters are the model's, to the last one, and what it does not know it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vision_zero.plan.shape import HERE, ModelShape, read_config, read_shape

SHIPPED = HERE / "models"

TEXT = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "pad_token_id": 0,
}
QWEN_TOWER = {"depth": 3, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
SQUARE_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]}
QWEN2_TEXT = {name: value for name, value in TEXT.items() if name != "head_dim"}
QWEN3_TOWER = {
    **QWEN_TOWER,
    "hidden_size": 32,
    "intermediate_size": 80,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 2],
}
TINY: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": {**QWEN2_TEXT, "rope_parameters": {**MROPE, "mrope_section": [2, 3, 3]}},
        "vision_config": {**QWEN_TOWER, "embed_dim": 32, "mlp_ratio": 3, "hidden_size": 64},
        "tie_word_embeddings": True,
    },
    "qwen2_5_vl": {
        "text_config": {**QWEN2_TEXT, "rope_parameters": {**MROPE, "mrope_section": [2, 3, 3]}},
        "vision_config": {**QWEN_TOWER, "hidden_size": 32, "intermediate_size": 80, "out_hidden_size": 64},
        "tie_word_embeddings": False,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": QWEN3_TOWER,
        "tie_word_embeddings": True,
    },
    "qwen3_vl_moe": {
        "text_config": {
            **TEXT,
            "rope_parameters": MROPE,
            "moe_intermediate_size": 48,
            "num_experts": 6,
            "num_experts_per_tok": 2,
        },
        "vision_config": QWEN3_TOWER,
        "tie_word_embeddings": False,
    },
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen3"},
        "vision_config": {**SQUARE_TOWER, "attention_bias": True},
        "image_seq_length": 4,
        "tie_word_embeddings": False,
    },
    "internvl without biases": {
        "text_config": {**QWEN2_TEXT, "model_type": "qwen2"},
        "vision_config": {**SQUARE_TOWER, "use_qk_norm": True, "norm_type": "rms_norm"},
        "image_seq_length": 4,
        "tie_word_embeddings": False,
    },
    "gemma3": {
        "text_config": TEXT,
        "vision_config": {**SQUARE_TOWER, "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": True,
    },
    "smolvlm": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": SQUARE_TOWER,
        "scale_factor": 2,
        "tie_word_embeddings": False,
    },
    "llava_onevision": {
        "text_config": {**QWEN2_TEXT, "model_type": "qwen2"},
        "vision_config": {**SQUARE_TOWER, "vision_use_head": False},
        "tie_word_embeddings": False,
    },
}


def on_meta(config: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def same_parameters(shape: ModelShape, model: torch.nn.Module) -> None:
    decoder = model.get_decoder()
    head = 0 if shape.tied else count(model.get_output_embeddings())
    assert count(decoder) + head == shape.language_parameters
    assert count(model) == shape.parameters


@pytest.mark.parametrize("family", TINY)
def test_parameters_of_every_family(family: str) -> None:
    config = {"model_type": family.split()[0], **TINY[family]}
    same_parameters(read_shape(config), on_meta(json.loads(json.dumps(config))))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-vl-3b", 3_754_622_976),
        ("qwen2.5-vl-7b", 8_292_166_656),
        ("qwen2.5-vl-32b", 33_452_718_336),
        ("qwen3-vl-8b", 8_767_123_696),
        ("internvl3-14b", 15_117_256_704),
    ],
)
def test_parameters_of_what_is_shipped(name: str, parameters: int) -> None:
    """The published numbers, and the model that transformers makes of the configuration."""
    config = read_config(name)
    shape = ModelShape.of(config)  # no size is left to defaults
    assert shape.parameters == parameters
    same_parameters(shape, on_meta(config))


def test_every_shipped_model_is_tested() -> None:
    assert len(list(SHIPPED.glob("*.json"))) == 5


def test_names_files_and_folders_are_one_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((SHIPPED / "qwen2.5-vl-7b.json").read_text())
    names = ("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", str(tmp_path), str(tmp_path / "config.json"))
    assert len({json.dumps(read_config(name)) for name in names}) == 1


def test_a_model_that_is_nowhere() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing is no folder, config.json or model of the cache; ship"
    ):
        read_config("nobody/nothing")


@pytest.mark.parametrize("kind", ["glm4v", "mistral3", "of_tomorrow"])
def test_a_family_that_is_not_known_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"the plan does not know the (family|language model) {kind}"):
        read_shape({"model_type": kind})
