"""A checkpoint that every evaluation environment can load.

What transformers 5 writes beside the weights (config keys, processor and tokenizer files), older transformers cannot
read. So the export takes the weights from the checkpoint, saved under the hub's names, and every other file from the
base model, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForImageTextToText

BASE_FILE = "base_model.json"
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json")
NOT_COPIED = (*WEIGHT_PATTERNS, ".*", "README.md", "*.md")


def base_folder(name_or_path: str) -> Path:
    """The base model's folder; a Hub name is resolved to its files without weights."""
    path = Path(name_or_path)
    if path.is_dir():
        return path
    return Path(snapshot_download(name_or_path, ignore_patterns=list(WEIGHT_PATTERNS)))


def base_of(checkpoint: Path) -> str:
    """The model that `checkpoint` was trained from, as the training run wrote it down. Raises FileNotFoundError."""
    written = checkpoint / BASE_FILE
    if written.is_file():
        return str(json.loads(written.read_text("utf-8"))["base_model"])
    raise FileNotFoundError(f"{checkpoint} does not say which model it was trained from; give --base")


def export_dtype(base: Path) -> torch.dtype:
    """The precision the base model was published in."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    name = config.get("torch_dtype") or config.get("dtype") or "float32"
    return getattr(torch, str(name).removeprefix("torch."))


def export_checkpoint(checkpoint: Path, target: Path, base: str | None = None) -> Path:
    """Write `checkpoint` (full or LoRA, as training saved it) to `target` in the layout of its base model.

    LoRA adapters are merged. `target` appears whole or not at all. Raises FileNotFoundError when the base is unknown.
    """
    base_path = base_folder(base or base_of(checkpoint))
    dtype = export_dtype(base_path)
    if (checkpoint / "adapter_config.json").is_file():
        from peft import PeftModel

        model = AutoModelForImageTextToText.from_pretrained(base_path, dtype=dtype)
        model = PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload()
    else:
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    for path in temporary.iterdir():
        if not any(path.match(pattern) for pattern in WEIGHT_PATTERNS):
            path.unlink()
    for path in sorted(base_path.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in NOT_COPIED):
            shutil.copyfile(path, temporary / path.name)
    for path in temporary.iterdir():
        path.chmod(0o644)
    temporary.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target
