"""Rollout speed of one way to play: tokens per second, prompt tokens computed and reused, seconds per game.

    python benchmarks/rollout.py                                   # transformers, and as it was before its last savings
    python benchmarks/rollout.py --model 71m --games 8 --profile   # where arithmetic counts
    python benchmarks/rollout.py --play transformers plain         # plain generate as a yardstick
    python benchmarks/rollout.py --play vllm lock-step             # games on a queue, and waiting for each other
    python benchmarks/rollout.py --play vllm lock-step --lengths log-normal
    python benchmarks/rollout.py --play transformers vllm --games 128

Ways to play, all with the same deals and forced lengths, so that ratios are of equal work:

plain          batched `model.generate` of transformers, one call per turn over all games: what is left when all games
               are batched and nothing else is done
transformers   the policy of this repository without an engine
before         the same with keys and values repeated for every head and one width of prompts (`before.py`)
lock-step      vLLM, games wait for each other after every turn
vllm           vLLM, every game goes on when its own turn is answered

`--lengths log-normal` draws every completion's length (mu 5.17, sigma 0.84, at most 1,024 tokens: 250 in the mean) from
the turn's seed; `fixed` is `--tokens` for all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from before import as_before
from common import (
    KindsOfOperations,
    arguments,
    matmul_peak,
    model_folder,
    pairs,
    report,
    rules,
    scaled_public,
    vllm_engine,
)
from needed import forward_flops, said_in, shape_of

from vision_zero.game.spy_game import deal_games
from vision_zero.models import load_model, load_processor
from vision_zero.models.attention import use_grouped_sdpa
from vision_zero.rollout.image_store import chat_text
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import Policy, QueuedPolicy, TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.types import Completion, Game

LOG_NORMAL = (5.17, 0.84, 1024)
Length = Callable[[TurnRequest], int]


def log_normal(request: TurnRequest) -> int:
    mu, sigma, longest = LOG_NORMAL
    return min(longest, max(1, round(random.Random(request.seed).lognormvariate(mu, sigma))))


def forced(request: TurnRequest, length: Length) -> TurnRequest:
    n_tokens = length(request)
    return replace(request, token_limits=TokenLimits(n_tokens, n_tokens))


class Forced:
    """A policy whose completions are as long as `length` says."""

    def __init__(self, policy: Policy, length: Length) -> None:
        self.policy, self.length = policy, length

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return self.policy.answer([forced(request, self.length) for request in requests])


class ForcedQueue(QueuedPolicy):
    """The same for a policy with a queue."""

    def __init__(self, policy: QueuedPolicy, length: Length) -> None:
        self.policy, self.length = policy, length

    def submit(self, request: TurnRequest) -> None:
        self.policy.submit(forced(request, self.length))

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        return self.policy.poll()


class PlainGenerate:
    """Every turn of the call through one `model.generate`: images preprocessed and prompts prefilled every time."""

    def __init__(self, model: object, processor: object) -> None:
        self.model, self.processor = model, processor
        self.preprocessed = self.prefilled_tokens = self.reused_tokens = self.new_tokens = 0

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        texts = [chat_text(self.processor, request.prompt.text) for request in requests]
        images = [[request.image.convert("RGB")] for request in requests]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        tokens = requests[0].token_limits.maximum
        with torch.no_grad():
            output = self.model.generate(
                **inputs, do_sample=True, top_k=50, temperature=0.8, min_new_tokens=tokens, max_new_tokens=tokens
            )
        self.preprocessed += len(requests)
        self.prefilled_tokens += int(inputs["attention_mask"].sum())
        self.new_tokens += tokens * len(requests)
        completions = self.processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        return [Completion(text, token_ids=(0,)) for text in completions]


def time_games(name: str, policy: Any, games: Sequence[Game], options: Any) -> dict[str, float]:
    """One rollout: what was computed and how long it took, per game."""
    token_limits = TokenLimits(options.tokens, options.tokens)
    length: Length = log_normal if options.lengths == "log-normal" else lambda request: options.tokens
    player = (ForcedQueue if isinstance(policy, QueuedPolicy) else Forced)(policy, length)
    peak = matmul_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    rollout = play(
        games,
        Seating.of(player),
        {"clue": token_limits, "decision": token_limits},
        template=options.template,
        lock_step=name == "lock-step",
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = (peak + matmul_peak()) / 2
    n_games = len(games)
    figures = {
        "calls": rollout.calls,
        "new tokens per game": policy.new_tokens / n_games,
        "prompt tokens computed per game": policy.prefilled_tokens / n_games,
        "prompt tokens reused per game": policy.reused_tokens / n_games,
        "wall s per game": wall / n_games,
        "CPU s per game": cpu / n_games,
        "new tokens per CPU s": policy.new_tokens / cpu,
        "matmul peak, GFLOP/s": peak / 1e9,
    }
    if (shape := shape_of(options.folder)) and options.lengths == "fixed" and name in ("transformers", "before"):
        flops = forward_flops(shape, said_in(rollout), (options.width, options.height), sampled=True)
        figures["floor, CPU s per game"] = flops / peak / n_games
        figures["utilisation of the matmul peak"] = flops / peak / cpu
    return figures


def main() -> None:
    parser = arguments(__doc__)
    ways = ("plain", "before", "transformers", "lock-step", "vllm")
    parser.add_argument("--play", nargs="+", choices=ways, default=["transformers", "before"], help="ways to play")
    parser.add_argument("--repeats", type=int, default=2, help="rollouts of each way, in turn; the first warm up too")
    parser.add_argument("--lengths", choices=("fixed", "log-normal"), default="fixed")
    parser.add_argument("--max_num_seqs", type=int, default=256, help="completions that vLLM works on at once")
    parser.add_argument("--block_size", type=int, default=None, help="tokens per block of vLLM's cache")
    parser.add_argument("--profile", action="store_true", help="one more rollout, its time by kind of operation")
    options = parser.parse_args()
    if options.lengths == "log-normal" and "plain" in options.play:
        parser.error("plain generate cannot give the completions of one call different lengths; leave it out of --play")
    torch.set_num_threads(options.threads)
    options.folder = model_folder(options.model)
    model = use_grouped_sdpa(load_model(options.folder, dtype=torch.float32)).eval()
    games = deal_games(range(options.games), 0, pairs(options), rules(options))
    engine = vllm_engine(model, options) if {"vllm", "lock-step"} & set(options.play) else None

    def rollout_of(name: str) -> dict[str, float]:
        processor = load_processor(options.folder)
        if name == "plain":
            policy: Any = PlainGenerate(model, processor)
        elif engine is not None and name in ("vllm", "lock-step"):
            engine.sync_weights()  # empties the engine's caches
            policy = engine.policy()
        else:
            policy = TransformersPolicy(model, processor, Sampling(), max_batch=options.batch)
        with as_before(model) if name in ("before", "plain") else nullcontext():
            return time_games(name, policy, games, options)

    runs: dict[str, list[dict[str, float]]] = {name: [] for name in options.play}
    for _ in range(options.repeats):
        for name, done in runs.items():
            done.append(rollout_of(name))
    timed = {name: {what: fmean(one[what] for one in done) for what in done[0]} for name, done in runs.items()}
    rows: dict[str, Any] = {f"{name}: {what}": value for name, done in timed.items() for what, value in done.items()}
    for name, figures in timed.items():
        public = scaled_public(options.model, "rollout", figures["matmul peak, GFLOP/s"] * 1e9)
        if public is not None and options.lengths == "fixed":
            rows[f"{name}: public code scaled to this peak, CPU s per game"] = public
            rows[f"{name}: ratio to the public code, scaled, CPU"] = public / figures["CPU s per game"]
        for other, others in timed.items():
            if other != name and ways.index(other) < ways.index(name):
                rows[f"{name}: ratio to {other}, CPU"] = others["CPU s per game"] / figures["CPU s per game"]
                rows[f"{name}: ratio to {other}, wall"] = others["wall s per game"] / figures["wall s per game"]
    if options.profile:
        with KindsOfOperations() as kinds:
            rollout_of(options.play[0])
        rows |= {f"{options.play[0]}, share of its time: {kind}": share for kind, share in kinds.shares().items()}
    report("rollout", rows, options)


if __name__ == "__main__":
    main()
