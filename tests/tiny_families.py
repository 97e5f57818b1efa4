"""Tiny random models of families whose own forward sees more of an image than players hand on; weights are sharp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as hf

from tests.trainer_helpers import BENCH_MODEL

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


def _save(folder: Path, model: Any, processor: Any) -> Path:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():  # position embeddings and projectors that begin at 0
                parameter.normal_(0, 0.1)
            elif parameter.ndim >= 2:
                parameter.mul_(4)
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_qwen3_vl(folder: Path, *, experts: bool = False) -> Path:
    torch.manual_seed(0)
    template = chat_template(
        "<|im_start|>{{ message['role'] }}\n",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    )
    tokenizer = hf.AutoTokenizer.from_pretrained(BENCH_MODEL, chat_template=template)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text: dict[str, Any] = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    if experts:
        text |= {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config_class, model_class = (
        (hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeForConditionalGeneration)
        if experts
        else (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration)
    )
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=False, **QWEN_TOKENS)
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 100352}, patch_size=16, **HALVES)
    processor = hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(), chat_template=template)
    return _save(folder, model_class(config), processor)


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
        "sliding_window": 4096,
        "query_pre_attn_scalar": 32,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )
    images = hf.Gemma3ImageProcessor(size={"height": 56, "width": 56}, **HALVES)
    processor = hf.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)
    return _save(folder, hf.Gemma3ForConditionalGeneration(config), processor)
