"""Shared code of the benchmarks: games on noise images, a vLLM engine, machine facts, one table and one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from PIL import Image

from vision_zero.models import load_processor
from vision_zero.types import GameRules, ImagePair

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "tests" / "models" / "bench_model"
TEMPLATE = HERE / "template.txt"
MAX_MODEL_LENGTH = 4096

# CPU seconds per game of the public implementation (commit fa3c01c) on the same model, players, lengths and image
# size, one thread; timed once for this project.
PUBLIC = {"rollout": 1.33, "decision step": 2.07, "clue step": 3.17}


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
    parser.add_argument("--model", default=str(MODEL), help="folder of the model")
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
        load_processor(options.model),
        Sampling(),
        EngineOptions(
            max_num_seqs=options.max_num_seqs,
            max_model_length=MAX_MODEL_LENGTH,
            dtype=str(model.dtype).removeprefix("torch."),
            enforce_eager=on_cpu,
            more={} if options.block_size is None else {"block_size": options.block_size},
        ),
    )


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
