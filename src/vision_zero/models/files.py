"""Checks of a model's files before any weight is read. Each refusal is one line that says what to give instead."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vision_zero.data.errors import is_lfs_pointer
from vision_zero.models.hub import check_place, file_of_hub, folder_of_hub
from vision_zero.run_folder import CONFIG, EXPORT, complete_checkpoints

ADAPTER = "adapter_config.json"
NEEDED = {
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json"),
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""Files whose damage libraries report without their name."""
QUANTIZED_KEYS = ("quantization_config", "compression_config", "quantization")
QUANTIZED_TYPE = re.compile(r"[UIF][468](_.*)?|U32")
QUANTIZED_NAME = re.compile(r"[-_.](unsloth|bnb|awq|gptq|fp8|nvfp4|gguf|mlx|int[48]|[48]bit|w\d+a\d+).*", re.IGNORECASE)
"""In configs, in the types of numbers of safetensors, and in names on the Hub: what only quantized models have."""


def check_files(name: str, *, trust_remote_code: bool = False) -> Path:
    """Check a model's config, what stands before its weights and, in a folder, these. Returns its folder.

    That of a model of the Hub has no weights. Raises ValueError.
    """
    check_config(name, trust_remote_code=trust_remote_code)
    folder = Path(name) if (local := Path(name).is_dir()) else folder_of_hub(name)
    for what, patterns in NEEDED.items():
        if (local or what != "weights") and not any(file for pattern in patterns for file in folder.glob(pattern)):
            needed = " or ".join(patterns)
            raise ValueError(f"model {name} has no {what} ({needed}): copy it from the model that it was made from")
    if (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        merges = folder / "merges.txt"
        if not merges.is_file() or b" " not in merges.read_bytes().partition(b"\n")[2]:
            raise ValueError(f"model {name}: no merges in its merges.txt, its tokens would be others: fetch it again")
    for file in (folder / one for one in TEXT_FILES):
        if file.is_file():
            read_object(name, file)
    if not local:
        return folder
    index = folder / "model.safetensors.index.json"
    parts = read_object(name, index).get("weight_map") if index.is_file() else {}
    if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
        raise ValueError(f"model {name}: {index.name} is damaged, its weight_map names no files: fetch the model again")
    if missing := sorted(file for file in set(parts.values()) if not (folder / file).is_file()):
        raise ValueError(
            f"model {name}: {len(missing)} files of its weights are missing, as {missing[0]}: fetch it again"
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            types = _types_of_numbers(file, file.stat().st_mtime_ns)
        except SafetensorError as error:
            raise ValueError(f"model {name}: {file.name} is cut or damaged ({error}): fetch it again") from error
        for tensor, number in types.items():
            packed = tensor.endswith((".qweight", ".weight_packed"))
            if packed or (tensor.endswith("weight") and QUANTIZED_TYPE.fullmatch(number)):
                raise ValueError(_quantized(name, f"{tensor} is {number}"))
    return folder


@cache
def _types_of_numbers(file: Path, changed: int) -> dict[str, str]:
    """By tensor, from the header of the weights, which is read once until the file is `changed`."""
    with safe_open(file, "np") as tensors:
        return {tensor: tensors.get_slice(tensor).get_dtype() for tensor in tensors.keys()}  # noqa: SIM118


def check_config(name: str, *, trust_remote_code: bool = False) -> None:
    """Check that a model has a config.json, of a family that can be trained and played. Raises ValueError."""
    folder = Path(name)
    check_place(name)
    if folder.is_file():
        raise ValueError(f"model {name} is a file: give the folder of a model, with its config.json and *.safetensors")
    if folder.is_dir():
        check_no_pointers(folder)
    found = _file(name, "config.json")
    if found is None:
        raise ValueError(f"model {name}: it {_without_config(name)}")
    config = read_object(name, found)
    for part in (config, *(one for one in config.values() if isinstance(one, dict))):
        for asked in (part[key] for key in QUANTIZED_KEYS if part.get(key)):
            how = asked.get("quant_method") or ", ".join(map(str, asked)) if isinstance(asked, dict) else asked
            raise ValueError(_quantized(name, str(how)))
    _check_family(name, config, trust_remote_code)


def check_no_pointers(folder: Path) -> None:
    """Raises ValueError for a file that Git LFS has not fetched, and for a link that leads nowhere."""
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            raise ValueError(f"model {folder}: {file.name} is a link to {file.readlink()}, which is not there")
        if file.is_file() and is_lfs_pointer(file):
            raise ValueError(
                f"model {folder}: {file.name} is a Git LFS pointer, not the file: run `git lfs install && git lfs "
                "pull` there, or fetch the model with `hf download`"
            )


def adapter_base(name: str) -> str | None:
    """The base model that an adapter's own file names ("": none); None for what is no adapter. Raises ValueError."""
    found = _file(name, ADAPTER)
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


def _file(name: str, file: str) -> Path | None:
    path = Path(name) / file
    return (path if path.is_file() else None) if Path(name).is_dir() else file_of_hub(name, file)


def _quantized(name: str, how: str) -> str:
    shorter = QUANTIZED_NAME.sub("", name)
    original = "" if Path(name).exists() or shorter == name else f", as {shorter}"
    return (
        f"model {name} is quantized ({how}), which cannot be trained or played here: give the model it was made from"
        f"{original}"
    )


def _without_config(name: str) -> str:
    """What a folder or repository without config.json is, and what to give instead."""
    folder = Path(name)
    if (base := adapter_base(name)) is not None:
        return (
            f"is an adapter (LoRA) of {base or 'a model that it does not name'}, no whole model: merge them with "
            f"`python -m vision_zero.export {name} FOLDER`, give FOLDER; --output_dir RUN --resume true continues a run"
        )
    if (folder / CONFIG).is_file():
        found = [place for one in complete_checkpoints(folder) for place in (one, one / EXPORT) if place.is_dir()]
        return "is a run's folder: " + (f"give a checkpoint, as {found[-1]}" if found else "it has no checkpoint yet")
    if any(folder.glob("*.gguf")) or (not folder.is_dir() and QUANTIZED_NAME.search(name)):
        return _quantized(name, "it has no config.json").removeprefix(f"model {name} ")
    inside = [one.parent for pattern in ("*", "snapshots/*") for one in sorted(folder.glob(f"{pattern}/config.json"))]
    return f"is no model: it has no config.json{f', but {inside[0]} has one' if inside else ''}"


def _check_family(name: str, config: dict[str, Any], trust_remote_code: bool) -> None:
    """Raises ValueError for a model that transformers has no class of, and for one that takes no images."""
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind, remote, ours = str(config.get("model_type")), config.get("auto_map") or {}, "AutoModelForImageTextToText"
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or (trust_remote_code and ours in remote):
        return
    if kind in CONFIG_MAPPING_NAMES and not remote:
        instead = "a vision-language model, as Qwen/Qwen2.5-VL-7B-Instruct"
        raise ValueError(f"model {name} takes no images (model_type {kind}): give {instead}")
    same = "OpenGVLab/InternVL3-8B-hf" if Path(name).exists() else f"{name}-hf"
    raise ValueError(
        f"model {name}: transformers {__version__} has no class for model_type {kind}"
        f"{', which is code in its own repository' if remote else ''}: give the same model as transformers has it, "
        f"in a repository whose name ends in -hf, as {same}"
        f"{'; or, if you trust that code, --trust_remote_code true' if ours in remote else ''}"
    )
