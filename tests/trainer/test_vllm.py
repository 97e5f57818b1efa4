"""Training whose games are played by the real vLLM engine (`training` of tests/vllm_programs.py)."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from transformers.core_model_loading import Chunk, WeightConverter

from tests.lora_runs import assert_lora_run
from tests.test_scripts import WITH_AN_ENGINE
from tests.trainer_helpers import BENCH_MODEL, make_trainer
from tests.vllm_programs import ITERATIONS, facts
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.models import load_model

SHORT_LORA = ("bfloat16", 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    return facts(folder, ["training"], ["lora", folder, *SHORT_LORA])


@pytest.fixture(scope="module")
def training(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return runs[0]


def test_engine_and_training_agree_at_every_step(training: dict[str, Any]) -> None:
    logs = training["logs"]
    assert len(logs) == ITERATIONS
    assert {line["stage/is_clue"] for line in logs} == {0.0, 1.0}
    assert fmean(line["sampling/sampling_logp_difference/mean"] for line in logs) < 1e-4
    assert fmean(line["sampling/logp_gap/mean"] for line in logs) < 1e-4
    assert all(line["sampling/masked_completions"] == 0 for line in logs)
    for line in logs:
        assert line["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
        assert line["sampling/importance_sampling_ratio/min"] == pytest.approx(1, abs=1e-2)


def test_what_is_logged_beside_the_rest_is_described(training: dict[str, Any]) -> None:
    logged = {name for line in training["logs"] for name in line if name.startswith("sampling/")}
    assert logged == WITH_AN_ENGINE | {"sampling/logp_gap/mean", "sampling/logp_gap/max"}


def test_every_parameter_moves(training: dict[str, Any]) -> None:
    assert training["unmoved"] == []


def test_prompts_come_from_the_engines_cache(training: dict[str, Any]) -> None:
    for line in training["logs"]:
        assert line["rollout/tokens/reused"] > line["rollout/tokens/prefilled"] > 0
        assert line["rollout/tokens/new"] > 0


def test_after_training_games_are_still_those_of_transformers(training: dict[str, Any]) -> None:
    found = training["after"]
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert found["gap"] < 1e-4


def test_a_run_stops_when_the_engine_has_other_weights(training: dict[str, Any]) -> None:
    assert "(sampling/logp_gap/mean, at most 0.001;" in training["refusal"]
    assert "--resume" in training["refusal"]


def test_a_run_stops_when_a_prompt_and_its_completion_do_not_fit(training: dict[str, Any]) -> None:
    assert training["too_long"].startswith("game ")
    assert "a completion of up to 1000 are more than the engine holds, 1024" in training["too_long"]
    assert "--vllm_max_model_length" in training["too_long"]
    assert "the run was saved at" in training["too_long"]


@pytest.mark.parametrize(
    ("dtype", "iterations"),
    [
        SHORT_LORA,
        pytest.param("bfloat16", 50, marks=pytest.mark.slow),
        pytest.param("float32", 50, marks=pytest.mark.slow),
    ],
)
def test_lora_leaves_its_base_as_it_was_published(
    dtype: str, iterations: int, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    if (dtype, iterations) == SHORT_LORA:
        assert_lora_run(runs[1], dtype, iterations)
    else:
        (found,) = facts(tmp_path, ["lora", tmp_path, dtype, iterations])
        assert_lora_run(found, dtype, iterations)
        (again,) = facts(tmp_path, ["lora", tmp_path, dtype, iterations, iterations // 4 * 2])
        assert again["after"] == found["before"]
        assert again["adapter"] == found["adapter"], "a resumed run is the run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vllm_mode": "nowhere"}, "vllm_mode=nowhere"),
        ({"vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size=2"),  # of one process
        ({"vllm_structured_outputs_regex": "a+"}, "vllm_structured_outputs_regex=a"),
        ({"vllm_max_num_seqs": 0}, "vllm_max_num_seqs=0"),
        ({"vllm_dtype": "banana"}, "vllm_dtype=banana must be one of auto, float32"),
        ({"vllm_model_impl": "nonsense"}, "vllm_model_impl=nonsense"),
        ({"vllm_importance_sampling_mode": "nonsense"}, "vllm_importance_sampling_mode=nonsense"),
        ({"vllm_importance_sampling_clip_max": -1.0}, "vllm_importance_sampling_clip_max=-1"),
        ({"vllm_gpu_memory_utilization": 7.0}, "vllm_gpu_memory_utilization=7"),
        ({"vllm_max_model_length": -1}, "vllm_max_model_length=-1"),
        ({"vllm_enable_sleep_mode": True}, "vllm_enable_sleep_mode=True"),
        ({"vllm_mode": "server", "vllm_server_port": 70000}, "vllm_server_port=70000 must be a port"),
        ({"vllm_mode": "server", "vllm_group_port": 0}, "vllm_group_port=0 must be a port"),
        ({"vllm_mode": "server", "vllm_server_timeout": 0.0}, "vllm_server_timeout=0"),
        ({"vllm_mode": "server", "vllm_server_base_url": "gpu-box:8000"}, "vllm_server_base_url=gpu-box:8000"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://a:1,b:1"}, "vllm_server_base_url=b:1 must be"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://a:1 http://a:1/"}, "has http://a:1 twice"),
        ({"vllm_mode": "server", "vllm_server_base_url": ","}, "vllm_server_base_url= must be http://HOST:PORT"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://a:1/v1"}, "vllm_server_base_url=http://a:1/v1 must"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://u:p@a:1"}, "must be http://HOST:PORT, or several"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://a:65536"}, "vllm_server_base_url=http://a:65536 must"),
        ({"vllm_mode": "server", "vllm_server_base_url": "http://a:b"}, "vllm_server_base_url=http://a:b must be"),
        (
            {"vllm_mode": "server", "vllm_server_base_url": "http://a:1;http://b:1"},
            "must be http://HOST:PORT, or several",
        ),
        (
            {"vllm_mode": "server", "vllm_server_base_url": "http://a:1,http://b:1", "vllm_group_port": 65535},
            "vllm_group_port=65535 must be a port, 1 to 65534",
        ),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Any], words: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=words):
        IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, use_vllm=True, **options)


def test_a_family_whose_weights_cannot_be_sent_one_by_one_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    """As it would be loaded from a file that holds several of the model's weights as one."""
    model = load_model(BENCH_MODEL, dtype="float32")
    split = WeightConverter("qkv", ["q_proj", "k_proj", "v_proj"], operations=[Chunk(dim=0)])
    model._weight_conversions = [*(model._weight_conversions or ()), split]
    with pytest.raises(ValueError, match=r"vLLM cannot play Qwen2_5_VL.*: its \['q_proj', 'k_proj', 'v_proj'\] are"):
        make_trainer(tmp_path, model=model, use_vllm=True)
