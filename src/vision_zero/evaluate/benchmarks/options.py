"""The options of `python -m vision_zero.evaluate vlmevalkit`, checked before anything starts."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from vision_zero.config.game import Precision, option, option_list
from vision_zero.evaluate.benchmarks.suite import Benchmark, find_benchmarks
from vision_zero.models import base_folder, base_of, check_model, files_of, find_models, run_of
from vision_zero.run_folder import EXPORT, read_config

SYSTEM_PROMPT = "Think about the question first. Then give the final answer inside \\boxed{}."
QWEN_PIXELS = (1280 * 28 * 28, 16384 * 28 * 28)  # of an image, with which VLMEvalKit's own table has Qwen2.5-VL
PYTHONS = {"vlmevalkit": ".venv-vlmevalkit/bin/python", "lmms-eval": ".venv-lmms-eval/bin/python"}
JUDGE_KEY = "OPENAI_API_KEY"


@dataclass
class BenchmarkConfig:
    """Models and benchmarks, generation, and the judge."""

    base: str | None = option(None, "Model to compare with, scored in the same run; none: where training began")
    benchmarks: list[str] = option_list("VLMEvalKit's names (or lmms-eval's tasks), or the groups paper, no-judge")
    tool: str = option("vlmevalkit", "Who scores: vlmevalkit or lmms-eval (also --with)")
    out: str = option("runs/benchmarks", "Folder of scores, logs and result.json; what is complete there is kept")
    how: Literal["auto", "direct", "served"] = option(
        "auto", "direct: VLMEvalKit's own class for Qwen2.5-VL, on a GPU; served: any family behind a local API"
    )
    min_pixels: int | None = option(None, "Fewest pixels of an image; none: 1003520 for Qwen, as VLMEvalKit")
    max_pixels: int | None = option(None, "Most pixels of an image; none: 12845056 for Qwen, as VLMEvalKit")
    system_prompt: str = option(SYSTEM_PROMPT, "Said before every question, to all models alike; '' for none")
    post_process: bool = option(True, "Score what stands in the last \\boxed{} of a completion")
    max_new_tokens: int = option(2048, "Longest completion [VLMEvalKit]")
    dtype: Precision = option("auto", "Precision of a served model; auto: float32 on a CPU, else the model's own")
    use_cpu: bool = option(False, "Do not use a GPU")
    max_batch: int = option(16, "Requests that a served model answers at once")
    nproc: int = option(16, "Requests that are under way at once")
    limit: int | None = option(None, "Only the first so many questions of each, to try it out")
    seed: int = option(0, "Seed of the bootstrap; answers are greedy")
    judge_model: str | None = option(None, "Name of the judge, for benchmarks that need one")
    judge_url: str | None = option(None, "Address of a local judge, such as http://127.0.0.1:8001/v1; none: OpenAI's")
    data_dir: str | None = option(None, "VLMEvalKit's data folder (LMUData); it downloads what is missing")
    include_path: str | None = option(None, "Folder of own lmms-eval tasks")
    metric: str | None = option(None, "lmms-eval's metric to compare; none: the task's first with a value per question")
    python: str | None = option(None, "Python of the tool's environment; none: the one its setup script makes")
    server_timeout: float = option(900.0, "Seconds within which a served model must be up")
    keep_requests: bool = option(False, "Keep every request and answer of a served model as JSONL")
    fill: str | None = option(None, "Markdown file whose table between the markers is written anew")
    dry_run: bool = option(False, "Say what would run, and stop")


@dataclass(frozen=True)
class BenchmarkOptions:
    """Checked options. `models`: folders or Hub names; the base is not among them."""

    models: list[str]
    base: str
    config: BenchmarkConfig

    @property
    def out(self) -> Path:
        return Path(self.config.out).absolute()

    @property
    def python(self) -> Path:
        """The tool's Python, not resolved: what a link in an environment points to is another Python."""
        if self.config.python:
            return Path(self.config.python).absolute()
        return Path(__file__).resolve().parents[4] / PYTHONS[self.config.tool]

    def benchmarks(self) -> list[Benchmark]:
        """The benchmarks, each once. Raises ValueError for a name that VLMEvalKit, if it is the tool, does not know."""
        if self.config.tool == "lmms-eval":
            return [Benchmark(name) for name in dict.fromkeys(self.config.benchmarks)]
        folder = self.config.data_dir and Path(self.config.data_dir)
        own = [path.stem for path in folder.glob("*.tsv")] if folder else []
        return find_benchmarks(self.config.benchmarks, own)


