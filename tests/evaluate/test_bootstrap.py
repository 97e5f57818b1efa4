"""The bootstrap intervals: exact where they must be, deterministic, and covering what they claim."""

import math
import random
import time

import pytest

from vision_zero.evaluate.bootstrap import Interval, paired


@pytest.mark.parametrize(("n", "low"), [(2, 0.025**0.5), (10, 0.6915), (20, 0.8316), (100, 0.9638)])
def test_a_unanimous_result_has_the_width_of_clopper_and_pearson(n: int, low: float) -> None:
    """All of n found: the lower bound is 0.025^(1/n), as tables of the exact binomial interval have it."""
    won, lost = Interval.of_mean([1.0] * n), Interval.of_mean([0.0] * n)
    assert (won.value, won.high, lost.value, lost.low) == (1, 1, 0, 0)
    assert won.low == pytest.approx(low, abs=1e-4)
    assert lost.high == pytest.approx(1 - low, abs=1e-4)


def test_a_unanimous_result_may_lie_between_its_bounds() -> None:
    """10 pairs: at most 1 - 0.025^(1/10) = 0.3085 of all pairs differ, by 0.5 in a share and by 1 in a gain."""
    half, nothing = Interval.of_mean([0.5] * 10), paired([1.0, 0.0] * 5, [1.0, 0.0] * 5)
    assert (half.low, half.high) == (pytest.approx(0.5 - 0.3085 / 2, abs=1e-4), pytest.approx(0.6542, abs=1e-4))
    assert (nothing.value, nothing.low, nothing.high) == (
        0,
        pytest.approx(-0.3085, abs=1e-4),
        pytest.approx(0.3085, abs=1e-4),
    )
    assert Interval.of_mean([512.0] * 10, bounds=None) == Interval(512.0, None, None), "how long could others be?"


def test_pairs_are_resampled_with_all_their_games() -> None:
    """Two pairs, one won three times and one lost once: a bootstrap sample is 1, 3/4 or 0. Alone, games say less."""
    won = [1.0, 1.0, 1.0, 0.0]
    assert Interval.of_mean(won, pairs=["a", "a", "a", "b"]) == Interval(0.75, 0.0, 1.0)
    same = Interval.of_mean([1.0, 0.0] * 6, pairs=[number // 2 for number in range(12)])
    assert same.low == pytest.approx(0.5 - 0.4593 / 2, abs=1e-4), "6 pairs of one mean: 1 - 0.025^(1/6) = 0.4593"
    thirds = Interval.of_mean([1 / 6, 5 / 6, 1 / 3, 2 / 3, 0.1, 0.9], pairs=[0, 0, 1, 1, 2, 2])
    assert thirds.low is not None
    assert thirds.low < 0.2, "rounding is no difference"


def test_games_on_one_pair_claim_no_interval() -> None:
    one = Interval.of_mean([1.0, 0.0, 1.0, 1.0], pairs=["a"] * 4)
    assert one == Interval(0.75, None, None)
    assert str(one) == "0.750 (no interval)"
    with pytest.raises(ValueError, match="zip"):
        Interval.of_mean([1.0, 0.0], pairs=["a"])


@pytest.mark.parametrize("likeness", [1.0, 4.0])
def test_100_games_on_20_pairs_are_covered_as_claimed(likeness: float) -> None:
    """Each pair has its own chance to be found; the mean of all pairs' is one half. Games alone cover 76% and 84%."""
    rng = random.Random(4)
    covered, by_game = 0, 0
    pairs = [number // 5 for number in range(100)]
    for seed in range(400):
        chances = [rng.betavariate(likeness / 2, likeness / 2) for _ in range(20)]
        games = [float(rng.random() < chances[pair]) for pair in pairs]
        interval = Interval.of_mean(games, pairs=pairs, resamples=500, seed=seed)
        covered += interval.low <= 0.5 <= interval.high
        alone = Interval.of_mean(games, resamples=500, seed=seed)
        by_game += alone.low <= 0.5 <= alone.high
    assert covered >= 0.92 * 400
    assert by_game < 0.90 * 400


def test_one_game_of_each_kind_says_nothing() -> None:
    """Two games, one won: a bootstrap sample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    assert Interval.of_mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    """400 games, 100 won: standard error sqrt(0.25 * 0.75 / 400) = 0.02165."""
    interval = Interval.of_mean([1.0] * 100 + [0.0] * 300)
    assert interval.value == 0.25
    assert interval.low == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.005)
    assert interval.high == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.005)


def test_the_same_values_give_the_same_interval_and_another_seed_nearly() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(200)]
    assert Interval.of_mean(values) == Interval.of_mean(values)
    assert Interval.of_mean(values) != Interval.of_mean(values, seed=1)
    assert Interval.of_mean(values).low == pytest.approx(Interval.of_mean(values, seed=1).low, abs=0.03)


def test_what_both_have_in_common_cancels_in_a_paired_difference() -> None:
    rng = random.Random(1)
    theirs = [rng.gauss(0, 5) for _ in range(100)]
    ours = [value + rng.gauss(0.5, 1e-8) for value in theirs]
    difference = paired(ours, theirs)
    assert difference.low == pytest.approx(0.5)
    assert difference.high == pytest.approx(0.5)
    assert Interval.of_mean(ours).low <= 0 <= Interval.of_mean(ours).high


def test_the_interval_covers_the_mean_19_times_in_20() -> None:
    """400 samples of 100 games at 0.3: covered counts are binomial, 380 expected, standard deviation 4.4."""
    rng = random.Random(2)
    covered = 0
    for seed in range(400):
        games = [float(rng.random() < 0.3) for _ in range(100)]
        interval = Interval.of_mean(games, resamples=500, seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 360 <= covered <= 396


def test_a_thousand_games_take_less_than_half_a_second() -> None:
    rng = random.Random(3)
    values = [rng.random() for _ in range(1000)]
    start = time.process_time()
    Interval.of_mean(values)
    assert time.process_time() - start < 0.5


def test_it_reads_as_value_and_bounds() -> None:
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="mean"):
        Interval.of_mean(values)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])
