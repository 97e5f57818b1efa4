"""Games become rows: the replies of the stage that trains, exactly as their players saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from vision_zero.game.prompts import render
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.play import Rollout
from vision_zero.rollout.record import game_when
from vision_zero.spo.advantages import group_normalize
from vision_zero.spo.scoring import GameScore, Scores
from vision_zero.types import CastVote, Clue, Stage


@dataclass(frozen=True)
class Row:
    """One reply to train on, as its player saw it. `advantage` is the role advantage of a clue, 0 for a vote."""

    game: int
    stage: Stage
    prompt: str
    image: GameImage
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    readable: bool
    advantage: float
    is_padding: bool = False


def make_rows(rollout: Rollout, scores: Scores, stages: Sequence[Stage], template: str) -> list[Row]:
    """The replies of `stages` that have tokens, in game order, of one game by stage and turn order.

    Scripted players' replies have none, so they are never trained on. Raises RuntimeError when no row is left.
    """
    rows = []
    for game in rollout.games:
        by_stage: dict[Stage, Sequence[Clue | CastVote]] = {"clue": game.clues, "decision": game.votes}
        said = [(stage, number, turn) for stage in stages for number, turn in enumerate(by_stage[stage])]
        for stage, number, turn in said:
            if not turn.reply.token_ids:
                continue
            prompt = render(game_when(game, turn), turn.turn, template)
            reward, readable, advantage = _credit(turn, number, scores.of(game.index))
            rows.append(
                Row(
                    game=game.index,
                    stage=stage,
                    prompt=prompt.text,
                    image=rollout.images[game.index, prompt.view],
                    prompt_ids=turn.reply.prompt_ids,
                    token_ids=turn.reply.token_ids,
                    logprobs=turn.reply.logprobs,
                    reward=reward,
                    readable=readable,
                    advantage=advantage,
                )
            )
    if not rows:
        names = " or ".join(stages)
        raise RuntimeError(f"no reply of the {names} stage was given by the policy that is trained; see `players`")
    return rows


def _credit(turn: Clue | CastVote, number: int, score: GameScore) -> tuple[float, bool, float]:
    """Reward, readability and role advantage; a vote has none, it is compared with the votes of its game."""
    if isinstance(turn, Clue):
        seat = turn.turn.seat - 1
        return score.clue_rewards[seat], turn.readable, score.clue_advantages[seat]
    return score.vote_rewards[number], turn.vote != 0, 0.0


def final_advantages(rows: Sequence[Row], format_weight: float, *, scale: bool) -> list[float]:
    """What multiplies each row's gradient: 0 for padding, and with f = +1 for a readable reply, -1 for another,

    clue   A + format_weight f                                  A: the role advantage
    vote   normalised r + format_weight f over the game's votes    as TRL does it; without `scale`, minus its mean
    """
    totals = [row.reward + format_weight * _format(row) for row in rows]
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row.stage == "decision" and not row.is_padding:
            groups.setdefault(row.game, []).append(number)
    advantages = [0.0 if row.is_padding else row.advantage + format_weight * _format(row) for row in rows]
    for numbers in groups.values():
        rewards = [totals[number] for number in numbers]
        normalised = group_normalize(rewards) if scale else [reward - fmean(rewards) for reward in rewards]
        for number, advantage in zip(numbers, normalised, strict=True):
            advantages[number] = advantage
    return advantages


def _format(row: Row) -> float:
    return 1.0 if row.readable else -1.0


def pad_rows(rows: list[Row], n_micro_batches: int) -> list[Row]:
    """Rows in equal micro-batches, the real ones spread evenly, each filled up with rows that count nowhere.

    TRL cuts a batch into equal micro-batches and drops the remainder without a word. A filler has the shortest prompt
    and one token.
    """
    shortest = min(rows, key=lambda row: len(row.prompt_ids))
    filler = replace(
        shortest, token_ids=shortest.token_ids[:1], logprobs=shortest.logprobs[:1], advantage=0.0, is_padding=True
    )
    size = -(-len(rows) // n_micro_batches)
    borders = [len(rows) * number // n_micro_batches for number in range(n_micro_batches + 1)]
    padded = []
    for start, end in pairwise(borders):
        padded += rows[start:end] + [filler] * (size - (end - start))
    return padded


def hand_back(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """What TRL's `rollout_func` returns: the tokens that were played, instead of new ones."""
    output: dict[str, list[Any]] = {
        "prompt_ids": [list(row.prompt_ids) for row in rows],
        "completion_ids": [list(row.token_ids) for row in rows],
        "logprobs": [list(row.logprobs) for row in rows],
    }
    if any(row.is_padding for row in rows):
        output["env_mask"] = [[0 if row.is_padding else 1] * len(row.token_ids) for row in rows]
    return output
