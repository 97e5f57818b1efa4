"""Transformers' own continuous batching, `generate_batch`, on the games of the other checks, with text alone.

In transformers 5.17 `generate_batch` takes lists of token ids and positions in one dimension; images, features and
embeddings cannot be handed over, and TRL 1.16 refuses it for models with a processor. So this measures what it would
save if it could: prompts of the same lengths, with a word in the place of every image token, and completions of the
same lengths. No adapters, and no image is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin
from transformers.generation import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import is_flash_attn_2_available

from benchmarks.common import TEMPLATE, NoiseImage
from benchmarks.gpu.random_models import processor_of, random_model
from benchmarks.gpu.random_texts import RandomTexts
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stopwatch import Stopwatch
from benchmarks.gpu.timed_trainer import WARM_UP_TOKENS, tokens
from vision_zero.game.spy_game import deal_games
from vision_zero.plan import cost as floors
from vision_zero.plan.shape import ModelShape
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import prompt_of
from vision_zero.types import Completion, GameRules, ImagePair


class TextPolicy:
    """Answers all turns of a call through `generate_batch`; a completion has as many tokens as its limit allows."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, most_requests: int) -> None:
        self.model = model
        self.processor = processor
        self.image_token = model.config.image_token_id
        self.word = processor.tokenizer("a")["input_ids"][0]
        self.sampling = Sampling()
        # The manager is kept from call to call, so it is made for the largest one: blocks of 256 tokens, 6 per
        # completion. Left to itself it takes most of the memory there is, on a CPU too.
        self.batching = ContinuousBatchingConfig(
            max_requests_per_batch=most_requests,
            num_blocks=6 * most_requests,
            max_batch_tokens=4096,
            max_blocks_per_request=6,
            return_logprobs=True,
        )

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        prompts = [
            [self.word if t == self.image_token else t for t in prompt_of(self.processor, request).ids]
            for request in requests
        ]
        generation = GenerationConfig(
            do_sample=True,
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            max_new_tokens=requests[0].token_limits.maximum,
            eos_token_id=-1,  # no token ends a completion
            pad_token_id=0,
        )
        outputs = self.model.generate_batch(
            prompts,
            generation_config=generation,
            continuous_batching_config=self.batching,
            max_new_tokens=requests[0].token_limits.maximum,
            persistent_manager=True,
        )
        if len(outputs) != len(prompts):
            raise RuntimeError(f"generate_batch answered {len(outputs)} of {len(prompts)} prompts")
        return [
            Completion("", tuple(prompt), tuple(output.generated_tokens), tuple(output.logprobs))
            for prompt, output in zip(prompts, outputs.values(), strict=True)
        ]


def check_text_rollout(
    folder: Path, shape: ModelShape, settings: Settings, write: Callable[[dict[str, Any]], None]
) -> None:
    on_gpu = torch.cuda.is_available()
    model = random_model(str(folder), dtype="bfloat16" if on_gpu else "float32").eval()
    # Named outright: left to itself it looks for attention kernels on the Hub.
    model.set_attn_implementation("paged|flash_attention_2" if is_flash_attn_2_available() else "paged|sdpa")
    policy = TextPolicy(model, processor_of(folder), settings.games * settings.votes)
    watch = Stopwatch()
    _play(policy, settings, WARM_UP_TOKENS, WARM_UP_TOKENS)
    with watch.part("rollout"):
        games = _play(policy, settings, settings.clue_tokens, settings.vote_tokens)
    clues = [[clue.completion for clue in turn] for turn in zip(*(game.clues for game in games), strict=True)]
    calls = [tokens(call) for call in [*clues, [vote.completion for game in games for vote in game.votes]]]
    completions = [completion for call in calls for completion in call]
    new_tokens = sum(completion.completion for completion in completions)
    wanted = settings.games * (
        settings.players * settings.rounds * settings.clue_tokens + settings.votes * settings.vote_tokens
    )
    seconds = watch.seconds["rollout"]
    line: dict[str, Any] = {
        "stage": "text only",
        "attention": model.config._attn_implementation,
        "seconds": {"rollout": seconds},
        "new_tokens": new_tokens,
        "tokens_per_s": new_tokens / seconds,
        "prompt_tokens": {"mean": sum(completion.prompt for completion in completions) / len(completions)},
        "peak_gib": {"rollout": watch.peak_bytes["rollout"] / floors.GIB},
        "problems": [] if new_tokens == wanted else [f"{new_tokens} tokens instead of {wanted}"],
    }
    card = floors.card_of(torch.cuda.get_device_name()) if on_gpu else None
    write(line | {"floors": card and {"rollout": floors.decode_seconds(shape, calls, card)}})
    model.destroy_cached_continuous_batching_manager()


def _play(policy: TextPolicy, settings: Settings, clue_tokens: int, vote_tokens: int) -> list[Any]:
    size = settings.size
    pairs = [ImagePair(str(k), NoiseImage(2 * k, *size), NoiseImage(2 * k + 1, *size), "scenes") for k in range(16)]
    rules = GameRules(n_civilians=settings.players - 1, n_rounds=settings.rounds, n_votes=settings.votes)
    games = deal_games(range(settings.games), 0, pairs, rules)
    limits = {"clue": TokenLimits(clue_tokens, clue_tokens), "decision": TokenLimits(vote_tokens, vote_tokens)}
    return play(games, Seating.of(RandomTexts(policy)), limits, template=str(TEMPLATE)).games
