"""The gradient of a training step written out from log-probs, and the advantages from the votes.

Nothing here comes from the trainer, from TRL or from `vision_zero.spo`: one row at a time, no padding, no caches, a
processor without a memo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image

from vision_zero.game.prompts import render
from vision_zero.rollout.record import game_when
from vision_zero.types import CastVote, Clue, Game, Stage


@dataclass(frozen=True)
class HandRow:
    """One completion of the active stage with what its player saw."""

    text: str
    image: Image.Image
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    advantage: float


@dataclass(frozen=True)
class HandStep:
    """`kl` is the mean of the k3 estimator over all tokens, `entropy` that of the policy's entropy."""

    loss: float
    gradient: dict[str, torch.Tensor]
    kl: float
    entropy: float


def vote_advantages(game: Game, na_reward: float = -0.5) -> list[float]:
    votes = [cast.vote for cast in game.votes]
    rewards = [1.0 if vote == game.spy else na_reward if vote is None else -1.0 for vote in votes]
    spread = stdev(rewards)
    return [(reward - fmean(rewards)) / (spread + 1e-4) if spread else 0.0 for reward in rewards]


def seat_rewards(game: Game, beta: float, lam: float) -> dict[int, float]:
    """r_s = -beta (v_s - v_c), r_j = beta / n_c (v_s - v_c) - lam (v_j - v_c)."""
    n_civilians = game.rules.n_civilians
    counts = {seat: sum(cast.vote == seat for cast in game.votes) for seat in range(1, n_civilians + 2)}
    excess = counts[game.spy] - sum(v for seat, v in counts.items() if seat != game.spy) / n_civilians
    mean = counts[game.spy] - excess
    return {
        seat: -beta * excess if seat == game.spy else beta / n_civilians * excess - lam * (votes - mean)
        for seat, votes in counts.items()
    }


def seat_advantages(games: Sequence[Game], alpha: float, beta: float, lam: float) -> list[dict[int, float]]:
    """Of the first clue iteration: both baselines start at 0 and move once before they are subtracted."""
    rewards = [seat_rewards(game, beta, lam) for game in games]
    spies = [game.spy for game in games]
    spy_mean = fmean(r[spy] for r, spy in zip(rewards, spies, strict=True))
    civilian_mean = fmean(
        fmean(value for seat, value in r.items() if seat != spy) for r, spy in zip(rewards, spies, strict=True)
    )
    return [
        {seat: value - (1 - alpha) * (spy_mean if seat == spy else civilian_mean) for seat, value in reward.items()}
        for reward, spy in zip(rewards, spies, strict=True)
    ]


def hand_rows(
    games: Sequence[Game],
    stage: Stage,
    *,
    template: str = "compact",
    alpha: float = 0.95,
    beta: float = 0.1,
    lam: float = 0.1,
) -> list[HandRow]:
    """Defaults are the paper's values."""
    rows = []
    by_seat = seat_advantages(games, alpha, beta, lam)
    for game, of_seat in zip(games, by_seat, strict=True):
        said: Sequence[Clue | CastVote] = game.clues if stage == "clue" else game.votes
        advantages = [of_seat[c.turn.seat] for c in said] if stage == "clue" else vote_advantages(game)
        for one, advantage in zip(said, advantages, strict=True):
            is_spy = stage == "clue" and one.turn.seat == game.spy
            image = game.pair.image.open()
            if is_spy and game.spy_view == "edited":
                assert game.pair.edited is not None
                image = game.pair.edited.open()
            elif is_spy:
                image = Image.new("RGB", image.size, (127, 127, 127))
            text = render(game_when(game, one), one.turn, template).text
            rows.append(HandRow(text, image, one.completion.prompt_ids, one.completion.token_ids, advantage))
    return rows


def processor_inputs(processor: Any, text: str, image: Image.Image) -> dict[str, torch.Tensor]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return dict(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    )


def row_logits(model: Any, processor: Any, row: HandRow) -> torch.Tensor:
    """Logits before every sampled token, [tokens, vocabulary]."""
    inputs = processor_inputs(processor, row.text, row.image)
    n_prompt = inputs["input_ids"].shape[1]
    tokens = torch.tensor([row.token_ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros_like(tokens)], dim=1)
    return model(**inputs, use_cache=False).logits[0, n_prompt - 1 : -1]


def row_logps(model: Any, processor: Any, row: HandRow, temperature: float) -> torch.Tensor:
    """Log-probs of the sampled tokens, [tokens]."""
    logps = (row_logits(model, processor, row) / temperature).log_softmax(-1)
    return logps[torch.arange(len(row.token_ids)), torch.tensor(row.token_ids)]


def hand_step(
    model: Any,
    reference: Any,
    processor: Any,
    rows: Sequence[HandRow],
    *,
    temperature: float,
    kl_weight: float,
    loss_type: str,
    sampled_by: Any = None,
    clip: float = 0.2,
) -> HandStep:
    """Loss and gradient: per token -A exp(logp - logp.detach()) + kl_weight (exp(ref - logp) - (ref - logp) - 1).

    "grpo" averages over the tokens of a row and then over rows, "dapo" over all tokens at once. If the rows were
    `sampled_by` another model, the ratio to its log-probs takes the place of the first exponential, clipped.
    """
    model.zero_grad()
    losses, kls, entropies = [], [], []
    for row in rows:
        logits = row_logits(model, processor, row) / temperature
        tokens = torch.arange(len(row.token_ids)), torch.tensor(row.token_ids)
        logp = logits.log_softmax(-1)[tokens]
        with torch.no_grad():
            difference_to = row_logps(reference, processor, row, temperature)
        difference = difference_to - logp
        kl = difference.exp() - difference - 1
        old = logp.detach()
        if sampled_by is not None:
            with torch.no_grad():
                old = row_logps(sampled_by, processor, row, temperature)
        ratio = (logp - old).exp()
        gain = torch.minimum(ratio * row.advantage, ratio.clamp(1 - clip, 1 + clip) * row.advantage)
        losses.append(-gain + kl_weight * kl)
        kls.append(kl.detach())
        entropies.append(-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).detach())
    loss = torch.stack([one.mean() for one in losses]).mean() if loss_type == "grpo" else torch.cat(losses).mean()
    loss.backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return HandStep(loss.item(), gradient, torch.cat(kls).mean().item(), torch.cat(entropies).mean().item())


def largest_difference(ours: dict[str, torch.Tensor], by_hand: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest max |a - b| / max |b| over parameters, and whose it is. Both name the same parameters.

    Biases of keys have no gradient but rounding, since a softmax does not see them: both must have next to none.
    """
    assert ours.keys() == by_hand.keys()
    largest = max(value.abs().max().item() for value in by_hand.values())
    none = {name for name, value in by_hand.items() if "k_proj.bias" in name and value.abs().max() < 1e-6 * largest}
    assert all(ours[name].abs().max() < 1e-6 * largest for name in none), none
    return max(
        ((ours[name] - by_hand[name]).abs().max().item() / by_hand[name].abs().max().item(), name)
        for name in by_hand.keys() - none
    )
