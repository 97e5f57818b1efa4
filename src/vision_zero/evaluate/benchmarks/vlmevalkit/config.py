"""VLMEvalKit's configuration and command for one model: its own class on a GPU, or its API class and a server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision_zero.evaluate.benchmarks.options import JUDGE_KEY, QWEN_PIXELS, BenchmarkConfig
from vision_zero.evaluate.benchmarks.suite import Benchmark
from vision_zero.models import base_folder, check_model

EXACT = "exact_matching"
"""VLMEvalKit's name for no judge. Without it, it takes OpenAI's and falls back without saying so."""
NOT_PASSED_ON = re.compile(
    r"(OPENAI|AZURE_OPENAI|LMDEPLOY|VLMEVAL|LMMS|BOYUE)_.*|PRED_FORMAT|EVAL_FORMAT|EVAL_PROXY|MMEVAL_ROOT|SKIP_ERR|"
    r"SPLIT_THINK|LOCAL_LLM|FWD_API|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV"
)
"""Variables by which the tools read other formats, other judges or other models than this run records."""


@dataclass(frozen=True)
class ToolEnvironment:
    """What the tool's Python has."""

    python: Path
    versions: Mapping[str, str]
    gpus: int
    flash_attention: bool


_LOOK = """
import importlib.metadata as metadata, importlib.util, json, platform
import torch
versions = {name: metadata.version(name) for name in NAMES}
print(json.dumps({"versions": {"python": platform.python_version(), **versions}, "gpus": torch.cuda.device_count(),
                  "flash_attention": importlib.util.find_spec("flash_attn") is not None}))
"""


def look_at(python: Path, packages: Sequence[str], setup: str) -> ToolEnvironment:
    """Raises ValueError, naming the script that makes the environment, where `packages` are not in it."""
    advice = f"make the environment with: bash run_scripts/setup_vlmevalkit.sh{setup}"
    if not python.is_file():
        raise ValueError(f"{python} is not there; {advice}")
    code = _LOOK.replace("NAMES", repr([*packages, "torch", "transformers"]))
    environment = {name: value for name, value in os.environ.items() if not NOT_PASSED_ON.fullmatch(name)}
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["it does not run"])[-1]
        raise ValueError(f"{python}: {reason}; {advice}")
    return ToolEnvironment(python=python, **json.loads(asked.stdout.splitlines()[-1]))


def model_type(model: str) -> str:
    """`model_type` of the model's configuration, such as qwen2_5_vl."""
    config = json.loads((base_folder(check_model(model)) / "config.json").read_text("utf-8"))
    return str(config.get("model_type"))


def pixel_bounds(model: str, config: BenchmarkConfig) -> tuple[int | None, int | None]:
    """What was asked for, else VLMEvalKit's bounds for Qwen's families, else (None, None)."""
    low, high = QWEN_PIXELS if "qwen" in model_type(model) else (None, None)
    return config.min_pixels or (low and min(low, config.max_pixels or low)), config.max_pixels or high


def choose(model: str, config: BenchmarkConfig, environment: ToolEnvironment) -> Literal["direct", "served"]:
    """VLMEvalKit's class if it can run: Qwen2.5-VL's, whole weights, a GPU, FlashAttention 2, which it insists on.

    Raises ValueError if that was asked for and cannot be.
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
    r"""Pixels and `\boxed{}` are the server's business: VLMEvalKit's API class knows neither."""
    return {
        "class": "LMDeployAPI",
        "model": name,
        "api_base": f"{url}/v1/chat/completions",
        "key": "none",
        "temperature": 0,
        "max_tokens": config.max_new_tokens,
        "retry": 3,
        "wait": 1,
        "timeout": 3600,
        "verbose": False,
        "system_prompt": config.system_prompt or None,
    }


def configuration(name: str, entry: Mapping[str, Any], benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    """What `--config` of VLMEvalKit reads."""
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


def kit_environment(config: BenchmarkConfig, judged: bool) -> dict[str, str]:
    """The judge's key goes this way: a command line can be read by others on the machine."""
    kept = {name: value for name, value in os.environ.items() if not NOT_PASSED_ON.fullmatch(name)}
    local = ",".join(filter(None, (kept.get("NO_PROXY"), "127.0.0.1", "localhost")))
    kept |= {"NO_PROXY": local, "no_proxy": local, "PYTHONUNBUFFERED": "1"}
    if config.use_cpu:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    if config.data_dir:
        kept["LMUData"] = str(Path(config.data_dir).absolute())
    if judged:
        kept[JUDGE_KEY] = os.environ.get(JUDGE_KEY) or "none"
    return kept
