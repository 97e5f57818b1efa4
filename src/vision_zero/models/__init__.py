"""Vision-language models by name: finding, checking and loading them.

A model's name is one of

    NAME                            a model of the Hub, or of its cache
    FOLDER                          a folder of model files, as on the Hub
    RUN                             a run's folder: all its complete checkpoints (`find_models` only)
    RUN/checkpoint-STEP             a checkpoint, with all weights or as a LoRA adapter (adapter_config.json)
    RUN/checkpoint-STEP/export      a checkpoint's export, a folder as on the Hub

What can be refused is refused before weights are read (`files`), and the Hub is first asked for one file (`hub`).

Transformers 5 writes config, processor and tokenizer files that older versions cannot read. So those of a checkpoint
are taken from its base model, whose name stands in the checkpoint's `base_model.json`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from vision_zero.data.errors import shorten
from vision_zero.models.files import ADAPTER, adapter_base, check_config, check_files, check_no_pointers
from vision_zero.models.hub import check_place, folder_of_hub
from vision_zero.run_folder import CONFIG, EXPORT, EXPORTED, complete_checkpoints, is_complete, verify, write_json

# torch and transformers are imported where something is loaded: a model can be found by its name without them.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments

BASE_FILE = "base_model.json"


def find_models(names: Sequence[str]) -> list[str]:
    """`names`, a run as its complete checkpoints, oldest first. Raises ValueError for one without, or a model twice."""
    models: list[str] = []
    for name in names:
        if not (Path(name) / CONFIG).is_file():
            check_place(name)
            models.append(name)
            continue
        found = complete_checkpoints(Path(name))
        if not found:
            raise ValueError(f"{name} is a run without a complete checkpoint: there is no model to play")
        models += map(str, found)
    if len(set(models)) < len(models):
        raise ValueError(f"a model is named twice: {', '.join(models)}")
    return models


def run_of(model: str) -> Path | None:
    """The folder of the run that `model` belongs to, None if it is of no run."""
    path = Path(model)
    return next((folder for folder in (path, *path.absolute().parents[:2]) if (folder / CONFIG).is_file()), None)


def step_of(model: str) -> int | None:
    """The optimizer step of a checkpoint or export, by its folder's name; None for other models."""
    path = Path(model)
    name = re.fullmatch(r"checkpoint-(\d+)", path.parent.name if path.name == EXPORT else path.name)
    return int(name[1]) if name else None


def is_adapter(model: str | Path) -> bool:
    return (Path(model) / ADAPTER).is_file()


def write_base(checkpoint: Path, name_or_path: str) -> None:
    """Write the name of the base model of `checkpoint`; the path of a folder is made absolute."""
    path = Path(name_or_path)
    name = str(path.resolve()) if path.is_dir() else name_or_path
    write_json(checkpoint / BASE_FILE, {"base_model": name})


def base_of(checkpoint: Path) -> str:
    """The base model of `checkpoint`, as `write_base` wrote it, or as the file of an adapter from elsewhere names it.

    Raises FileNotFoundError for a checkpoint or file that is missing, and ValueError for a damaged file.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"there is no checkpoint at {checkpoint}")
    written = checkpoint / BASE_FILE
    if not written.is_file():
        if base := adapter_base(str(checkpoint)):
            return base
        raise FileNotFoundError(f"{checkpoint} does not say which model it was trained from; give --base")
    try:
        return str(json.loads(written.read_text("utf-8"))["base_model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{written} is damaged; it must hold {{"base_model": FOLDER}}') from error


def base_folder(name_or_path: str) -> Path:
    """The base's folder; of a model of the Hub, its files without weights. Raises FileNotFoundError for neither."""
    path = Path(name_or_path)
    if (path / "config.json").is_file():
        check_config(name_or_path)
        return path
    try:
        check_config(name_or_path)  # raises for a folder without a config.json
        return folder_of_hub(name_or_path)
    except (OSError, ValueError) as error:
        said = f"base model {name_or_path!r} was not found; give its folder with --base ({error})"
        raise FileNotFoundError(said) from error


