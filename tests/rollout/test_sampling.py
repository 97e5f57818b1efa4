"""Tokens are drawn from the right distribution, by a turn's own numbers, and their log-probability is what trains."""

import math

import numpy as np
import pytest
import torch

from tests.tiny_games import request_for, tiny_games
from vision_zero.rollout.game_images import open_images
from vision_zero.rollout.sampling import Sampler, Sampling, invert_cdf

VOCABULARY = 12
LOGITS = torch.tensor([0.3, -1.0, 2.0, 1.9, -3.0, 0.0, 1.0, -0.5, 0.7, -math.inf, 2.2, -2.0])
N_DRAWS = 20_000


def numpy_probabilities(logits: torch.Tensor, top_k: int, top_p: float) -> np.ndarray:
    """Expected distribution: the k most likely tokens, then the fewest of them with mass `top_p`."""
    weights = np.exp(logits.double().numpy())
    ranking = np.argsort(-weights, kind="stable")
    if top_k:
        weights[ranking[top_k:]] = 0
    weights /= weights.sum()
    mass = 0.0
    for token in ranking:
        if mass >= top_p:
            weights[token] = 0
        mass += weights[token]
    return weights / weights.sum()


def draws(logits: torch.Tensor, top_k: int, top_p: float) -> np.ndarray:
    uniforms = torch.rand(N_DRAWS, generator=torch.Generator().manual_seed(11))
    return np.bincount(
        invert_cdf(logits.expand(N_DRAWS, -1), uniforms, top_k, top_p).numpy(), minlength=logits.shape[0]
    )


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (50, 1.0), (0, 0.7), (0, 0.05), (5, 0.6), (12, 0.95)])
def test_tokens_are_distributed_as_top_k_and_top_p_say(top_k: int, top_p: float) -> None:
    expected = numpy_probabilities(LOGITS, top_k, top_p) * N_DRAWS
    counts = draws(LOGITS, top_k, top_p)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    # chi-square with at most 10 degrees of freedom: above 29.6 once in a thousand
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 29.6


def test_top_k_of_a_batch_is_taken_row_by_row() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0)]).repeat(500, 1)
    tokens = invert_cdf(rows, torch.rand(1000, generator=torch.Generator().manual_seed(1)), 2, 1.0)
    assert set(tokens[0::2].tolist()) == {2, 10}
    assert set(tokens[1::2].tolist()) == {1, 9}


@pytest.mark.parametrize("top_k", [0, 4])
def test_equal_logits_are_equally_likely_and_none_is_lost(top_k: int) -> None:
    tied = torch.tensor([5.0, 1.0, 5.0, 5.0, 1.0, 5.0])
    expected = numpy_probabilities(tied, top_k, 1.0) * N_DRAWS
    counts = draws(tied, top_k, 1.0)
    assert np.abs(counts - expected).max() < 5 * math.sqrt(N_DRAWS / 4)
    if top_k:
        assert counts[[1, 4]].sum() == 0
    # One too few for all that tie: still exactly k tokens, of equal share.
    counts = draws(tied, 3, 1.0)
    assert sorted((counts > 0).tolist()) == [False] * 3 + [True] * 3
    assert counts[counts > 0].min() > 0.3 * N_DRAWS


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("top_k", [0, 3])
def test_the_ends_of_the_unit_interval_never_draw_a_token_without_probability(uniform: float, top_k: int) -> None:
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.5, -math.inf]])
    token = invert_cdf(logits, torch.tensor([uniform]), top_k, 1.0)
    assert token.item() == (1 if uniform == 0 else 3)


def sampler_for(seeds: list[int], sampling: Sampling, token_limits: tuple[int, int] = (0, 6), **kwargs) -> Sampler:
    (game,) = tiny_games(1)
    image = open_images([game])[0, "civilian"]
    requests = [request_for("x", image, game=game, seed=seed, token_limits=token_limits) for seed in seeds]
    return Sampler(requests, sampling, kwargs.get("banned", []), kwargs.get("ends", [0]))


