"""Rollout speed: calls, tokens per second, image preprocessings and CPU seconds per game.

    python benchmarks/rollout.py
    python benchmarks/rollout.py --games 128 --tokens 128

`plain` is batched `model.generate` of transformers, one call per turn over all games, as a yardstick: what is left when
all games are batched and nothing else is done. Both play the same deals; replies are forced to the same length, so the
ratio is of equal work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from common import PUBLIC, arguments, pairs, report, rules
from transformers import AutoModelForImageTextToText

from vision_zero.game.spy_game import deal_games
from vision_zero.models import load_processor
from vision_zero.rollout.engine import Table, play
from vision_zero.rollout.policy import Policy, TokenLimits, TurnRequest
from vision_zero.rollout.transformers import TransformersPolicy, chat_text
from vision_zero.types import Reply


class PlainGenerate:
    """Every turn of the call through one `model.generate`: images preprocessed and prompts prefilled every time."""

    def __init__(self, model: object, processor: object) -> None:
        self.model, self.processor = model, processor
        self.preprocessed = self.prefilled = self.new = 0

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
        self.prefilled += int(inputs["attention_mask"].sum())
        self.new += tokens * len(requests)
        replies = self.processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        return [Reply(text, token_ids=(0,)) for text in replies]


def time_games(policy: Policy, options: object) -> dict[str, float]:
    games = deal_games(range(options.games), 0, pairs(options), rules(options))
    limits = TokenLimits(options.tokens, options.tokens)
    cpu, wall = time.process_time(), time.perf_counter()
    rollout = play(games, Table.of(policy), {"clue": limits, "decision": limits}, template=options.template)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"calls": rollout.calls, "cpu": cpu / options.games, "wall": wall / options.games}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--no-plain", action="store_true", help="skip the yardstick")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32).eval()
    processor = load_processor(options.model)

    policy = TransformersPolicy(model, processor, max_batch=options.batch)
    ours = time_games(policy, options)
    n_games = options.games
    prompts = policy.prefilled_tokens + policy.reused_tokens
    turns = n_games * (options.players * options.rounds + options.votes)
    rows = {
        "generate calls": ours["calls"],
        "new tokens per game": policy.new_tokens / n_games,
        "mean prompt tokens": prompts / turns,
        "prompt tokens prefilled per game": policy.prefilled_tokens / n_games,
        "prompt tokens reused per game": policy.reused_tokens / n_games,
        "image preprocessings per game": policy.memo.preprocessed / n_games,
        "CPU s per game": ours["cpu"],
        "tokens per CPU s": policy.new_tokens / n_games / ours["cpu"],
        "public code, CPU s per game": PUBLIC["rollout"],
        "ratio to public code": PUBLIC["rollout"] / ours["cpu"],
    }
    if not options.no_plain:
        plain = PlainGenerate(model, load_processor(options.model))
        theirs = time_games(plain, options)
        rows |= {
            "plain generate, CPU s per game": theirs["cpu"],
            "plain generate, image preprocessings per game": plain.preprocessed / n_games,
            "plain generate, prompt tokens prefilled per game": plain.prefilled / n_games,
            "ratio to plain generate": theirs["cpu"] / ours["cpu"],
        }
    report("rollout", rows, options)


if __name__ == "__main__":
    main()