def parse(arguments: Sequence[str]) -> BenchmarkOptions | BenchmarkConfig:
    """The checked options, or the bare ones when no model is named, which then only ask for --fill.

    Raises ValueError for what is missing, unknown or does not fit.
    """
    parser = HfArgumentParser(
        BenchmarkConfig,
        prog="python -m vision_zero.evaluate vlmevalkit",
        description="Score models and their base on benchmarks in one run, and compare them question by question.",
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="run folders, checkpoints, exports, Hub names")
    words = ["--tool" if word == "--with" else word for word in arguments]
    words = [f"--tool={word.removeprefix('--with=')}" if word.startswith("--with=") else word for word in words]
    config, rest = parser.parse_args_into_dataclasses(words)
    if config.tool not in PYTHONS:
        raise ValueError(f"--with {config.tool}: must be one of {', '.join(PYTHONS)}")
    if not rest.models:
        if not config.fill:
            raise ValueError("no model: name one or more run folders, checkpoints, exports or models")
        return config
    named = [find_models([name])[-1] for name in rest.models]  # of a run, the last checkpoint
    exports = [(model, Path(model) / EXPORT) for model in named]  # which other environments can load
    models = [str(export) if (export / "config.json").is_file() else model for model, export in exports]
    base = config.base or base_model(models[0])
    check_numbers(config)
    options = BenchmarkOptions([model for model in models if model != base], base, config)
    for model in (base, *options.models):
        check_model(model)
    check_tool(options)
    return options


def base_model(model: str) -> str:
    """The model that `model` was trained from. Raises ValueError when its files do not say."""
    path = Path(model)
    for folder in (path, path.parent):
        try:
            return base_of(folder)
        except FileNotFoundError:
            continue
    run = run_of(model)
    if run is not None and (name := read_config(run).get("model_name_or_path")):
        return str(name)
    raise ValueError(f"{model} does not say which model it was trained from: give --base")


def check_numbers(config: BenchmarkConfig) -> None:
    """Check the values of numeric options. Raises ValueError by the option's name."""
    for name in ("max_new_tokens", "max_batch", "nproc", "server_timeout", "limit", "min_pixels", "max_pixels"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name} {value} must be above 0")
    if config.min_pixels and config.max_pixels and config.min_pixels > config.max_pixels:
        raise ValueError(f"--min_pixels {config.min_pixels} is more than --max_pixels {config.max_pixels}")


def check_tool(options: BenchmarkOptions) -> None:
    """Check the options against the tool. Raises ValueError for unknown benchmarks or options and a missing judge."""
    config = options.config
    if not config.benchmarks:
        raise ValueError("no benchmark: give --benchmarks with names, or a group: paper, no-judge")
    if config.data_dir and not Path(config.data_dir).is_dir():
        raise ValueError(f"--data_dir {config.data_dir}: there is no such folder")
    if config.tool == "lmms-eval":
        if config.how == "direct":
            raise ValueError("--how direct goes with VLMEvalKit; lmms-eval asks a served model")
        if config.include_path and not Path(config.include_path).is_dir():
            raise ValueError(f"--include_path {config.include_path}: there is no such folder")
        return
    if config.include_path or config.metric:
        raise ValueError("--include_path and --metric go with --with lmms-eval")
    judged = [one.kit_name for one in options.benchmarks() if one.needs_judge]
    if judged and not config.judge_model:
        raise ValueError(
            f"{', '.join(judged)} need a judge, a language model that reads the answers: give --judge_model NAME, and "
            "--judge_url for a local one; --benchmarks no-judge leaves them out"
        )
    if judged and not config.judge_url and not os.environ.get(JUDGE_KEY):
        raise ValueError(f"--judge_model {config.judge_model} without --judge_url is OpenAI's, which needs {JUDGE_KEY}")
    if config.judge_model and not judged:
        print("note: none of these benchmarks needs a judge; --judge_model is not used", file=sys.stderr)


def model_type(model: str) -> str:
    config = json.loads((base_folder(files_of(model)) / "config.json").read_text("utf-8"))
    return str(config.get("model_type"))


def pixel_bounds(model: str, config: BenchmarkConfig) -> tuple[int | None, int | None]:
    """Least and most pixels of an image: as asked, else VLMEvalKit's bounds for Qwen's families, else (None, None)."""
    low, high = QWEN_PIXELS if "qwen" in model_type(model) else (None, None)
    return config.min_pixels or (low and min(low, config.max_pixels or low)), config.max_pixels or high
