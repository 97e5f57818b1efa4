"""FSDP2: what is split, what is refused, and runs that go on; that it trains like one process: test_distributed.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from tests.process_helpers import ROOT, assert_same_run, metrics, train, train_well, weights
from tests.trainer.test_distributed import FSDP, WIDE, assert_same_games, assert_same_metrics
from tests.trainer.test_families import saved_family
from vision_zero.config.checks import read_fsdp_config
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.config.parse import parse, resolved
from vision_zero.models import load_model
from vision_zero.run_folder import RunFolderError
from vision_zero.trainer import resume

FILE = ROOT / "configs" / "fsdp2.yaml"
WORDS = ["--images", "drawn:4", "--model_name_or_path", str(ROOT / "data" / "tiny_vlm"), "--report_to", "none"]


def config(tmp_path: Path, given: Any = str(FILE), **options: Any) -> IterativeSPOConfig:
    return IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[], fsdp_config=given, **options)


def test_the_file_is_what_transformers_gets_and_what_is_written_down(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert made.fsdp is True
    assert made.fsdp_config.items() >= yaml.safe_load(FILE.read_text("utf-8")).items()
    plugin = FullyShardedDataParallelPlugin(**made.fsdp_plugin_args)
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert config(tmp_path, '{"reshard_after_forward": false}').fsdp_plugin_args["reshard_after_forward"] is False


def test_a_run_is_resumed_with_the_options_of_the_file(tmp_path: Path) -> None:
    written = resolved(*parse([*WORDS, "--use_cpu", "--fsdp_config", str(FILE)]))
    assert "fsdp" not in written, "follows from fsdp_config"
    (tmp_path / "config.yaml").write_text(json.dumps(written), "utf-8")
    assert resolved(*parse(["--config", str(tmp_path / "config.yaml")])) == written


def test_bfloat16_stays_in_the_forward(tmp_path: Path) -> None:
    """accelerate's own policy rounds the log-probs that a forward returns, and adds gradients up in bfloat16."""
    policy = config(tmp_path, bf16=True).fsdp_plugin_args["mixed_precision_policy"]
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


@pytest.mark.parametrize("text", ["", "- fsdp_version\n", "two"])
def test_a_file_without_names_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^fsdp_config=.*: cannot be read: it must have names and values"):
        read_fsdp_config(str(file))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing.yaml", "fsdp_config=missing.yaml: cannot be read: .*No such file"),
        ("{", "fsdp_config={: cannot be read: "),
        (str(ROOT / "LICENSE"), "fsdp_config"),
        ("[1]", "fsdp_config"),
        ({"fsdp_version": 1}, "fsdp_config has fsdp_version=1, and may have {'fsdp_version': .2., 'resh"),
        ({"cpu_offload": True}, "fsdp_config has cpu_offload=True, and may have .*, as configs/fsdp2.yaml"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as refused:
        config(tmp_path, given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--deepspeed", "configs/deepspeed/zero3.json"], "^deepspeed=.* splits weights too: give either"),
        (["--use_vllm", "true", "--vllm_mode", "server"], "^vllm_mode=server is not supported with fsdp_config; use"),
        (["--load_in_4bit", "true", "--use_peft", "true"], "QLoRA.* without ZeRO or FSDP"),
        (["--fsdp", "true"], "^fsdp=.* is not supported: give the file of its options, --fsdp_config"),
    ],
)
def test_what_does_not_go_with_it_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse([*WORDS, "--use_cpu", "--fsdp_config", str(FILE), *words])


NOTHING_IS_SPLIT = """
from accelerate import accelerator
from tests import fsdp_train
accelerator.fsdp2_prepare_model = lambda _, model: model
fsdp_train.main()
"""


def test_a_parameter_that_is_whole_after_all_is_named(tmp_path: Path) -> None:
    finished = train(tmp_path / "run", **{**FSDP, "program": ["-c", NOTHING_IS_SPLIT]})
    assert finished.status == 1
    last = finished.output.strip().splitlines()[-1]
    assert re.fullmatch(r"error: fsdp_config: \S+weight is not split; use --deepspeed \S+zero3.json", last)
    assert "Traceback" not in finished.output


