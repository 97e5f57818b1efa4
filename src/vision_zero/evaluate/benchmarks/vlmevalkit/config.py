"""VLMEvalKit's configuration and command for one model: its own class on a GPU, or its API class and a server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vision_zero.config.game import beside
from vision_zero.evaluate.benchmarks.options import JUDGE_KEY, BenchmarkConfig, model_type, pixel_bounds
from vision_zero.evaluate.benchmarks.processes import ToolEnvironment, tool_variables
from vision_zero.evaluate.benchmarks.suite import Benchmark

SERVED: dict[str, Any] = beside(__file__)
"""What the entries of all served models have."""
EXACT = "exact_matching"
"""VLMEvalKit's name for no judge. Without it, it takes OpenAI's and falls back without saying so."""


def answer_mode(model: str, config: BenchmarkConfig, environment: ToolEnvironment) -> Literal["direct", "served"]:
    """The way in which a model answers: by VLMEvalKit's own class where that can run, else served.

    That class is for Qwen2.5-VL with whole weights and insists on a GPU and FlashAttention 2. Raises ValueError if it
    was asked for and cannot run.
    """
    reasons = []
    if model_type(model) != "qwen2_5_vl":
        reasons.append(f"its class is for Qwen2.5-VL, not {model_type(model)}")
    if (Path(model) / "adapter_config.json").is_file():
        reasons.append("it loads no LoRA adapter (make an export: python -m vision_zero.export)")
    if config.use_cpu or not environment.gpus:
        reasons.append("it needs a GPU")
    elif not environment.flash_attention:
        reasons.append("its environment has no flash-attn")
    if config.how == "direct" and reasons:
        raise ValueError(f"--how direct, {model}: {'; '.join(reasons)}")
    return "served" if reasons or config.how == "served" else "direct"


def direct_entry(model: str, config: BenchmarkConfig) -> dict[str, Any]:
    low, high = pixel_bounds(model, config)
    path = Path(model)
    return {
        "class": "Qwen2VLChat",
        "model_path": str(path.absolute()) if path.is_dir() else model,
        "min_pixels": low,
        "max_pixels": high,
        "max_new_tokens": config.max_new_tokens,
        "use_custom_prompt": False,
        "post_process": config.post_process,
        "system_prompt": config.system_prompt or None,
    }


def served_entry(name: str, url: str, config: BenchmarkConfig) -> dict[str, Any]:
    r"""The entry of a served model. Pixels and `\boxed{}` are set in the server: VLMEvalKit's API class has neither."""
    own = {"model": name, "api_base": f"{url}/v1/chat/completions", "max_tokens": config.max_new_tokens}
    return {**SERVED, **own, "system_prompt": config.system_prompt or None}


def configuration(name: str, entry: Mapping[str, Any], benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    """The content of VLMEvalKit's `--config` file."""
    data = {one.kit_name: {"class": one.kit_class, "dataset": one.kit_name} for one in benchmarks}
    return {"model": {name: dict(entry)}, "data": data}


def command(python: Path, config_file: Path, work: Path, config: BenchmarkConfig, judge: str | None) -> list[str]:
    words = [str(python), "-m", "vlmeval.run", "--config", str(config_file), "--work-dir", str(work)]
    words += ["--api-nproc", str(config.nproc), "--judge", judge or EXACT]
    if judge and config.judge_url:
        words += ["--judge-base-url", config.judge_url]
    if config.limit:
        words += ["--limit", str(config.limit)]
    return words


def vlmevalkit_variables(config: BenchmarkConfig, judged: bool) -> dict[str, str]:
    """Environment of VLMEvalKit. It has the judge's key: a command line can be read by others on the machine."""
    kept = tool_variables()
    if config.use_cpu:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    if config.data_dir:
        kept["LMUData"] = str(Path(config.data_dir).absolute())
    if judged:
        kept[JUDGE_KEY] = os.environ.get(JUDGE_KEY) or "none"
    return kept
