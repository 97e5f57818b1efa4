"""Shared code of the benchmarks: games on noise images, a vLLM engine, machine facts, one table and one JSON line."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForImageTextToText

from vision_zero.models import load_processor
from vision_zero.types import GameRules, ImagePair

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "tests" / "models" / "bench_model"
TEMPLATE = HERE / "template.txt"
MAX_MODEL_LENGTH = 4096

# CPU seconds per game of the public implementation (commit fa3c01c, torch 2.7.1, transformers 4.49) on the same models,
# players, lengths and image size, in November 2026, on a thread whose matrix products reached PUBLIC_PEAK. Its vision
# attention was taken block by block, as FlashAttention would; with the dense mask of that transformers it takes 2 to 4
# times as long. Its clue step trains the votes too, 80.2 s at 71 M parameters; 60.95 s is the step without them.
PUBLIC_PEAK = 98e9
PUBLIC = {
    "bench_model": {"rollout": 0.753, "decision step": 1.262, "clue step": 1.719},
    "71m": {"rollout": 22.3, "decision step": 53.4, "clue step": 60.95},
}


@dataclass(frozen=True)
class NoiseImage:
    """Image of random bytes: no decoding, no compression, the same on every machine."""

    seed: int
    width: int
    height: int

    @property
    def name(self) -> str:
        return f"noise-{self.seed}-{self.width}x{self.height}"

    def open(self) -> Image.Image:
        size = (self.width, self.height)
        return Image.frombytes("RGB", size, random.Random(self.seed).randbytes(3 * self.width * self.height))


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="bench_model", help="bench_model (0.4 M parameters), 71m, or a folder")
    parser.add_argument("--games", type=int, default=32)
    parser.add_argument("--players", type=int, default=4, help="with the spy")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--votes", type=int, default=8, help="G")
    parser.add_argument("--tokens", type=int, default=64, help="sampled tokens of every completion, exactly")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--template", default=str(TEMPLATE), help="wording; the default gives prompts of 385 tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256, help="completions generated at once")
    return parser


def model_folder(name: str) -> str:
    """The folder of `--model`; the model of 71 M parameters is made, with random weights."""
    if name == "71m":
        folder = tempfile.mkdtemp(prefix="vision-zero-71m-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        save_71m(Path(folder))
        return folder
    return str(MODEL) if name == "bench_model" else name


def save_71m(folder: Path) -> None:
    """A Qwen2.5-VL with the shape of real ones: 4 query heads to a key, most weights in the layers."""
    for file in MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    config |= {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2}
    config["intermediate_size"] = 2048
    config["rope_scaling"]["mrope_section"] = [8, 12, 12]
    seen = {"depth": 6, "hidden_size": 512, "num_heads": 8, "intermediate_size": 1408, "out_hidden_size": 512}
    config["vision_config"] |= seen
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.save_pretrained(folder)


def matmul_peak(seconds: float = 0.3) -> float:
    """FLOP/s per CPU second of float32 products of 1024 x 1024 matrices, with the threads that torch has now."""
    left, right = torch.randn(2, 1024, 1024)
    left @ right
    start, n_products = time.process_time(), 0
    while (taken := time.process_time() - start) < seconds:
        left @ right
        n_products += 1
    return n_products * 2 * 1024**3 / taken


def scaled_public(model: str, part: str, peak: float) -> float | None:
    """The public code's CPU seconds per game, scaled to a thread of `peak` FLOP/s; None for another model."""
    return PUBLIC[model][part] * PUBLIC_PEAK / peak if model in PUBLIC else None


def pairs(options: argparse.Namespace) -> list[ImagePair]:
    size = (options.width, options.height)
    return [
        ImagePair(str(k), NoiseImage(2 * k, *size), NoiseImage(2 * k + 1, *size), "scenes")
        for k in range(options.games)
    ]


def rules(options: argparse.Namespace) -> GameRules:
    return GameRules(n_civilians=options.players - 1, n_rounds=options.rounds, n_votes=options.votes)


def vllm_engine(model: Any, options: argparse.Namespace) -> Any:
    """An engine for `model`, in its precision, that works on `options.max_num_seqs` completions at once."""
    on_cpu = model.device.type == "cpu"
    if on_cpu:  # threads are bound to cores by default, which is for servers that have a machine to themselves
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from accelerate import Accelerator

    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.vllm.colocate import ColocatedEngine
    from vision_zero.rollout.vllm.requests import EngineOptions

    return ColocatedEngine(
        model,
        Accelerator(cpu=on_cpu),
        load_processor(options.folder),
        Sampling(),
        EngineOptions(
            max_num_seqs=options.max_num_seqs,
            max_model_length=MAX_MODEL_LENGTH,
            dtype=str(model.dtype).removeprefix("torch."),
            enforce_eager=on_cpu,
            more={} if options.block_size is None else {"block_size": options.block_size},
        ),
    )


KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mv", "convolution"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "copies": ("copy_", "cat", "index", "gather", "scatter", "repeat", "fill_", "select_backward", "slice_backward"),
    "norms, activations, sums": ("mul", "add", "pow", "mean", "rsqrt", "silu", "gelu", "sum", "softmax", "neg", "div"),
}


class KindsOfOperations(TorchDispatchMode):
    """While it is active, counts the CPU time of each kind of operation; the rest is Python and small operations."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = dict.fromkeys(KINDS, 0.0)
        self.started = time.process_time()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__.removeprefix("_")
        kind = next((kind for kind, names in KINDS.items() if name.startswith(names)), None)
        start = time.thread_time()
        result = operation(*args, **(kwargs or {}))
        if kind is not None:
            self.taken[kind] += time.thread_time() - start
        return result

    def shares(self) -> dict[str, float]:
        total = time.process_time() - self.started
        return {
            **{kind: taken / total for kind, taken in self.taken.items()},
            "the rest": 1 - sum(self.taken.values()) / total,
        }


def report(title: str, rows: Mapping[str, Any], options: argparse.Namespace) -> None:
    """A table to read and a JSON line to keep."""
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = {**rows, "peak memory MiB": round(peak_mib)}
    width = max(len(name) for name in rows)
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value:.4g}" if isinstance(value, float) else f"  {name:<{width}}  {value}")
    machine = {
        "processor": platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }
    print(json.dumps({"benchmark": title, **vars(options), **rows, **machine}))