@pytest.mark.parametrize(
    ("processes", "kind"),
    [(1, "torchrun"), (2, "accelerate makes this MULTI_CPU: FSDP is --fsdp_config, torchrun and GPUs")],
)
def test_where_accelerate_falls_back_it_is_refused(processes: int, kind: str, tmp_path: Path) -> None:
    """Without that, the run would be plain data parallelism, with every weight whole everywhere."""
    finished = train(tmp_path / "run", processes=processes, fsdp_config=FILE)
    assert finished.status == 1
    last = finished.output.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert kind in last
    assert "Traceback" not in finished.output


@pytest.mark.slow
def test_a_reference_and_past_players_are_split_too(tmp_path: Path) -> None:
    """In processes that do unequal numbers of forwards in a rollout, with checkpointed activations."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, **WIDE)
    train_well(two, **FSDP, **WIDE)
    assert_same_games(one, two)
    assert_same_metrics(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
def test_a_resumed_run_is_the_unbroken_one_and_on_more_processes_plays_its_games(lora: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {**FSDP, "save_steps": 1}
    if lora:
        options |= {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_well(whole, **options)
    assert not list(whole.glob("checkpoint-*/pytorch_model*")), "a second copy of the weights"
    more = tmp_path / "more"
    for copy in (broken, more):
        shutil.copytree(whole, copy)
        for step in (3, 4):
            shutil.rmtree(copy / f"checkpoint-{step}")
    finished = train_well(broken, **options, resume=True)
    assert f"resuming from {broken}/checkpoint-2" in finished.output
    assert_same_run(broken, whole, last=4)
    assert weights(broken / "checkpoint-4/export").keys() == weights(whole / "checkpoint-4/export").keys()
    finished = train_well(more, **{**options, "processes": 4}, resume=True)
    assert "resumed on 4 processes (was 2): its games are the same" in finished.output
    assert_same_games(whole, more)
    assert_same_metrics(whole, more)
    with pytest.raises(RunFolderError, match=r"has no optimizer.pt; resume with the --deepspeed or --fsdp_config"):
        resume.read_state(whole / "checkpoint-4", {"fsdp_config": None})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen3-vl-moe"])
def test_a_family_that_names_layers_it_does_not_have_is_split(name: str, tmp_path: Path) -> None:
    """Gemma 3's list has layers of SigLIP's text model; Qwen3-VL's experts are single weights of three dimensions."""
    family = saved_family(name, tmp_path / "model")
    options = {"max_pixels": None, "iterations": 2, "max_clue_tokens": 6, "max_vote_tokens": 4}
    train_well(tmp_path / "run", **FSDP, model_name_or_path=family.folder, **options)
    exported = load_model(tmp_path / "run" / "checkpoint-2" / "export").state_dict()
    assert exported.keys() == load_model(family.folder).state_dict().keys()


@pytest.mark.slow
def test_weights_that_break_stop_all_processes_in_one_line(tmp_path: Path) -> None:
    finished = train(tmp_path / "run", **FSDP, iterations=6, learning_rate=1e30)
    assert finished.status == 1
    assert "Traceback" not in finished.output
    line = finished.output.strip().splitlines()[-1]
    assert line.startswith("error: after step ")
    assert "not finite" in line


@pytest.mark.slow
def test_bfloat16_trains_and_resumes_with_float32_masters(tmp_path: Path) -> None:
    """The model is loaded in bfloat16, and would round the masters of a checkpoint that were put into it."""
    options = {**FSDP, "bf16": True, "dtype": "bfloat16", "iterations": 2, "save_steps": 1}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_well(whole, **options)
    assert {weight.dtype for weight in weights(whole / "checkpoint-2").values()} == {torch.float32}
    assert all(line["sampling/logp_gap/mean"] < 0.01 for line in metrics(whole))
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoint-2")
    train_well(broken, **options, resume=True)
    assert_same_run(broken, whole, last=2)