def logits_of(history: list[int]) -> torch.Tensor:
    """A stand-in for a model: logits that depend on all earlier tokens."""
    generator = torch.Generator().manual_seed(sum((i + 1) * token for i, token in enumerate(history)) + len(history))
    return 2 * torch.randn(VOCABULARY, generator=generator)


def sample(seeds: list[int], sampling: Sampling, **kwargs) -> Sampler:
    sampler = sampler_for(seeds, sampling, **kwargs)
    live = list(range(len(seeds)))
    while live:
        sampler.draw(torch.stack([logits_of(sampler.tokens[slot]) for slot in live]))
        live = [live[row] for row in sampler.drop_finished()]
    return sampler


def test_a_seed_gives_the_same_tokens_in_any_batch() -> None:
    seeds = [3, 1, 4, 15, 9, 26, 2**62 + 5]
    together = sample(seeds, Sampling())
    for slot, seed in enumerate(seeds):
        alone = sample([seed], Sampling())
        assert alone.tokens[0] == together.tokens[slot]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[slot], abs=1e-6)
    assert sample(seeds[::-1], Sampling()).tokens == together.tokens[::-1]
    assert len({tuple(tokens) for tokens in together.tokens}) > 3
    assert len({len(tokens) for tokens in together.tokens}) > 1  # some ended early, so rows moved up


def test_a_longer_limit_only_appends() -> None:
    for seed in range(8):
        short = sample([seed], Sampling(), token_limits=(0, 4), ends=[]).tokens[0]
        assert sample([seed], Sampling(), token_limits=(0, 40), ends=[]).tokens[0][:4] == short


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 2.0])
def test_log_probability_is_of_logits_over_temperature_before_any_restriction(temperature: float) -> None:
    restricted = Sampling(temperature, top_k=2, top_p=0.9)
    sampler = sample([1, 2, 3], restricted, token_limits=(3, 5), banned=[4, 7], ends=[0, 1])
    for tokens, logprobs in zip(sampler.tokens, sampler.logprobs, strict=True):
        for step, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            scaled = logits_of(tokens[:step]).double().numpy() / temperature
            expected = scaled[token] - np.log(np.exp(scaled).sum())
            assert logprob == pytest.approx(expected, abs=1e-5)


def test_temperature_zero_is_the_most_likely_allowed_token_whatever_the_seed() -> None:
    first, second = (sample([seed], Sampling(temperature=0), token_limits=(6, 6), banned=[5]) for seed in (1, 2))
    assert first.tokens == second.tokens
    for step, token in enumerate(first.tokens[0]):
        logits = logits_of(first.tokens[0][:step])
        logits[[0, 5]] = -math.inf
        assert token == logits.argmax().item()


def test_no_end_before_the_minimum_and_banned_tokens_never() -> None:
    eager = torch.full((1, VOCABULARY), -5.0)
    eager[:, [0, 3]] = 20.0  # end and banned
    for minimum in (0, 2, 5):
        sampler = sampler_for([8], Sampling(), (minimum, 6), banned=[3], ends=[0])
        while True:
            sampler.draw(eager)
            if not sampler.drop_finished():
                break
        tokens = sampler.tokens[0]
        assert tokens.index(0) == minimum == len(tokens) - 1
        assert 3 not in tokens


def test_the_maximum_cuts_every_completion_at_its_own_limit() -> None:
    (game,) = tiny_games(1)
    image = open_images([game])[0, "civilian"]
    requests = [request_for("x", image, game=game, token_limits=(0, maximum)) for maximum in (1, 5, 3)]
    sampler = Sampler(requests, Sampling(), [], [])
    live = [0, 1, 2]
    while live:
        sampler.draw(torch.zeros(len(live), VOCABULARY))
        live = [live[row] for row in sampler.drop_finished()]
    assert [len(tokens) for tokens in sampler.tokens] == [1, 5, 3]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}], ids=str
)
def test_sampling_that_means_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="sampling needs"):
        Sampling(**wrong)
