"""Models as people have them: what cannot be trained or played is refused by its files, with what to give instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.process_helpers import TINY_VLM, train
from vision_zero.models import base_of, check_model, files, find_models, load_model, load_processor, load_trained

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
Spoil = Callable[[Path], object]


def change(file: str, **values: Any) -> Spoil:
    """`values` in a JSON file; None removes one."""

    def spoil(model: Path) -> None:
        path = model / file
        old = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(
            json.dumps({key: value for key, value in {**old, **values}.items() if value is not None}), "utf-8"
        )

    return spoil


def without(*files: str) -> Spoil:
    return lambda model: [(model / file).unlink() for file in files]


def write(file: str, text: str) -> Spoil:
    return lambda model: (model / file).write_text(text, "utf-8")


def retyped(dtype: torch.dtype, suffix: str = "") -> Spoil:
    """Weights of another type, and names, whose config does not say so."""

    def spoil(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        weights = {f"{name}{suffix}": value.to(dtype).contiguous() for name, value in weights.items()}
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    return spoil


def all_of(*spoils: Spoil) -> Spoil:
    return lambda model: [one(model) for one in spoils]


def as_adapter(base: str | None) -> Spoil:
    return all_of(without("config.json"), change("adapter_config.json", peft_type="LORA", base_model_name_or_path=base))


INTERNVL = {
    "model_type": "internvl_chat",
    "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig", "AutoModel": "m.InternVLChatModel"},
}
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoModelForImageTextToText": "modeling.Mine"}}
REFUSED: dict[str, tuple[Spoil, str]] = {
    "adapter": (
        as_adapter("Qwen/Qwen2.5-VL-7B-Instruct"),
        r"adapter \(LoRA\) of Qwen/Qwen2.5-VL-7B-Instruct.*export .*--resume",
    ),
    "an index of no files": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}'),
        r"model.safetensors.index.json is damaged, its weight_map names no files",
    ),
    "a cut tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        r"tokenizer.json is damaged, it holds no JSON object: fetch the model again",
    ),
    "a page for a processor": (
        lambda folder: (folder / "preprocessor_config.json").write_text("<html>"),
        r"preprocessor_config.json is damaged",
    ),
    "a list of types": (change("config.json", model_type=["qwen2_5_vl"]), "has no class for model_type"),
    "a link that leads nowhere": (
        lambda folder: (folder / "notes.txt").symlink_to("../gone"),
        "notes.txt is a link to ../gone, which is not there",
    ),
    "adapter of nothing": (as_adapter(None), "adapter .* of a model that it does not name"),
    "awq": (
        change("config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        r"quantized \(awq\).*give the model",
    ),
    "bitsandbytes": (change("config.json", quantization_config={"load_in_4bit": True}), "quantized .*load_in_4bit"),
    "nested gptq": (
        change("config.json", text_config={"quantization_config": {"quant_method": "gptq"}}),
        r"quantized \(gptq\)",
    ),
    "mlx": (change("config.json", quantization={"group_size": 64, "bits": 4}), "quantized .*group_size"),
    "fp8 weights": (retyped(torch.float8_e4m3fn), r"quantized \(.* is F8_E4M3\)"),
    "8 bits": (retyped(torch.int8), r"quantized \(.* is I8\)"),
    "packed": (retyped(torch.int32, ".qweight"), r"quantized \(\S*qweight is I32\)"),
    "gguf": (
        all_of(without("config.json"), write("q4.gguf", "GGUF")),
        "quantized .it has no config.json., which .* give the model it was made from",
    ),
    "internvl": (
        change("config.json", **INTERNVL),
        "internvl_chat, which is code in its own repository.* as OpenGVLab/.*-hf$",
    ),
    "own code": (
        change("config.json", **OWN_CODE),
        "model_type mine, .* in -hf, .*or, if you trust.*--trust_remote_code true",
    ),
    "not yet known": (
        change("config.json", model_type="qwen9_vl"),
        "has no class for model_type qwen9_vl: give the same",
    ),
    "text": (
        change("config.json", model_type="qwen2"),
        "takes no images .model_type qwen2.: give a vision-language model",
    ),
    "pointer weights": (write("model.safetensors", POINTER), "model.safetensors is a Git LFS pointer.*git lfs pull"),
    "pointer tokenizer": (write("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
    "pointer config": (write("config.json", POINTER), "config.json is a Git LFS pointer"),
    "empty config": (write("config.json", ""), "config.json is damaged, it holds no JSON object: fetch"),
    "cut config": (write("config.json", '{"model_type": "qwen2_5'), "config.json is damaged"),
    "list config": (write("config.json", "[1]"), "config.json is damaged"),
    "no config": (without("config.json"), "is no model: it has no config.json$"),
    "no tokenizer": (without("tokenizer.json", "vocab.json", "merges.txt"), "has no tokenizer .*: copy it from"),
    "no merges": (
        all_of(without("tokenizer.json"), write("merges.txt", "#version: 0.2\n")),
        "no merges in its merges.txt, its tokens would be others: fetch it again",
    ),
    "no file of merges": (without("tokenizer.json", "merges.txt"), "no merges in its merges.txt"),
    "no image processor": (without("preprocessor_config.json"), "has no image processor .*: copy it from"),
    "no weights": (without("model.safetensors"), "has no weights .*: copy it from"),
    "no template": (
        without("chat_template.json"),
        "has no chat template; add its chat_template.jinja, or give its instruct",
    ),
    "no shard": (
        change(
            "model.safetensors.index.json",
            weight_map={"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"},
        ),
        "1 files of its weights are missing, as model-00002-of-00002.safetensors",
    ),
    "cut weights": (
        lambda model: (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors is cut or damaged .*: fetch it again",
    ),
    "empty weights": (write("model.safetensors", ""), "model.safetensors is cut or damaged"),
    "a page as weights": (write("model.safetensors", "<!doctype html><title>Log in</title>"), "is cut or damaged"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_VLM, tmp_path / "model"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_its_files(name: str, model: Path) -> None:
    spoil, said = REFUSED[name]
    spoil(model)
    with pytest.raises(ValueError, match=said) as refused:
        load_processor(str(model))
    assert str(refused.value).startswith(f"model {model}")
    assert "\n" not in str(refused.value)
    if name not in ("adapter of nothing", "adapter", "no template"):  # an evaluation plays adapters, on their base
        with pytest.raises(ValueError, match=said):
            check_model(str(model))


def test_a_place_that_is_no_model_says_what_is_near(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0"
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-3" / "COMPLETE").touch()
    (tmp_path / "run" / "config.yaml").touch()
    for name, said in (
        (f"{snapshot}/config.json", "is a file: give the folder"),
        (
            f"{snapshot}s",
            f"there is no such folder .is it {snapshot}[?].; give a run, checkpoint or model folder, or OWNER",
        ),
        ("nowhere", "model nowhere: there is no such folder; give"),
        ("~/run", f"no such folder .is it {tmp_path}/run[?]."),
        ("runn/checkpoint-3", "nor such a model in the Hub's cache, and HF_HUB_OFFLINE is set: unset it, or"),
        ("run/checkpoint-4", "is it run/checkpoint-3"),
        ("run", "is a run's folder: give a checkpoint, as run/checkpoint-3"),
        ("hub/models--a--b", f"it has no config.json, but {snapshot.relative_to(tmp_path)} has one"),
    ):
        with pytest.raises(ValueError, match=said):
            load_processor(name)


def test_a_model_that_says_so_runs_its_own_code(model: Path) -> None:
    change("config.json", **OWN_CODE)(model)
    assert load_processor(str(model), trust_remote_code=True).chat_template


def test_an_adapter_from_elsewhere_is_played_on_the_base_that_it_names(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    change("adapter_config.json", peft_type="LORA", base_model_name_or_path=str(model))(adapter)
    assert base_of(adapter) == check_model(str(adapter)) == str(model)
    write("adapter_model.safetensors", POINTER)(adapter)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is a Git LFS pointer"):
        check_model(str(adapter))
    change("config.json", quantization_config={"quant_method": "bitsandbytes"})(model)
    write("adapter_model.safetensors", "")(adapter)
    with pytest.raises(ValueError, match=rf"model {model} is quantized \(bitsandbytes\)"):
        check_model(str(adapter))
    change("adapter_config.json", base_model_name_or_path=None)(adapter)
    with pytest.raises(FileNotFoundError, match="does not say which model"):
        base_of(adapter)


def test_names_are_looked_at_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        find_models([str(TINY_VLM), str(tmp_path / "missing")])
    assert find_models([str(TINY_VLM), "Owner/Name"]) == [str(TINY_VLM), "Owner/Name"]


OLD = {"min_pixels": None, "max_pixels": None}


@pytest.mark.parametrize(
    "written",
    [
        {"size": {"max_pixels": 12544, "min_pixels": 3136}, **OLD},
        {"size": {"shortest_edge": 3136, "longest_edge": 12544}, **OLD},
        {"size": None, "min_pixels": 3136, "max_pixels": 12544},
        {"size": {"max_pixels": 99999, "min_pixels": 28}, "min_pixels": 3136, "max_pixels": 12544},
    ],
)
def test_sizes_of_any_release_of_qwen_are_read(written: dict[str, Any], model: Path) -> None:
    """3136 = 56 x 56 and 12544 = 112 x 112 pixels: at 14 pixels a patch, at least 4 x 4 and at most 8 x 8 patches."""
    change("preprocessor_config.json", **written)(model)
    images = load_processor(str(model)).image_processor
    grids = [
        images(images=[Image.new("RGB", (side, side))], return_tensors="pt")["image_grid_thw"][0] for side in (20, 500)
    ]
    assert [grid.tolist() for grid in grids] == [[1, 4, 4], [1, 8, 8]]
    images = load_processor(str(model), max_pixels=56 * 56).image_processor
    assert images(images=[Image.new("RGB", (500, 500))], return_tensors="pt")["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("options", [{}, {"device_map": "meta"}])
def test_weights_of_another_shape_are_named(options: dict[str, Any], model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = weights[name][:-3].contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    has = r"layers.0.self_attn.q_proj.weight is \[125, 128\] not \[128, 128\]"
    with pytest.raises(ValueError, match=f"model {model}: its weights are not those of its config.json: .*{has}"):
        load_model(model, **options)


def test_weights_that_are_not_finite_are_named(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its weight \S*layers.0.self_attn.q_proj.weight is not finite"):
        load_trained(str(model), use_cpu=True)
    refused = train(model.parent / "run", model_name_or_path=model)
    assert refused.status == 1
    assert "layers.0.self_attn.q_proj.weight is not finite; fetch it again" in refused.output.splitlines()[-1]


def test_weights_are_not_read_by_a_refusal(model: Path) -> None:
    change("config.json", quantization_config={"quant_method": "awq"})(model)
    with pytest.raises(ValueError, match="awq"):
        load_model(model)


def test_the_headers_of_the_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation asks `check_model` before it begins, and `load_processor` when it loads."""
    model, opened = tmp_path / "model", []
    shutil.copytree(TINY_VLM, model)
    monkeypatch.setattr(files, "safe_open", lambda file, *how: opened.append(file) or safe_open(file, *how))
    load_processor(check_model(str(model)))
    assert opened == [model / "model.safetensors"]
