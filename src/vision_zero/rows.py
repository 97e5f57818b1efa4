"""Games become rows: the replies of the stage that trains, exactly as their players saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from vision_zero.game.prompts import render
from vision_zero.rollout.engine import Rollout
from vision_zero.rollout.policy import GameImage
from vision_zero.rollout.record import game_when
from vision_zero.spo.scoring import GameScore, Scores
from vision_zero.types import CastVote, Clue, Stage


@dataclass(frozen=True)
class Row:
    """One reply to train on, as its player saw it."""

    prompt: str
    image: GameImage
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    readable: bool
    advantage: float
    is_padding: bool = False


def make_rows(rollout: Rollout, scores: Scores, stage: Stage, template: str) -> list[Row]:
    """The replies of `stage` that have tokens, in game order and turn order.

    Scripted players' replies have none, so they are never trained on. Raises RuntimeError when no row is left.
    """
    rows = []
    for game in rollout.games:
        said: Sequence[Clue | CastVote] = game.clues if stage == "clue" else game.votes
        for number, turn in enumerate(said):
            if not turn.reply.token_ids:
                continue
            prompt = render(game_when(game, turn), turn.turn, template)
            reward, readable, advantage = _credit(turn, number, scores.of(game.index))
            rows.append(
                Row(
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
        raise RuntimeError(f"no reply of the {stage} stage was given by the policy that is trained; see `players`")
    return rows


def _credit(turn: Clue | CastVote, number: int, score: GameScore) -> tuple[float, bool, float]:
    """Reward, readability and role advantage; a vote's advantage is left to TRL's group normalisation."""
    if isinstance(turn, Clue):
        seat = turn.turn.seat - 1
        return score.clue_rewards[seat], turn.readable, score.clue_advantages[seat]
    return score.vote_rewards[number], turn.vote != 0, 0.0


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
