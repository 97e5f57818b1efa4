"""The bootstrap intervals: exact where they must be, deterministic, and covering what they claim."""

import math
import random
import time

import pytest

from vision_zero.evaluate.bootstrap import Interval, paired


def test_equal_values_have_no_width() -> None:
    assert Interval.of_mean([0.5] * 7) == Interval(0.5, 0.5, 0.5)
    assert Interval.of_mean([0.1] * 3).value == 0.1


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
    ours = [value + 0.5 for value in theirs]
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
