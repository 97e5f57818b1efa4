"""Speed of a whole rollout beside the engine's own speed on the same tokens.

    OMP_NUM_THREADS=1 python benchmarks/engine_limit.py --games 64
    OMP_NUM_THREADS=1 python benchmarks/engine_limit.py --games 64 --block_size 32

All games are played, once to warm up and once with the clock on. Then the same requests, prompts and lengths, are
handed to the engine at once: no waiting for a completion, no rules, no prompts to make. Every time the engine's caches
are empty. With `--max_num_seqs` as large as the rollout's concurrency (a clue of every game at a time) both work on as
many completions at once.

Also: the share of prompt tokens from the engine's prefix cache, beside that of an unlimited cache of this block size
for the same order of requests; and the CPU seconds of the rollout that were spent outside of `LLMEngine.add_request`
(with the renderer that prepares a request's image for it) and `LLMEngine.step`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from common import arguments, model_folder, pairs, report, rules, vllm_engine
from prefix_reuse import best_possible_reuse
from rollout import ForcedQueue, Length, log_normal
from transformers import AutoModelForImageTextToText

from vision_zero.game.spy_game import deal_games
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import QueuedPolicy, TokenLimits, TurnRequest
from vision_zero.types import Completion


@dataclass
class Recorded(QueuedPolicy):
    """Queued policy that passes turns on and records them with their completions, in the order they were asked."""

    policy: QueuedPolicy
    asked: list[TurnRequest] = field(default_factory=list)
    completions: dict[Any, Completion] = field(default_factory=dict)

    def submit(self, request: TurnRequest) -> None:
        self.asked.append(request)
        self.policy.submit(request)

    def poll(self) -> list[tuple[TurnRequest, Completion]]:
        done = self.policy.poll()
        self.completions |= {request.turn: completion for request, completion in done}
        return done


class Stopwatch:
    """CPU seconds inside the named methods of an object, which is left as it was."""

    def __init__(self, target: Any, names: Sequence[str]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.target, self.names = target, names

    def __enter__(self) -> Stopwatch:
        for name in self.names:
            setattr(self.target, name, self._timed(name, getattr(self.target, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            delattr(self.target, name)

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - start

        return timed


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(games=64)
    parser.add_argument("--lengths", choices=("fixed", "log-normal"), default="fixed")
    parser.add_argument("--max_num_seqs", type=int, default=None, help="completions at once; none: as many as games")
    parser.add_argument("--block_size", type=int, default=None, help="tokens per block of vLLM's cache")
    options = parser.parse_args()
    options.max_num_seqs = options.max_num_seqs or options.games
    torch.set_num_threads(options.threads)
    options.folder = model_folder(options.model)
    model = AutoModelForImageTextToText.from_pretrained(options.folder, dtype=torch.float32).eval()
    engine = vllm_engine(model, options)
    games = deal_games(range(options.games), 0, pairs(options), rules(options))
    limits = TokenLimits(options.tokens, options.tokens)
    length: Length = log_normal if options.lengths == "log-normal" else lambda request: options.tokens

    def whole_rollout() -> tuple[Recorded, Any]:
        engine.sync_weights()
        engine.engine.reset_mm_cache()
        policy = engine.policy()
        recorded = Recorded(policy)
        stages = {"clue": limits, "decision": limits}
        play(games, Seating.of(ForcedQueue(recorded, length)), stages, template=options.template)
        return recorded, policy

    whole_rollout()
    with (
        Stopwatch(engine.engine, ("add_request", "step")) as inside,
        Stopwatch(engine.engine.renderer, ("render_cmpl",)) as rendering,
    ):
        cpu, wall = time.process_time(), time.perf_counter()
        recorded, policy = whole_rollout()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    in_engine = sum(inside.seconds.values()) + rendering.seconds["render_cmpl"]
    asked = [(request.image.key, recorded.completions[request.turn].prompt_ids) for request in recorded.asked]
    block = engine.engine.vllm_config.cache_config.block_size
    best = best_possible_reuse(asked, block)

    engine.sync_weights()
    engine.engine.reset_mm_cache()
    at_once = engine.policy()
    limit_cpu, limit_wall = time.process_time(), time.perf_counter()
    at_once.answer(recorded.asked)
    limit_cpu, limit_wall = time.process_time() - limit_cpu, time.perf_counter() - limit_wall

    prompts = policy.prefilled_tokens + policy.reused_tokens
    report(
        "engine limit",
        {
            "completions": len(recorded.asked),
            "new tokens": policy.new_tokens,
            "prompt tokens": prompts,
            "tokens per block": block,
            "rollout: tokens per wall s": policy.new_tokens / wall,
            "handed over at once: tokens per wall s": at_once.new_tokens / limit_wall,
            "efficiency, wall": limit_wall / wall,
            "rollout: tokens per CPU s": policy.new_tokens / cpu,
            "handed over at once: tokens per CPU s": at_once.new_tokens / limit_cpu,
            "efficiency, CPU": limit_cpu / cpu,
            "rollout: prefix hit rate": policy.reused_tokens / prompts,
            "best possible hit rate": best / prompts,
            "hits of the best possible": policy.reused_tokens / best,
            "rollout: CPU s per game": cpu / options.games,
            "rollout: CPU share outside the engine": 1 - in_engine / cpu,
        },
        options,
    )


if __name__ == "__main__":
    main()
