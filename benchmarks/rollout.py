"""Rollout speed of one way to play: tokens per second, prompt tokens computed and reused, seconds per game.

    python benchmarks/rollout.py                                   # transformers, and plain generate as a yardstick
    python benchmarks/rollout.py --play vllm lock-step             # games on a queue, and waiting for each other
    python benchmarks/rollout.py --play vllm lock-step --lengths log-normal
    python benchmarks/rollout.py --play transformers vllm --games 128

Ways to play, all with the same deals and forced lengths, so that ratios are of equal work:

plain          batched `model.generate` of transformers, one call per turn over all games: what is left when all games
               are batched and nothing else is done
transformers   the policy of this repository without an engine
lock-step      vLLM, games wait for each other after every turn
vllm           vLLM, every game goes on when its own turn is answered

`--lengths log-normal` draws every reply's length (mu 5.17, sigma 0.84, at most 1,024 tokens: 250 in the mean) from the
turn's seed; `fixed` is `--tokens` for all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from common import PUBLIC, arguments, pairs, report, rules, vllm_engine
from transformers import AutoModelForImageTextToText

from vision_zero.game.spy_game import deal_games
from vision_zero.models import load_processor
from vision_zero.rollout.play import Table, play
from vision_zero.rollout.policy import Policy, QueuedPolicy, TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy, chat_text
from vision_zero.types import Game, Reply

LOG_NORMAL = (5.17, 0.84, 1024)
Length = Callable[[TurnRequest], int]


def log_normal(request: TurnRequest) -> int:
    mu, sigma, longest = LOG_NORMAL
    return min(longest, max(1, round(random.Random(request.seed).lognormvariate(mu, sigma))))


def forced(request: TurnRequest, length: Length) -> TurnRequest:
    n_tokens = length(request)
    return replace(request, limits=TokenLimits(n_tokens, n_tokens))


class Forced:
    """A policy whose replies are as long as `length` says."""

    def __init__(self, policy: Policy, length: Length) -> None:
        self.policy, self.length = policy, length

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        return self.policy.answer([forced(request, self.length) for request in requests])


class ForcedQueue(QueuedPolicy):
    """The same for a policy with a queue."""

    def __init__(self, policy: QueuedPolicy, length: Length) -> None:
        self.policy, self.length = policy, length

    def submit(self, request: TurnRequest) -> None:
        self.policy.submit(forced(request, self.length))

    def advance(self) -> list[tuple[TurnRequest, Reply]]:
        return self.policy.advance()


class PlainGenerate:
    """Every turn of the call through one `model.generate`: images preprocessed and prompts prefilled every time."""

    def __init__(self, model: object, processor: object) -> None:
        self.model, self.processor = model, processor
        self.preprocessed = self.prefilled_tokens = self.reused_tokens = self.new_tokens = 0

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        texts = [chat_text(self.processor, request.prompt.text) for request in requests]
        images = [[request.image.convert("RGB")] for request in requests]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        tokens = requests[0].limits.maximum
        with torch.no_grad():
            output = self.model.generate(
                **inputs, do_sample=True, top_k=50, temperature=0.8, min_new_tokens=tokens, max_new_tokens=tokens
            )
        self.preprocessed += len(requests)
        self.prefilled_tokens += int(inputs["attention_mask"].sum())
        self.new_tokens += tokens * len(requests)
        replies = self.processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        return [Reply(text, token_ids=(0,)) for text in replies]


def time_games(name: str, policy: Any, games: Sequence[Game], options: Any) -> dict[str, float]:
    """One rollout: what was computed and how long it took, per game."""
    limits = TokenLimits(options.tokens, options.tokens)
    length: Length = log_normal if options.lengths == "log-normal" else lambda request: options.tokens
    player = (ForcedQueue if isinstance(policy, QueuedPolicy) else Forced)(policy, length)
    cpu, wall = time.process_time(), time.perf_counter()
    rollout = play(
        games,
        Table.of(player),
        {"clue": limits, "decision": limits},
        template=options.template,
        lock_step=name == "lock-step",
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    n_games = len(games)
    return {
        "calls": rollout.calls,
        "new tokens per game": policy.new_tokens / n_games,
        "prompt tokens computed per game": policy.prefilled_tokens / n_games,
        "prompt tokens reused per game": policy.reused_tokens / n_games,
        "wall s per game": wall / n_games,
        "CPU s per game": cpu / n_games,
        "new tokens per wall s": policy.new_tokens / wall,
        "new tokens per CPU s": policy.new_tokens / cpu,
    }


def main() -> None:
    parser = arguments(__doc__)
    ways = ("plain", "transformers", "lock-step", "vllm")
    parser.add_argument("--play", nargs="+", choices=ways, default=["transformers", "plain"], help="ways to play")
    parser.add_argument("--lengths", choices=("fixed", "log-normal"), default="fixed")
    parser.add_argument("--max_num_seqs", type=int, default=256, help="replies that vLLM works on at once")
    parser.add_argument("--block_size", type=int, default=None, help="tokens per block of vLLM's cache")
    options = parser.parse_args()
    if options.lengths == "log-normal" and "plain" in options.play:
        parser.error("plain generate cannot give the replies of one call different lengths; leave it out of --play")
    torch.set_num_threads(options.threads)
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32).eval()
    games = deal_games(range(options.games), 0, pairs(options), rules(options))
    engine = vllm_engine(model, options) if {"vllm", "lock-step"} & set(options.play) else None
    timed: dict[str, dict[str, float]] = {}
    rows: dict[str, Any] = {}
    for name in options.play:
        processor = load_processor(options.model)
        if name == "plain":
            policy: Any = PlainGenerate(model, processor)
        elif name == "transformers":
            policy = TransformersPolicy(model, processor, Sampling(), max_batch=options.batch)
        else:
            engine.sync_weights()  # empties the engine's caches
            policy = engine.policy()
        timed[name] = time_games(name, policy, games, options)
        rows |= {f"{name}: {what}": value for what, value in timed[name].items()}
    if options.lengths == "fixed" and "transformers" in timed:
        rows["public code, CPU s per game"] = PUBLIC["rollout"]
    for name, figures in timed.items():
        if options.lengths == "fixed":
            rows[f"{name}: ratio to public code, CPU"] = PUBLIC["rollout"] / figures["CPU s per game"]
        for other, others in timed.items():
            if other != name and ways.index(other) < ways.index(name):
                rows[f"{name}: ratio to {other}, wall"] = others["wall s per game"] / figures["wall s per game"]
    report("rollout", rows, options)


if __name__ == "__main__":
    main()
