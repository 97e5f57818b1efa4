"""Tiny random models of the families that people train, made from their configurations; weights are sharp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from tests.trainer_helpers import BENCH_MODEL

Named = dict[str, torch.Tensor]
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "head_dim": 32,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
QWEN_TOKENS = {"image_token_id": 7, "video_token_id": 8, "vision_start_token_id": 4, "vision_end_token_id": 5}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def chat_template(user: str, image: str, end: str, answer: str, bos: str = "") -> str:
    parts = (
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% elif part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %}"
    )
    return (
        bos + "{% for message in messages %}" + user + parts + end + "{% endfor %}"
        "{% if add_generation_prompt %}" + answer + "{% endif %}"
    )


IM_TEMPLATE = chat_template(
    "<|im_start|>{{ message['role'] }}\n", "<image>\n", "<|im_end|>\n", "<|im_start|>assistant\n"
)
SIGLIP = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
QWEN_TEMPLATE = IM_TEMPLATE.replace("<image>\n", "<|vision_start|><|image_pad|><|vision_end|>")
QWEN3_VISION = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 16,
    "num_position_embeddings": 64,
}


def _save(folder: Path, model: Any, processor: Any, *, as_of_the_hub: Callable[[Named], Named] = dict) -> Path:
    """`as_of_the_hub`: the published names and layout of weights, where transformers would write others."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():  # position embeddings and projectors that begin at 0
                parameter.normal_(0, 0.1)
            elif parameter.ndim >= 2:
                parameter.mul_(4)
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(as_of_the_hub(load_file(file)), file, metadata={"format": "pt"})
    return folder


def _siglip(named: Named) -> Named:
    return {name.replace("vision_tower.", "vision_tower.vision_model."): weight for name, weight in named.items()}


def _experts(named: Named) -> Named:
    return {
        name: weight.transpose(1, 2).contiguous() if ".experts." in name else weight for name, weight in named.items()
    }


def save_qwen3_vl(folder: Path, *, experts: bool = False) -> Path:
    torch.manual_seed(0)
    tokenizer = hf.AutoTokenizer.from_pretrained(BENCH_MODEL, chat_template=QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text: dict[str, Any] = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    if experts:
        text |= {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    vision = {**QWEN3_VISION, "deepstack_visual_indexes": [0, 1]}
    config_class, model_class = (
        (hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeForConditionalGeneration)
        if experts
        else (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration)
    )
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=False, **QWEN_TOKENS)
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 100352}, patch_size=16, **HALVES)
    processor = hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    return _save(folder, model_class(config), processor, as_of_the_hub=_experts if experts else dict)


def save_gemma3(folder: Path, *, template_bos: str = "<bos>", tokenizer_bos: bool = False) -> Path:
    """`tokenizer_bos`: the tokenizer adds <bos> too, as the Hub's does."""
    torch.manual_seed(0)
    role = "{{ 'model' if message['role'] == 'assistant' else message['role'] }}"
    template = chat_template(
        f"<start_of_turn>{role}\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n", template_bos
    )
    special = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "a": "<start_of_turn>",
        "b": "<end_of_turn>",
        "c": "<bos>",
        **{f"lines{n}": "\n" * n for n in (1, 2, 3, 4)},  # which vLLM looks for
    }
    tokenizer = hf.AutoTokenizer.from_pretrained(BENCH_MODEL, chat_template=template, extra_special_tokens=special)
    tokenizer.bos_token = "<bos>"
    ids = tokenizer.convert_tokens_to_ids
    if tokenizer_bos:
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids("<bos>"))]
        )
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 4,
        "bos_token_id": ids("<bos>"),
        "layer_types": [*["sliding_attention"] * 3, "full_attention"],
        "sliding_window": 24,  # shorter than a prompt
        "query_pre_attn_scalar": 32,
    }
    config = hf.Gemma3Config(
        text_config=text,
        vision_config={**SIGLIP, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )
    images = hf.Gemma3ImageProcessor(size={"height": 56, "width": 56}, **HALVES)
    processor = hf.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)
    return _save(folder, hf.Gemma3ForConditionalGeneration(config), processor, as_of_the_hub=_siglip)


def _tokenizer(template: str, **special: str) -> Any:
    return hf.AutoTokenizer.from_pretrained(BENCH_MODEL, chat_template=template, extra_special_tokens=special)


def _without_head_dim(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**TEXT, **more}.items() if name != "head_dim"}


