"""Checks of a model's files before any weight is read. Each refusal is one line that says what to give instead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vision_zero.models.hub import check_place, file_of_hub
from vision_zero.run_folder import CONFIG, EXPORT, complete_checkpoints

ADAPTER = "adapter_config.json"
POINTER = b"version https://git-lfs.github.com/"
NEEDED = {
    "weights": ("*.safetensors", "*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json"),
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}
QUANTIZED_TYPES = re.compile(r"[UIF][468](_.*)?|U32")
"""Types of numbers in safetensors that only quantized weights have."""
QUANTIZED_NAME = re.compile(r"[-_.](unsloth|bnb|awq|gptq|fp8|nvfp4|gguf|mlx|int[48]|[48]bit|w\d+a\d+).*", re.IGNORECASE)
REFUSED = "which cannot be trained or played here: give the model it was made from"


def check_files(name: str, *, trust_remote_code: bool = False) -> None:
    """Check a whole model: its config and, in a folder, all that stands before its weights. Raises ValueError."""
    check_config(name, trust_remote_code=trust_remote_code)
    folder = Path(name)
    if not folder.is_dir():
        return
    for what, patterns in NEEDED.items():
        if not any(file for pattern in patterns for file in folder.glob(pattern)):
            needed = " or ".join(patterns)
            raise ValueError(f"model {name} has no {what} ({needed}): copy it from the model that it was made from")
    index = folder / "model.safetensors.index.json"
    listed = set(read_object(name, index).get("weight_map", {}).values()) if index.is_file() else set()
    if missing := sorted(file for file in listed if not (folder / str(file)).is_file()):
        raise ValueError(f"model {name}: {len(missing)} files of its weights are not there, as {missing[0]}: fetch it again")
    for file in sorted(folder.glob("*.safetensors")):
        _check_header(name, file)


def check_config(name: str, *, trust_remote_code: bool = False) -> None:
    """Check that a model has a config.json of a family that can be trained and played. Raises ValueError."""
    folder = Path(name)
    check_place(name)
    if folder.is_file():
        raise ValueError(f"model {name} is a file: give the folder of a model, with its config.json and *.safetensors")
    if folder.is_dir():
        check_no_pointers(folder)
    file = folder / "config.json"
    found = (file if file.is_file() else None) if folder.is_dir() else file_of_hub(name, "config.json")
    if found is None:
        raise ValueError(f"model {name} {_without_config(name)}")
    config = read_object(name, found)
    for part in (config, *(one for one in config.values() if isinstance(one, dict))):
        for key in ("quantization_config", "compression_config", "quantization"):
            if part.get(key):
                method = part[key].get("quant_method") if isinstance(part[key], dict) else None
                raise ValueError(_quantized(name, str(method or key)))
    _check_family(name, config, trust_remote_code)


def check_no_pointers(folder: Path) -> None:
    """Raises ValueError for a file that Git LFS has not fetched."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(POINTER):
            raise ValueError(
                f"model {folder}: {file.name} is a Git LFS pointer, not the file: run `git lfs install && git lfs pull` "
                "there, or fetch the model with `hf download`"
            )


def adapter_base(name: str) -> str | None:
    """The base model that an adapter's own file names ("": none); None for what is no adapter. Raises ValueError."""
    file = Path(name) / ADAPTER
    found = (file if file.is_file() else None) if Path(name).is_dir() else file_of_hub(name, ADAPTER)
    return None if found is None else str(read_object(name, found).get("base_model_name_or_path") or "")


def read_object(name: str, file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises ValueError."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"model {name}: {file.name} is damaged, it holds no JSON object: fetch the model again")
    return value


def _without_config(name: str) -> str:
    """What a folder or repository without config.json is, and what to give instead."""
    folder = Path(name)
    if (base := adapter_base(name)) is not None:
        return (
            f"is an adapter (LoRA) of {base or 'a model that it does not name'}, no whole model: merge them with `python "
            f"-m vision_zero.export {name} FOLDER` and give FOLDER; --output_dir RUN --resume true continues a run itself"
        )
    if (folder / CONFIG).is_file():
        found = [place for one in complete_checkpoints(folder) for place in (one, one / EXPORT) if place.is_dir()]
        return "is a run's folder: " + (f"give a checkpoint, as {found[-1]}" if found else "it has no checkpoint yet")
    if any(folder.glob("*.gguf")) or QUANTIZED_NAME.search(name):
        return f"has no config.json and is quantized, {REFUSED}{_original(name)}"
    inside = [one.parent for pattern in ("*", "snapshots/*") for one in sorted(folder.glob(f"{pattern}/config.json"))]
    return f"is no model: it has no config.json{f', but {inside[0]} has one' if inside else ''}"


def _original(name: str) -> str:
    """The name of a quantized model on the Hub without what says so."""
    shorter = QUANTIZED_NAME.sub("", name)
    return "" if Path(name).exists() or shorter == name else f", as {shorter}"


def _quantized(name: str, how: str) -> str:
    return f"model {name} is quantized ({how}), {REFUSED}{_original(name)}"


def _check_family(name: str, config: dict[str, Any], trust_remote_code: bool) -> None:
    """Raises ValueError for a model that transformers has no class of, and for one that takes no images."""
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind, remote, ours = config.get("model_type"), config.get("auto_map") or {}, "AutoModelForImageTextToText"
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or (trust_remote_code and ours in remote):
        return
    if kind in CONFIG_MAPPING_NAMES and not remote:
        raise ValueError(
            f"model {name} takes no images (model_type {kind}): give a vision-language model, as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    same = f"{name}-hf" if not Path(name).exists() else "OpenGVLab/InternVL3-8B-hf"
    raise ValueError(
        f"model {name}: transformers {__version__} has no class for model_type {kind}"
        f"{', which is code in its own repository' if remote else ''}: give the same model as transformers has it, in a "
        f"repository whose name ends in -hf, as {same}"
        + ("; or, if you trust that code, --trust_remote_code true" if ours in remote else "")
    )


def _check_header(name: str, file: Path) -> None:
    """Check a safetensors file's header, which says how long the file is, and the types of its numbers."""
    size, end, tensors = file.stat().st_size, -1, dict[str, Any]()
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 0 < length < size:
            try:
                tensors = json.loads(stream.read(length))
                tensors.pop("__metadata__", None)
                end = 8 + length + max((one["data_offsets"][1] for one in tensors.values()), default=0)
                types = sorted({str(one["dtype"]) for one in tensors.values()})
            except (ValueError, TypeError, LookupError, AttributeError):
                end = -1
    if end != size:
        raise ValueError(f"model {name}: {file.name} is cut or damaged: fetch it again")
    if found := [one for one in types if QUANTIZED_TYPES.fullmatch(one)] or [
        one for one in tensors if one.endswith((".qweight", ".weight_packed"))
    ]:
        raise ValueError(_quantized(name, f"{found[0]} in {file.name}"))
