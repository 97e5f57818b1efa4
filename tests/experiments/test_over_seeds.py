"""Intervals over seeds against printed tables, and against simulated studies."""

import math
import random

import pytest

from over_seeds import GAME_DEVIATION, over_seeds, paired_difference, smallest_effect, t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "printed"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.80, 1, 1.376),
        (0.80, 2, 1.061),
        (0.80, 4, 0.941),
        (0.95, 5, 2.015),
        (0.5, 7, 0.0),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, degrees: int, printed: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(printed, abs=6e-4)


def test_an_interval_by_hand() -> None:
    """0.6, 0.7, 0.8: mean 0.7, deviation 0.1, half width 4.3027 * 0.1 / sqrt(3) = 0.2484."""
    found = over_seeds([0.6, 0.7, 0.8])
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.4516, 0.9484), abs=1e-4)
    assert found.text() == "0.700 (0.452 to 0.948)"
    assert over_seeds([0.6]).text(sign=True) == "+0.600 (one seed)"
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([])


def test_a_difference_is_taken_seed_by_seed() -> None:
    """Seeds 1 and 3 alone are in both: differences 0.1 and 0.3, half width 12.706 * 0.1."""
    found = paired_difference({1: 0.6, 2: 0.9, 3: 0.8}, {1: 0.5, 3: 0.5, 4: 0.1})
    assert found is not None
    assert (found.n, found.value) == (2, pytest.approx(0.2))
    assert found.low == pytest.approx(0.2 - 1.2706, abs=1e-3)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_smallest_effect_by_hand() -> None:
    """5 seeds of 1,000 games: (2.776 + 0.941) sqrt(2 * 0.25 / 1000 / 5) = 0.0372; 3 of 400: 5.364 * 0.02041."""
    assert smallest_effect(1000, 5) == pytest.approx(0.0372, abs=1e-4)
    assert smallest_effect(400, 3) == pytest.approx((4.3027 + 1.0607) * math.sqrt(2 * 0.25 / 1200), abs=1e-4)
    assert smallest_effect(1000, 5, seed_deviation=0.03) == pytest.approx(
        (2.7764 + 0.9410) * math.sqrt(2 * (0.0009 + 0.00025) / 5), abs=1e-4
    )
    assert smallest_effect(1000, 1) is None


def test_smallest_effect_is_found_with_the_power_it_claims() -> None:
    """2,000 simulated studies of two arms whose true difference is the smallest effect: about 0.8 of them find it."""
    rng = random.Random(0)
    n_games, n_seeds, seed_deviation = 400, 5, 0.03
    effect = smallest_effect(n_games, n_seeds, seed_deviation)
    assert effect is not None
    deviation = math.sqrt(seed_deviation**2 + GAME_DEVIATION**2 / n_games)
    found = 0
    for _ in range(2000):
        difference = paired_difference(
            {seed: rng.gauss(0.5 + effect, deviation) for seed in range(n_seeds)},
            {seed: rng.gauss(0.5, deviation) for seed in range(n_seeds)},
        )
        assert difference is not None
        assert difference.low is not None
        found += difference.low > 0
    assert 0.76 < found / 2000 < 0.84
