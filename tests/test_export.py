"""The portable export of full and LoRA training: what is in it, who can load it, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.by_hand import processor_inputs
from tests.process_helpers import run_program
from tests.trainer_helpers import (
    BENCH_MODEL,
    GradientRecorder,
    RandomImage,
    make_trainer,
)
from vision_zero import export as checkpoint_module
from vision_zero.export import export_checkpoint
from vision_zero.export import main as export_main
from vision_zero.models import BASE_FILE, base_folder, write_base

WEIGHTS = "model.safetensors"
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}
TRAINING = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1, "iterations": 2}
BOTH_STAGES = {"schedule": "cycle", "cycle_decision": 1, "cycle_clue": 1}


def train(folder: Path, **options: Any) -> Any:
    trainer = make_trainer(folder, **{**TRAINING, **BOTH_STAGES, **options})
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two steps, saved after each, the last one exported."""
    return train(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("lora"), peft_config=LoraConfig(**LORA))


@pytest.fixture(params=["full", "lora"])
def trained(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def folder_of(trainer: Any, step: int = 2) -> Path:
    return Path(trainer.args.output_dir) / f"checkpoint-{step}"


def logits(model: Any, processor: Any) -> torch.Tensor:
    inputs = processor_inputs(processor, "round 1 seat 2 red cube", RandomImage(7).open())
    with torch.no_grad():
        return model.eval()(**inputs).logits


def tensor_names(folder: Path) -> list[str]:
    with safe_open(folder / WEIGHTS, "pt") as file:
        return sorted(file.keys())


# ----------------------------------------------------------------------------------------------------- what it holds


def test_export_has_the_files_of_its_base(trained: Any) -> None:
    export = folder_of(trained) / "export"
    assert sorted(path.name for path in export.iterdir()) == sorted(path.name for path in BENCH_MODEL.iterdir())
    assert not (export / "processor_config.json").exists()
    for path in BENCH_MODEL.iterdir():
        same = path.read_bytes() == (export / path.name).read_bytes()
        assert same == (path.name != WEIGHTS), path.name
    assert tensor_names(export) == tensor_names(BENCH_MODEL)
    assert not (folder_of(trained, 1) / "export").exists()  # export_every=0: at the end only


def test_export_gives_the_logits_of_the_trained_model(trained: Any) -> None:
    export = folder_of(trained) / "export"
    model = AutoModelForImageTextToText.from_pretrained(export)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    processor = AutoProcessor.from_pretrained(export)
    exported = logits(model, processor)
    base = logits(AutoModelForImageTextToText.from_pretrained(BENCH_MODEL), processor)
    assert (exported - base).abs().max() > 1e-3
    assert (exported - logits(trained.model, processor)).abs().max() < 1e-5


def test_export_loads_where_this_package_is_unknown(full: Any, tmp_path: Path) -> None:
    script = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, image = sys.argv[1:]
processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
content = [{"type": "image", "path": image}, {"type": "text", "text": "red cube"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
    return_tensors="pt",
)
new = model.generate(**inputs, min_new_tokens=3, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1]:]
assert len(new) == 3
assert "vision_zero" not in sys.modules and "trl" not in sys.modules
print("new tokens", new.tolist())
"""
    image = tmp_path / "image.png"
    RandomImage(1).open().save(image)
    export = folder_of(full) / "export"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", script, str(export), str(image)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    model, processor = AutoModelForImageTextToText.from_pretrained(export), AutoProcessor.from_pretrained(export)
    inputs = processor_inputs(processor, "red cube", RandomImage(1).open())
    here = model.generate(**inputs, min_new_tokens=3, max_new_tokens=3, do_sample=False)[0, -3:]
    assert f"new tokens {here.tolist()}" in result.stdout


def test_export_is_parsed_by_everybody(full: Any, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        export = export_checkpoint(folder_of(full), tmp_path / "export")
    finally:
        os.umask(before)
    assert export.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in export.iterdir()} == {0o644}


def test_export_has_the_precision_of_its_base(full: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BENCH_MODEL, base)
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}), "utf-8")
    export = export_checkpoint(folder_of(full), tmp_path / "export", str(base))
    exact = load_file(folder_of(full) / "export" / WEIGHTS)
    rounded = load_file(export / WEIGHTS)
    assert rounded.keys() == exact.keys()
    for name, tensor in rounded.items():
        assert torch.equal(tensor, exact[name].to(torch.bfloat16)), name


def test_files_of_the_base_that_are_not_the_model_stay_behind(full: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BENCH_MODEL, base)
    (base / "README.md").write_text("the base's own model card", "utf-8")
    (base / ".gitattributes").write_text("", "utf-8")
    (base / "model-00001-of-00002.safetensors").write_text("", "utf-8")
    (base / "model.safetensors.index.json").write_text("{}", "utf-8")
    (base / "video_preprocessor_config.json").write_text("{}", "utf-8")
    export = export_checkpoint(folder_of(full), tmp_path / "export", str(base))
    names = {path.name for path in export.iterdir()}
    assert names == {path.name for path in BENCH_MODEL.iterdir()} | {"video_preprocessor_config.json"}


# ------------------------------------------------------------------------------------------------------ interruptions


class Interrupted(BaseException):
    """Stands for a kill."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """The `step`-th change of the file system from now on is left half done. Returns a list as long as steps taken."""
    taken: list[int] = []

    def counted(function: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            taken.append(1)
            if len(taken) == step:
                half(*args)
                raise Interrupted
            return function(*args, **kwargs)

        return run

    def half_removed(folder: Path, *_: Any) -> None:
        for path in sorted(folder.iterdir())[:3] if folder.is_dir() else []:
            path.unlink()

    def half_copied(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])

    def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(checkpoint_module.shutil, "rmtree", counted(shutil.rmtree, half_removed))
    monkeypatch.setattr(checkpoint_module.shutil, "copyfile", counted(shutil.copyfile, half_copied))
    for name in ("unlink", "chmod", "rename"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name), nothing))
    return taken


def content(folder: Path) -> dict[str, bytes] | None:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


@pytest.mark.parametrize("old_is_there", [False, True])
def test_an_interrupted_export_is_never_half_there(full: Any, tmp_path: Path, old_is_there: bool) -> None:
    old = content(export_checkpoint(folder_of(full, 1), tmp_path / "old"))
    new = content(export_checkpoint(folder_of(full, 2), tmp_path / "new"))
    assert old != new
    target = tmp_path / "export"
    seen = []
    for step in range(1, 100):
        shutil.rmtree(target, ignore_errors=True)
        if old_is_there:
            shutil.copytree(tmp_path / "old", target)
        with pytest.MonkeyPatch.context() as monkeypatch:
            taken = interrupt_at(monkeypatch, step)
            with suppress(Interrupted):
                export_checkpoint(folder_of(full, 2), target)
        left = content(target)
        assert left in (None, old, new), f"half an export after step {step}"
        seen.append(left)
        if len(taken) < step:
            break
    assert seen[-1] == new
    assert seen[0] == (old if old_is_there else None)
    assert len(seen) > 15
    export_checkpoint(folder_of(full, 2), target)
    left_over = {path.name for path in tmp_path.iterdir()} - {"old", "new", "export"}
    assert not left_over


# ------------------------------------------------------------------------------------------------------- unknown base


def test_a_checkpoint_that_does_not_name_its_base_is_refused(full: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(folder_of(full), checkpoint)
    (checkpoint / BASE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint-2 does not say which model.*--base"):
        export_checkpoint(checkpoint, tmp_path / "export")
    assert export_checkpoint(checkpoint, tmp_path / "export", str(BENCH_MODEL)).is_dir()


@pytest.mark.parametrize("base", ["/no/such/model", "no-such-organisation/no-such-model", "{tmp_path}"])
def test_a_base_that_is_not_there_is_named(
    full: Any, tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base.format(tmp_path=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"base model '{base}' was not found"):
        export_checkpoint(folder_of(full), tmp_path / "export", base)
    assert not (tmp_path / "export").exists()


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "export")


def test_the_base_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BENCH_MODEL.parent)
    write_base(tmp_path, "bench_model")
    monkeypatch.chdir(tmp_path)
    assert base_folder(json.loads((tmp_path / BASE_FILE).read_text("utf-8"))["base_model"]) == BENCH_MODEL.resolve()
    write_base(tmp_path, "Organisation/Model-7B")
    assert json.loads((tmp_path / BASE_FILE).read_text("utf-8")) == {"base_model": "Organisation/Model-7B"}


def test_main_exports(lora: Any, tmp_path: Path) -> None:
    target = tmp_path / "new" / "exported"
    result = run_program(["-m", "vision_zero.export", str(folder_of(lora, 1)), str(target)], tmp_path / "log")
    assert result.status == 0, result.output
    assert str(target) in result.output
    assert tensor_names(target) == tensor_names(BENCH_MODEL)


def test_main_says_what_is_wrong_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "nowhere"), str(tmp_path / "other")])
    with pytest.raises(SystemExit, match=r"^error: there is no checkpoint at .*nowhere$"):
        export_main()


def said_of(monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        export_main()
    return str(stopped.value)


def test_main_says_what_to_give(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = folder_of(full)
    run = shutil.copytree(last.parent, tmp_path / "run")
    (run / "config.yaml").write_text("iterations: 1\n")
    assert f"error: {run} is a run; give one of {run}/checkpoint-1, {run}/checkpoint-2" == said_of(monkeypatch, run)
    assert f"error: no folder to write to: python -m vision_zero.export {last} FOLDER" == said_of(monkeypatch, last)
    (tmp_path / "config.yaml").write_text("iterations: 1\n")
    assert "without a complete checkpoint" in said_of(monkeypatch, tmp_path, tmp_path / "new")
    shutil.copytree(last, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "COMPLETE").unlink()
    assert "checkpoint-2 is not complete" in said_of(monkeypatch, tmp_path / "checkpoint-2", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_came_to_the_target_meanwhile_is_kept(full: Any, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        export_checkpoint(folder_of(full), target)
    assert content(target) == {"mine": b"mine"}


def test_an_adapter_from_elsewhere_is_merged_into_the_base_that_it_names(lora: Any, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder_of(lora) / name, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(BENCH_MODEL)}))
    merged = export_checkpoint(adapter, tmp_path / "merged")
    assert (merged / WEIGHTS).read_bytes() == (folder_of(lora) / "export" / WEIGHTS).read_bytes()


# --------------------------------------------------------------------------------------------------------------- LoRA


def test_lora_moves_the_adapter_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **{**TRAINING, **BOTH_STAGES}, peft_config=LoraConfig(**LORA))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    adapters = {name for name in before if "lora_" in name}
    assert len(adapters) == 2 * 2 * 2  # layers, projections, A and B
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert all(gradient.keys() == adapters for gradient in recorder.steps)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in adapters), name
    base = AutoModelForImageTextToText.from_pretrained(BENCH_MODEL).state_dict()
    for name, parameter in trainer.model.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name


def test_lora_checkpoint_holds_the_adapter_alone(lora: Any) -> None:
    names = {path.name for path in folder_of(lora, 1).iterdir()}
    assert "adapter_model.safetensors" in names
    assert WEIGHTS not in names


@pytest.mark.parametrize("peft_config", [None, LoraConfig(**LORA)], ids=["full", "lora"])
def test_resumed_training_ends_where_uninterrupted_training_does(
    request: pytest.FixtureRequest, tmp_path: Path, peft_config: LoraConfig | None
) -> None:
    uninterrupted = request.getfixturevalue("lora" if peft_config else "full")
    resumed = make_trainer(tmp_path, **{**TRAINING, **BOTH_STAGES}, peft_config=peft_config)
    resumed.train(resume_from_checkpoint=str(folder_of(uninterrupted, 1)))
    state = uninterrupted.model.state_dict()
    assert resumed.model.state_dict().keys() == state.keys()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert resumed.state.log_history[-2]["loss"] == uninterrupted.state.log_history[-2]["loss"]


def test_weights_that_do_not_fit_stop_a_resume(full: Any, tmp_path: Path) -> None:
    """transformers by itself only warns, and goes on from the base model's weights."""
    checkpoint = tmp_path / "checkpoint-1"
    shutil.copytree(folder_of(full, 1), checkpoint)
    weights = load_file(checkpoint / WEIGHTS)
    weights["visual.merger.mlp.0.weight"] = weights["visual.merger.mlp.0.weight"][:, :7].contiguous()
    save_file(weights, checkpoint / WEIGHTS, metadata={"format": "pt"})
    resumed = make_trainer(tmp_path / "run", **{**TRAINING, **BOTH_STAGES})
    with pytest.raises(RuntimeError, match="size"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