def files_of(model: str) -> str:
    """The name of the model that has the config, processor and tokenizer of `model`: a checkpoint's base, or itself."""
    path = Path(model)
    return base_of(path) if is_adapter(path) or (path / BASE_FILE).is_file() else model


def check_model(model: str) -> str:
    """`files_of` a model that is there. Raises ValueError or OSError for what is none, and incomplete checkpoints."""
    path = Path(model)
    check_saved(path)
    if is_adapter(path):
        check_no_pointers(path)
    else:
        check_config(model)
    check_files(files := files_of(model))
    return files


@cache
def check_saved(model: str | Path) -> None:
    """Compare the files of a run's checkpoint or export with what was saved, once. Raises ValueError for others."""
    path = Path(model).absolute()
    checkpoint = path.parent if path.name == EXPORT else path
    if step_of(str(path)) is not None and (checkpoint.parent / CONFIG).is_file() and not is_complete(checkpoint):
        raise ValueError(f"{checkpoint} is not complete (it was not saved whole, or is half removed): choose another")
    if is_complete(checkpoint):
        verify(path, None if path == checkpoint else checkpoint / EXPORTED, model_alone=True)


def load_model(name_or_path: str | Path, **options: Any) -> PreTrainedModel:
    """The model of a folder or of the Hub with all its weights; `options` go to `from_pretrained`.

    With device_map="meta" no weight is kept and only the files are checked. Raises ValueError for files that cannot be
    loaded, and for weights missing or of other shapes, which transformers would draw at random.
    """
    from transformers import AutoModelForImageTextToText

    check_config(str(name_or_path), trust_remote_code=options.get("trust_remote_code", False))
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"model {name_or_path}: {first_line}") from error
    if missing := sorted(report["missing_keys"]):  # tied weights, such as lm_head's, are not among them
        raise ValueError(f"model {name_or_path}: its files lack the weights {shorten(missing)}")
    if other := sorted(f"{key} is {[*has]} not {[*needs]}" for key, has, needs in report["mismatched_keys"]):
        raise ValueError(f"model {name_or_path}: its weights are not those of its config.json: {shorten(other)}")
    return model


def in_hub_layout(
    model: PreTrainedModel, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of `model` under the Hub's names and in its layout, which is also that of vLLM and of transformers 4."""
    from transformers.core_model_loading import revert_weight_conversion

    transposed = transposed_by_loading(model)
    for name, weight in weights:
        for published, value in revert_weight_conversion(model, {name: weight.detach()}).items():
            is_transposed = any(re.search(pattern, name) for pattern in transposed)
            yield published, value.transpose(1, 2).contiguous() if is_transposed else value


def transposed_by_loading(model: PreTrainedModel) -> list[str]:
    """Patterns of the names of weights (experts) that transformers transposes when it loads, and not when it saves."""
    from transformers.core_model_loading import Transpose

    return [
        pattern
        for one in getattr(model, "_weight_conversions", None) or ()
        if any(isinstance(step, Transpose) and step.check_dims for step in getattr(one, "operations", ()))
        for pattern in one.target_patterns
    ]


def load_merged(name: str | Path, base: str | Path, **options: Any) -> PreTrainedModel:
    """`load_model` of a checkpoint with all weights, or of its `base` with the LoRA adapter `name` merged into it."""
    if not is_adapter(name):
        return load_model(name, **options)
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(base, **options), str(name)).merge_and_unload()


def load_trained(name: str, *, dtype: str = "auto", use_cpu: bool = False) -> PreTrainedModel:
    """Load a model to generate with, by any of the names above but RUN; a LoRA adapter is merged. On its device, in
    `dtype`; auto: float32 on a CPU, else the model's own.

    Raises ValueError or OSError, naming the model, if it cannot be loaded.
    """
    import torch

    from vision_zero.models.attention import use_grouped_sdpa

    files = check_model(name)
    device = "cuda" if torch.cuda.is_available() and not use_cpu else "cpu"
    precision = "float32" if dtype == "auto" and device == "cpu" else dtype
    model = load_merged(name, files, dtype=precision, attn_implementation="sdpa")
    model = use_grouped_sdpa(model).to(device).eval()
    if weight := first_not_finite(model.named_parameters()):
        raise ValueError(f"model {name}: its weight {weight} is not finite: fetch it again, or give another")
    return model


