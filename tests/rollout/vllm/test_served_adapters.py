"""A LoRA adapter that a real vLLM server loads alone: nothing stands in for the weights' way, which is a file."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel, ProcessorMixin

from tests.process_helpers import ROOT, flags, metrics, running, train, train_well, wait_for
from tests.rollout.vllm.test_server import (
    GREEDY,
    MAX_PIXELS,
    assert_same_games,
    assert_same_recorded_games,
    played,
    processor,
)
from tests.tiny_games import BENCH_MODEL, bench_model, noise_pairs, tiny_games
from tests.trainer.test_families import save_internvl, saved_family
from tests.vllm_server_helpers import RunningServer, vllm_server
from vision_zero.rollout.lora import language_layers
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.rollout.vllm.client import ServerOptions, VLLMServerError
from vision_zero.rollout.vllm.server import ServerEngine, check_served, load_adapter
from vision_zero.trainer.logp_gap import LOGPROB_GAP

__all__ = ["processor"]  # fixture
TARGETS = r".*language_model.*\.(q_proj|v_proj|o_proj|gate_proj|down_proj)"
RANK = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    with vllm_server(BENCH_MODEL, MAX_PIXELS, log, "--enable-lora", "--max-lora-rank", "8") as server:
        yield server


def adapted(model: PreTrainedModel, seed: int, **options: Any) -> PeftModel:
    torch.manual_seed(seed)
    return with_random_adapter(get_peft_model(model, LoraConfig(**{"r": RANK, "target_modules": TARGETS, **options})))


def with_random_adapter(model: Any) -> PeftModel:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    return model


def engine_for(server: RunningServer, model: Any, processor: ProcessorMixin, folder: Path) -> ServerEngine:
    options = [ServerOptions(server.url, silence_timeout=60)]
    return ServerEngine(model, Accelerator(cpu=True), processor, GREEDY, options, folder=folder)


def test_games_are_those_of_the_transformers_policy_with_the_adapter_of_the_moment(
    server: RunningServer, processor: ProcessorMixin, tmp_path: Path
) -> None:
    """The server's base is what it loaded from the model's folder."""
    model = adapted(bench_model(), 1, lora_alpha=16, use_rslora=True)
    engine, before = engine_for(server, model, processor, tmp_path), None
    for seed in (2, 3, 4):  # more than there are folders
        torch.manual_seed(seed)
        with_random_adapter(model)
        engine.sync_weights()
        with engine.awake():
            found = played(engine.policy())
        assert_same_games(found, played(TransformersPolicy(model, processor, GREEDY)))
        assert found != before
        before = found
    served = [one["id"] for one in engine.servers.alive[0].call("GET", "/v1/models").json()["data"]]
    assert served[1:] == [engine.adapter]
    with model.disable_adapter():
        assert played(TransformersPolicy(model, processor, GREEDY)) != before


RUN: dict[str, Any] = {
    "model_name_or_path": BENCH_MODEL,
    "max_pixels": MAX_PIXELS,
    "iterations": 4,
    "learning_rate": 3e-3,
    "reward_control": "random",  # for words without meaning
    "use_peft": True,
    "lora_r": RANK,
    "lora_target_modules": "language",
    "lora_dropout": 0.0,
    "temperature": 0.7,
    "use_vllm": True,
    "vllm_mode": "server",
}


@pytest.fixture(scope="module")
def whole(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train_well(run, **RUN, vllm_server_base_url=server.url)
    return run


def assert_same_run(run: Path, expected: Path) -> None:
    """The same games, and the same adapter to rounding."""
    assert_same_recorded_games(run, expected, RUN["iterations"])
    found, like = (load_file(one / "checkpoint-4" / "adapter_model.safetensors") for one in (run, expected))
    assert found.keys() == like.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, like[name], atol=1e-3, rtol=0)


def test_a_run_is_played_by_the_adapter_that_trains(whole: Path) -> None:
    """By the command that users start, without a GPU: log-probabilities as they were sampled are those of training."""
    assert sorted(folder.name for folder in (whole / "served_adapter").iterdir()) == ["0", "1"]
    lines = metrics(whole)
    assert len(lines) == RUN["iterations"]
    assert max(line[LOGPROB_GAP + "max"] for line in lines) < 1e-4
    weights = load_file(whole / "checkpoint-4" / "adapter_model.safetensors")
    assert max(weight.abs().max().item() for name, weight in weights.items() if "lora_B" in name) > 3e-3


def test_a_resumed_run_is_played_by_its_adapter(server: RunningServer, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoint-4")
    train_well(run, **RUN, vllm_server_base_url=server.url, resume=True)
    assert_same_run(run, whole)


def test_a_server_that_does_not_see_the_folder_is_refused(
    server: RunningServer, processor: ProcessorMixin, tmp_path: Path
) -> None:
    """As one on another machine, where there is nothing of that name."""
    (one,) = engine_for(server, adapted(bench_model(), 1), processor, tmp_path).servers.alive
    with pytest.raises(VLLMServerError, match=r"cannot load .*/nowhere .*: it must see the run's folder at this path"):
        load_adapter(one, "run-1", tmp_path / "nowhere", "")


def test_an_adapter_of_the_tower_is_refused(server: RunningServer, processor: ProcessorMixin, tmp_path: Path) -> None:
    """vLLM takes it, and plays without. `gate_proj` is a layer of both parts."""
    engine = engine_for(server, adapted(bench_model(), 1, target_modules=["gate_proj"]), processor, tmp_path)
    with pytest.raises(VLLMServerError, match=r"leave out the adapter of visual\.blocks\.0\.mlp\.gate"):
        engine.sync_weights()


FAMILIES = ["qwen2-vl", "qwen3-vl", "smolvlm2", "mistral3", "internvl3 in tiles"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_plays_the_same_games(name: str, tmp_path: Path) -> None:
    """The layers of the language model have vLLM's names, whatever the family calls them."""
    family = saved_family(name, tmp_path / "model")
    if "internvl" in name:
        save_internvl(family.folder, head_dim=32)  # the least that vLLM has on a CPU
    model = family.load()
    model = adapted(model, 1, target_modules=language_layers(model))
    with vllm_server(family.folder, 0, tmp_path / "log", "--enable-lora", "--max-lora-rank", "8") as server:
        engine = engine_for(server, model, family.processor(), tmp_path)
        engine.sync_weights()
        games = tiny_games(2, pairs=noise_pairs(2, size=family.image_size), n_rounds=1, n_votes=2)
        with engine.awake():
            found = played(engine.policy(), games)
    expected = played(TransformersPolicy(model, family.processor(), GREEDY), games)
    assert_same_games(found, expected)
    with model.disable_adapter():
        assert played(TransformersPolicy(model, family.processor(), GREEDY), games) != expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use_dora": True}, "vLLM does not serve an adapter with use_dora: start the server without --enable-lora"),
        ({"modules_to_save": ["norm"]}, "an adapter with modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, "vLLM does not serve the adapter of an embedding ("),
        ({"rank_pattern": {"q_proj": 2}}, "an adapter with rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "an adapter with alpha_pattern"),
        ({"r": 9}, "lora_r=9, the server has --max-lora-rank 8: start it with more"),
    ],
)
def test_what_vllm_does_not_compute_alike_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(VLLMServerError, match=re.escape(says)):
        check_served(adapted(bench_model(), 1, **options), 8)


def test_weights_that_are_no_adapter_are_refused() -> None:
    with pytest.raises(VLLMServerError, match="all weights train, and the server has LoRA"):
        check_served(bench_model(), 8)
    four_bits = adapted(bench_model(), 1)
    four_bits.base_model.model.is_loaded_in_4bit = True
    with pytest.raises(VLLMServerError, match=re.escape("no 4 bits as training has (load_in_4bit)")):
        check_served(four_bits, 8)


def test_a_run_of_all_weights_is_refused_by_the_command(server: RunningServer, tmp_path: Path) -> None:
    finished = train(
        tmp_path / "run",
        **{name: RUN[name] for name in RUN if "lora" not in name and name != "use_peft"},
        vllm_server_base_url=server.url,
    )
    assert finished.status == 1
    assert "NCCL, which needs a GPU" in finished.output.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"deepspeed": ROOT / "configs" / "deepspeed" / "zero3.json"}], ids=["DDP", "ZeRO-3"]
)
def test_processes_have_one_adapter(
    options: dict[str, Any], server: RunningServer, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = {"processes": 2, "per_device_train_batch_size": 2, "vllm_server_base_url": server.url, **options}
    train_well(run, **RUN, **more)
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_server_that_is_killed_is_gone_on_without(whole: Path, server: RunningServer, tmp_path: Path) -> None:
    """The other one has the adapter too, and plays the same games."""
    run = tmp_path / "run"
    with vllm_server(BENCH_MODEL, MAX_PIXELS, tmp_path / "log", "--enable-lora", "--max-lora-rank", "8") as other:
        words = flags(**RUN, output_dir=run, vllm_server_base_url=f"{other.url},{server.url}")
        with running(*words, log=tmp_path / "train") as process:
            wait_for((run / "metrics.jsonl").exists, process)
            other.signal(signal.SIGKILL)
            assert process.wait(300) == 0, (tmp_path / "train").read_text()
    assert "the run goes on with 1 of 2 servers" in (tmp_path / "train").read_text()
    assert_same_run(run, whole)
