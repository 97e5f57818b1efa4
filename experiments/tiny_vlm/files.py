"""Folder of the tiny model: tokenizer, configuration and weights in the layout of the hub's first release."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig

from tiny_vlm.scripted import TELL_WORDS
from vision_zero.data.drawn_scenes import COLOURS, SHAPES
from vision_zero.game.prompts import load_template

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
GENERIC = (
    "a of in on and not with near left right top bottom front back big small large tiny one two three many few "
    "light dark bright round square metal rubber new old person people animal animals bird cat dog tree trees house "
    "sky water sun moon grass road door wall white black orange pink picture photo image thing things it there same "
    "other nothing something"
)
GENERIC_WORDS = tuple(GENERIC.split())
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's split of text before BPE; its tokenizer class rebuilds it, so another pattern would not survive loading."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for c in message['content'] %}{% if c['type']=='image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif c['type']=='text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def known_words() -> list[str]:
    """Words that are one token each, with and without a space before."""
    template = " ".join(section.template for section in load_template("compact").sections.values())
    said = "user assistant said see unsure what shape is there who name one which are true yes no how many"
    texts = [template.replace("$n_players", ""), said, *COLOURS, *SHAPES, *TELL_WORDS, *GENERIC_WORDS]
    return sorted({word.strip("?:,.") for text in texts for word in text.split() if "$" not in word} - {"", "N/A"})


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE of a few hundred words: tokenizer.json, vocab.json, merges.txt and their configuration."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # No word stands in a box here, else the brace and the word would become one token that stands nowhere else.
    corpus = [f"{word} {word}" for word in known_words()] + ["\n\n", "\\boxed", "see \\", "boxed"]
    tokenizer.train_from_iterator(corpus * 2, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "special_tokens_map.json", _special_tokens_map())
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def _added_token(content: str, **more: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **more}


def _tokenizer_config() -> dict[str, Any]:
    return {
        "added_tokens_decoder": {str(i): _added_token(name, special=True) for i, name in enumerate(SPECIAL_TOKENS)},
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "extra_special_tokens": {},
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen2_5_VLProcessor",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _special_tokens_map() -> dict[str, Any]:
    return {
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "eos_token": _added_token("<|im_end|>"),
        "pad_token": _added_token("<|endoftext|>"),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


HIDDEN, HEADS, LAYERS, ROPE_THETA = 128, 4, 4, 1_000_000.0
HEAD_DIM = HIDDEN // HEADS
IMAGE_TOKEN, VIDEO_TOKEN = SPECIAL_TOKENS.index("<|image_pad|>"), SPECIAL_TOKENS.index("<|video_pad|>")
END, PAD = SPECIAL_TOKENS.index("<|im_end|>"), SPECIAL_TOKENS.index("<|endoftext|>")


def model_config(vocab_size: int) -> dict[str, Any]:
    """config.json as the hub's first release of Qwen2.5-VL has it: flat, with `rope_scaling` and `torch_dtype`."""
    vision = {
        "depth": 2,
        "fullatt_block_indexes": [1],
        "hidden_size": HIDDEN,
        "in_chans": 3,
        "intermediate_size": 192,
        "model_type": "qwen2_5_vl",
        "num_heads": HEADS,
        "out_hidden_size": HIDDEN,
        "spatial_patch_size": 14,
        "tokens_per_second": 2,
    }
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": PAD,
        "eos_token_id": END,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_token_id": IMAGE_TOKEN,
        "initializer_range": 0.08,
        "intermediate_size": 320,
        "max_position_embeddings": 32768,
        "max_window_layers": LAYERS,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
        "rope_theta": ROPE_THETA,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.49.0",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": VIDEO_TOKEN,
        "vision_config": vision,
        "vision_end_token_id": SPECIAL_TOKENS.index("<|vision_end|>"),
        "vision_start_token_id": SPECIAL_TOKENS.index("<|vision_start|>"),
        "vision_token_id": SPECIAL_TOKENS.index("<|vision_pad|>"),
        "vocab_size": vocab_size,
    }


def preprocessor_config() -> dict[str, Any]:
    """The hub's preprocessor_config.json, but with at most 128 tokens per image, so that photographs are cheap."""
    min_pixels, max_pixels = 4 * 28 * 28, 128 * 28 * 28
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": max_pixels,
        "merge_size": 2,
        "min_pixels": min_pixels,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": max_pixels, "shortest_edge": min_pixels},
        "temporal_patch_size": 2,
    }


def save_base(folder: Path) -> None:
    """Write all files but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    vocab_size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    _write_json(folder / "config.json", model_config(vocab_size))
    _write_json(folder / "preprocessor_config.json", preprocessor_config())
    generation = {
        "bos_token_id": PAD,
        "eos_token_id": [END, PAD],
        "pad_token_id": PAD,
        "transformers_version": "4.49.0",
    }
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **generation})


def first_release_config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    for part in (config, config.text_config, config.vision_config):
        part.initializer_range = 0.08
    return config


def save_model(model: Any, folder: Path) -> None:
    """Write the weights under the hub's names, beside the files of `save_base`, which transformers 5 would change."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        shutil.copyfile(Path(scratch) / "model.safetensors", folder / "model.safetensors")