def save_qwen2_vl(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = _tokenizer(QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    text = _without_head_dim(vocab_size=len(tokenizer), rope_parameters=rope)
    vision = {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64}
    config = hf.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **QWEN_TOKENS)
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 100352})
    processor = hf.Qwen2VLProcessor(images, tokenizer, hf.Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    return _save(folder, hf.Qwen2VLForConditionalGeneration(config), processor)


def save_smolvlm(folder: Path) -> Path:
    torch.manual_seed(0)
    role = "<|im_start|>{{ message['role'] | capitalize }}:"
    template = chat_template(role, "<image>", "<end_of_utterance>\n", "Assistant:")
    tiles = {f"tile_{row}{column}": f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)}
    tokenizer = _tokenizer(
        template,
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        **tiles,
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = hf.SmolVLMConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config=SIGLIP,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    images = hf.SmolVLMImageProcessor(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, do_image_splitting=True
    )
    processor = hf.SmolVLMProcessor(
        images, tokenizer, hf.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=template
    )
    return _save(folder, hf.SmolVLMForConditionalGeneration(config), processor)


def save_llava_onevision(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = _tokenizer(IM_TEMPLATE, image_token="<image>", video_token="<video>")
    pins, size = [[56, 56], [56, 112], [112, 56], [112, 112]], {"height": 56, "width": 56}
    config = hf.LlavaOnevisionConfig(
        text_config=_without_head_dim(model_type="qwen2", vocab_size=len(tokenizer)),
        vision_config={**SIGLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
    )
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=size),
        chat_template=IM_TEMPLATE,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    return _save(folder, hf.LlavaOnevisionForConditionalGeneration(config), processor, as_of_the_hub=_siglip)


def save_glm4v(folder: Path) -> Path:
    torch.manual_seed(0)
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    template = chat_template("<|{{ message['role'] }}|>\n", image, "", "<|assistant|>\n", "[gMASK]<sop>")
    names = ["image_start", "image_end", "video_start", "video_end"]
    tokens = dict(
        zip(names, ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"], strict=True)
    )
    more = {"a": "<|user|>", "b": "<|assistant|>", "c": "[gMASK]", "d": "<sop>"}
    tokenizer = _tokenizer(template, image_token="<|image|>", video_token="<|video|>", **tokens, **more)
    ids = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
        "partial_rotary_factor": 0.5,
    }
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64}
    config = hf.Glm4vConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={**vision, "image_size": 56, "patch_size": 14},
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        tie_word_embeddings=False,
        **{f"{name}_token_id": ids(token) for name, token in tokens.items()},
    )
    images = hf.Glm4vImageProcessor(size={"shortest_edge": 6272, "longest_edge": 100352})
    processor = hf.Glm4vProcessor(images, tokenizer, hf.Glm4vVideoProcessor(), chat_template=template)
    return _save(folder, hf.Glm4vForConditionalGeneration(config), processor)


def save_mistral3(folder: Path) -> Path:
    torch.manual_seed(0)
    template = chat_template("[INST]", "[IMG]", "[/INST]", "", "<s>")
    tokens = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    tokenizer = _tokenizer(template, **tokens, a="[INST]", b="[/INST]", c="<s>")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    vision = {name: value for name, value in SIGLIP.items() if name != "image_size"}
    config = hf.Mistral3Config(
        text_config={**TEXT, "model_type": "mistral", "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={**vision, "model_type": "pixtral", "head_dim": 32, "image_size": 112},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    images = hf.PixtralImageProcessor(size={"longest_edge": 112}, patch_size=28)
    processor = hf.PixtralProcessor(
        images, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=template, **tokens
    )
    return _save(folder, hf.Mistral3ForConditionalGeneration(config), processor)


def save_qwen3_5(folder: Path) -> Path:
    """Half of its layers have a state (linear attention) instead of keys and values."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(QWEN_TEMPLATE)
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }
    linear = {
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
    }
    text = {**TEXT, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "rope_parameters": rope, **linear}
    config = hf.Qwen3_5Config(
        text_config=text, vision_config={**QWEN3_VISION, "depth": 2}, tie_word_embeddings=False, **QWEN_TOKENS
    )
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 100352}, patch_size=16, **HALVES)
    processor = hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    return _save(folder, hf.Qwen3_5ForConditionalGeneration(config), processor)


def as_published(folder: Path) -> Path:
    """`folder`, which transformers 5 has saved, with the configuration and tokenizer that version 4 wrote.

    Models on the Hub have those; both versions read them, and version 4 no others.
    """
    config, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
    config.write_text(json.dumps(_of_version_4(json.loads(config.read_text()))))
    options = json.loads(tokenizer.read_text())
    if (special := options.pop("model_specific_special_tokens", None)) is not None:
        options["extra_special_tokens"] = special
    tokenizer.write_text(json.dumps(options))
    return folder


def _of_version_4(config: dict[str, Any]) -> dict[str, Any]:
    said = {
        name: _of_version_4(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ("rope_parameters", "dtype")
    }
    if "tie_word_embeddings" in said.get("text_config", {}):  # which is the one that version 4 reads
        said["text_config"]["tie_word_embeddings"] = said["tie_word_embeddings"]
    if "num_local_experts" in said:
        said["num_experts"] = said.pop("num_local_experts")
    if "dtype" in config:
        said["torch_dtype"] = config["dtype"]
    rope = dict(config.get("rope_parameters") or {})
    if "full_attention" in rope:
        said["rope_theta"] = rope["full_attention"]["rope_theta"]
        said["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif rope.pop("rope_type", None) == "default":
        scaling = {name: rope.pop(name) for name in list(rope) if name.startswith("mrope")}
        said["rope_scaling"] = {"type": "default", "rope_type": "default", **scaling} if scaling else None
        said |= rope
    return said
