"""Token sampling with a random generator per turn: a turn has the same tokens in any batch and on any process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vision_zero.rollout.policy import NotFiniteError, TurnRequest


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. `top_k` 0 and `top_p` 1 are off; `temperature` 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {self}")


def invert_cdf(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Tokens [B] drawn from softmax(logits) restricted to `top_k` tokens (0: all) and then to `top_p` mass.

    The cumulative sum runs in vocabulary order, so that rounding that swaps two nearly equal logits moves nothing.
    """
    ids_BK = None
    if 0 < top_k < logits_BV.shape[-1]:
        ids_BK = logits_BV.topk(top_k, dim=-1).indices.sort(dim=-1).values
        logits_BV = logits_BV.gather(1, ids_BK)
    probabilities = logits_BV.double().softmax(-1)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        dropped = ranked.cumsum(-1) - ranked >= top_p
        probabilities = probabilities.masked_fill(dropped.gather(1, order.argsort(-1)), 0.0)
    cumulative = probabilities.cumsum(-1)
    thresholds = uniforms_B.double()[:, None] * cumulative[:, -1:]
    picked_B1 = torch.searchsorted(cumulative, thresholds, right=True)
    return picked_B1[:, 0] if ids_BK is None else ids_BK.gather(1, picked_B1)[:, 0]


class Sampler:
    """One token per live completion and step, drawn from the turn's own generator, with its log-probability.

    A token is drawn by inverting the cumulative distribution (`invert_cdf`) at one uniform number, which costs less
    than Gumbel noise over the vocabulary and is the same distribution.
    """

    def __init__(self, requests: Sequence[TurnRequest], sampling: Sampling, banned: list[int], ends: list[int]) -> None:
        self.sampling = sampling
        self.banned, self.ends = banned, ends
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self._limits = [request.token_limits for request in requests]
        self._live = list(range(len(requests)))
        self._uniforms = torch.zeros(len(requests), max(limits.maximum for limits in self._limits))
        for slot, request in enumerate(requests):
            length, generator = request.token_limits.maximum, torch.Generator().manual_seed(request.seed)
            self._uniforms[slot, :length] = torch.rand(length, generator=generator)
        self._step = 0

    def draw(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The next token of each live completion, [B]; `logits_BV` are made float32. Raises NotFiniteError."""
        scaled_BV = logits_BV.float() / (self.sampling.temperature or 1.0)
        logprobs_BV = scaled_BV.log_softmax(-1)
        if logprobs_BV[:, 0].isnan().any():  # one logit that is NaN or infinite makes its whole row NaN
            raise NotFiniteError("the model's logits are not finite")
        allowed_BV = scaled_BV.clone()
        allowed_BV[:, self.banned] = -torch.inf
        early = [row for row, slot in enumerate(self._live) if self._step < self._limits[slot].minimum]
        if early:
            allowed_BV[torch.tensor(early)[:, None], torch.tensor(self.ends)] = -torch.inf
        if self.sampling.temperature == 0:
            tokens_B = allowed_BV.argmax(-1)
        else:
            uniforms_B = self._uniforms[self._live, self._step].to(allowed_BV.device)
            tokens_B = invert_cdf(allowed_BV, uniforms_B, self.sampling.top_k, self.sampling.top_p)
        drawn = logprobs_BV.gather(1, tokens_B[:, None])[:, 0]
        for slot, token, logprob in zip(self._live, tokens_B.tolist(), drawn.tolist(), strict=True):
            self.tokens[slot].append(token)
            self.logprobs[slot].append(logprob)
        self._step += 1
        return tokens_B

    def drop_finished(self) -> list[int]:
        """Remove completions that have ended. Returns the rows of the last draw that remain."""
        ends = set(self.ends)
        alive = [
            row
            for row, slot in enumerate(self._live)
            if self.tokens[slot][-1] not in ends and self._step < self._limits[slot].maximum
        ]
        self._live = [self._live[row] for row in alive]
        return alive