def first_not_finite(named: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite. Of ZeRO-3 or FSDP, in this process's part."""
    for name, tensor in named:
        own = getattr(tensor, "ds_tensor", getattr(tensor, "_local_tensor", tensor))
        if own.is_floating_point() and not own.isfinite().all():
            return name
    return None


@contextmanager
def zero3_disabled(args: TrainingArguments) -> Iterator[None]:
    """Context in which models are loaded whole; with ZeRO-3 they are otherwise split over all processes."""
    if not args.deepspeed:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.hf_deepspeed_config)


def load_processor(
    name_or_path: str, min_pixels: int | None = None, max_pixels: int | None = None, *, trust_remote_code: bool = False
) -> ProcessorMixin:
    """The processor of `name_or_path`, padding left, its images resized to between `min_pixels` and `max_pixels`.

    A family that cuts an image into tiles takes as many as have at most `max_pixels`, one that bounds the longest edge
    an edge of its root; where neither is so this says that it changes nothing. Raises ValueError for a model that is
    missing, lacks files or takes no images (before any weight is read), and for `min_pixels` on such a family.
    """
    from transformers import AutoProcessor, ProcessorMixin

    folder = check_files(name_or_path, trust_remote_code=trust_remote_code)
    try:
        processor = AutoProcessor.from_pretrained(
            folder, padding_side="left", truncation_side="left", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name_or_path}: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(f"{name_or_path} has no image processor: it is not a vision-language model")
    if not processor.chat_template:
        raise ValueError(
            f"model {name_or_path} has no chat template; add its chat_template.jinja, or give its instruct one"
        )
    image_processor = processor.image_processor
    size = dict(image_processor.size)
    if set(size) == {"min_pixels", "max_pixels"}:  # as Qwen's were written for a while; transformers would fail later
        size = {"shortest_edge": size["min_pixels"], "longest_edge": size["max_pixels"]}
    elif min_pixels is None and max_pixels is None:
        return processor
    if set(size) != {"shortest_edge", "longest_edge"}:
        name = type(image_processor).__name__
        if min_pixels is not None or max_pixels is None or max_pixels < 1:
            raise ValueError(
                f"min_pixels={min_pixels} max_pixels={max_pixels} on {name}: give max_pixels alone, from 1"
            )
        if set(size) == {"longest_edge"}:
            tile = dict(getattr(image_processor, "max_image_size", None) or {}).get("longest_edge", 1)
            size["longest_edge"] = min(size["longest_edge"], max(tile, isqrt(max_pixels) // tile * tile))
            image_processor.size = type(image_processor.size)(**size)
        elif getattr(image_processor, "max_patches", None):
            tiles = max(image_processor.min_patches, max_pixels // (size["height"] * size["width"]))
            image_processor.max_patches = min(image_processor.max_patches, tiles)
        else:
            print(f"max_pixels changes nothing: {name} has sizes of its own for images", file=sys.stderr)
        return processor
    size["shortest_edge"] = size["shortest_edge"] if min_pixels is None else min_pixels
    size["longest_edge"] = size["longest_edge"] if max_pixels is None else max_pixels
    if not 0 < size["shortest_edge"] <= size["longest_edge"]:
        raise ValueError(f"min_pixels={size['shortest_edge']} must be positive and at most {size['longest_edge']}")
    image_processor.size = type(image_processor.size)(**size) if not isinstance(image_processor.size, dict) else size
    image_processor.min_pixels, image_processor.max_pixels = size["shortest_edge"], size["longest_edge"]
    return processor
