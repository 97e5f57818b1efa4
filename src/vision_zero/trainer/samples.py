"""Games become training samples: the completions of the stage that trains, exactly as their players saw them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from vision_zero.game.prompts import render
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.play import Rollout
from vision_zero.rollout.record import game_when
from vision_zero.spo.advantages import group_normalize
from vision_zero.spo.rewards import COMPLETION_REWARDS
from vision_zero.spo.scoring import Scores
from vision_zero.types import CastVote, Clue, Stage


@dataclass(frozen=True)
class TrainingSample:
    """One completion to train on, as its player saw it.

    `reward` is that of the game's rules, `extra_rewards` are the COMPLETION_REWARDS by name, without their weights.
    `advantage` is the role advantage of a clue; a vote has 0, because it is compared with the votes of its game. A
    dummy sample fills a micro-batch and counts nowhere.
    """

    game: int
    stage: Stage
    prompt: str
    image: GameImage
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    advantage: float = 0.0
    extra_rewards: Mapping[str, float] = field(default_factory=dict)
    is_dummy: bool = False

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.token_ids)


def build_samples(rollout: Rollout, scores: Scores, stages: Sequence[Stage], template: str) -> list[TrainingSample]:
    """The completions of `stages` that have tokens, in game order, of one game by stage and turn order.

    Scripted players' have none, so they never train. Raises RuntimeError without a sample, and for a frozen player's.
    """
    samples = []
    for game in rollout.games:
        score = scores.by_game[game.index]
        by_stage: dict[Stage, Sequence[Clue | CastVote]] = {"clue": game.clues, "decision": game.votes}
        said = [(stage, number, turn) for stage in stages for number, turn in enumerate(by_stage[stage])]
        for stage, number, turn in said:
            if turn.completion.frozen:
                raise RuntimeError(f"game {game.index}: a {stage} completion of a frozen player would be trained on")
            if not turn.completion.token_ids:
                continue
            prompt = render(game_when(game, turn), turn.turn, template)
            seat = turn.turn.seat - 1
            samples.append(
                TrainingSample(
                    game=game.index,
                    stage=stage,
                    prompt=prompt.text,
                    image=rollout.images[game.index, prompt.view],
                    prompt_ids=turn.completion.prompt_ids,
                    token_ids=turn.completion.token_ids,
                    logprobs=turn.completion.logprobs,
                    reward=score.clue_rewards[seat] if stage == "clue" else score.vote_rewards[number],
                    advantage=score.clue_advantages[seat] if stage == "clue" else 0.0,
                    extra_rewards={name: reward(turn) for name, reward in COMPLETION_REWARDS.items()},
                )
            )
    if not samples:
        names = " or ".join(stages)
        raise RuntimeError(f"no completion of the {names} stage was given by the policy that trains; see `players`")
    return samples


def final_advantages(samples: Sequence[TrainingSample], weights: Mapping[str, float], *, scale: bool) -> list[float]:
    """The factor of each sample's gradient, 0 for a dummy. With e = sum of weight * extra reward over `weights`:

    clue   A + e                                          A: the role advantage
    vote   r + e, normalised over the game's votes         as TRL does it; without `scale`, minus their mean
    """
    extras = [sum(weight * sample.extra_rewards[name] for name, weight in weights.items()) for sample in samples]
    groups: dict[int, list[int]] = {}
    for number, sample in enumerate(samples):
        if sample.stage == "decision" and not sample.is_dummy:
            groups.setdefault(sample.game, []).append(number)
    advantages = [
        0.0 if sample.is_dummy else sample.advantage + extra for sample, extra in zip(samples, extras, strict=True)
    ]
    for numbers in groups.values():
        rewards = [samples[number].reward + extras[number] for number in numbers]
        normalised = group_normalize(rewards) if scale else [reward - fmean(rewards) for reward in rewards]
        for number, advantage in zip(numbers, normalised, strict=True):
            advantages[number] = advantage
    return advantages


def pad_samples(samples: list[TrainingSample], n_micro_batches: int) -> list[TrainingSample]:
    """Samples in equal micro-batches, the real ones spread evenly, each filled up with dummy samples.

    TRL cuts a batch into equal micro-batches and drops the remainder without a word. A dummy sample has the shortest
    prompt and one token.
    """
    shortest = min(samples, key=lambda sample: len(sample.prompt_ids))
    dummy = replace(
        shortest, token_ids=shortest.token_ids[:1], logprobs=shortest.logprobs[:1], advantage=0.0, is_dummy=True
    )
    size = -(-len(samples) // n_micro_batches)
    borders = [len(samples) * number // n_micro_batches for number in range(n_micro_batches + 1)]
    padded = []
    for start, end in pairwise(borders):
        padded += samples[start:end] + [dummy] * (size - (end - start))
    return padded


def replay_rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
    """TRL's `rollout_func`: nothing is generated, the samples that were played are returned."""
    samples: Sequence[TrainingSample] = trainer.samples
    if len(prompts) != len(samples):
        raise RuntimeError(f"TRL asks for {len(prompts)} completions, {len(samples)} were played")
    output: dict[str, list[Any]] = {
        "prompt_ids": [list(sample.prompt_ids) for sample in samples],
        "completion_ids": [list(sample.token_ids) for sample in samples],
        "logprobs": [list(sample.logprobs) for sample in samples],
    }
    if any(sample.is_dummy for sample in samples):
        output["env_mask"] = [[0 if sample.is_dummy else 1] * len(sample.token_ids) for sample in samples]
    return output
