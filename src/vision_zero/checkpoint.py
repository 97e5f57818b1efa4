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
from huggingface_hub.errors import HFValidationError

from vision_zero.models import load_model
from vision_zero.run_folder import write_json

BASE_FILE = "base_model.json"
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json")
NOT_COPIED = (*WEIGHT_PATTERNS, ".*", "README.md", "*.md")


def base_folder(name_or_path: str) -> Path:
    """The base model's folder; a Hub name is resolved to its files without weights.

    Raises FileNotFoundError for what is neither a folder with a config.json nor found on the Hub or in its cache.
    """
    path = Path(name_or_path)
    if (path / "config.json").is_file():
        return path
    if not path.is_dir():
        try:
            return Path(snapshot_download(name_or_path, ignore_patterns=list(WEIGHT_PATTERNS)))
        except (OSError, HFValidationError) as error:
            reason = str(error)
    else:
        reason = "the folder has no config.json"
    raise FileNotFoundError(f"base model {name_or_path!r} was not found; give its folder with --base ({reason})")


def write_base(checkpoint: Path, name_or_path: str) -> None:
    """Write down which model `checkpoint` was trained from; a folder by its whole path, to be found from anywhere."""
    path = Path(name_or_path)
    name = str(path.resolve()) if path.is_dir() else name_or_path
    write_json(checkpoint / BASE_FILE, {"base_model": name})


def base_of(checkpoint: Path) -> str:
    """The model that `checkpoint` was trained from, as the training run wrote it down.

    Raises FileNotFoundError when it did not, and ValueError when its file is damaged.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"there is no checkpoint at {checkpoint}")
    written = checkpoint / BASE_FILE
    if written.is_file():
        try:
            return str(json.loads(written.read_text("utf-8"))["base_model"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{written} is damaged; it must hold {{"base_model": FOLDER}}') from error
    raise FileNotFoundError(f"{checkpoint} does not say which model it was trained from; give --base")


def export_dtype(base: Path) -> torch.dtype:
    """The precision the base model was published in."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    name = config.get("torch_dtype") or config.get("dtype") or "float32"
    return getattr(torch, str(name).removeprefix("torch."))


def export_checkpoint(checkpoint: Path, target: Path, base: str | None = None) -> Path:
    """Write `checkpoint` (full or LoRA, as training saved it) to `target` in the layout of its base model.

    LoRA adapters are merged. `target` appears whole or not at all. Raises FileNotFoundError when the base is unknown,
    and ValueError for damaged files.
    """
    base_path = base_folder(base or base_of(checkpoint))
    dtype = export_dtype(base_path)
    if (checkpoint / "adapter_config.json").is_file():
        from peft import PeftModel

        model = load_model(base_path, dtype=dtype)
        model = PeftModel.from_pretrained(model, str(checkpoint)).merge_and_unload()
    else:
        model = load_model(checkpoint, dtype=dtype)
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
    # An export that is there is moved away whole before it is removed: a kill in between leaves no half of it.
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    temporary.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return target
