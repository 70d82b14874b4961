import itertools
from math import comb

import numpy as np
import pytest

from tokenprune.lab.measure.statistics import Bootstrap, Interval, mcnemar


def all_resamples(groups: list[int]) -> list[list[int]]:
    """Sample indices of every possible draw of whole groups, in order and with repetition."""
    names = sorted(set(groups))
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in names}
    draws = itertools.product(names, repeat=len(names))
    return [[i for name in draw for i in members[name]] for draw in draws]


def exact(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


GROUPS = [0, 0, 1, 2, 2, 2, 3]
FIRST = [1, 0, 1, 1, 0, 1, 0]
SECOND = [1, 1, 1, 0, 1, 1, 0]


def test_mean_matches_the_enumeration_of_all_cluster_resamples() -> None:
    means = [float(np.mean([FIRST[i] for i in draw])) for draw in all_resamples(GROUPS)]
    low, high = exact(means)
    found = Bootstrap(GROUPS, seed=1, resamples=20_000).mean(FIRST)
    assert found.value == pytest.approx(4 / 7)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_ratio_matches_the_enumeration() -> None:
    ratios = [
        sum(FIRST[i] for i in draw) / sum(SECOND[i] for i in draw)
        for draw in all_resamples(GROUPS)
        if sum(SECOND[i] for i in draw)
    ]
    low, high = exact(ratios)
    found = Bootstrap(GROUPS, seed=2, resamples=20_000).ratio(FIRST, SECOND)
    assert found.value == pytest.approx(4 / 5)
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)


def test_difference_is_paired() -> None:
    same = Bootstrap(GROUPS, seed=0).difference(FIRST, FIRST)
    assert same == Interval(0.0, 0.0, 0.0)
    assert not same.excludes(0.0)


def test_ratio_of_a_row_with_itself_is_one_without_spread() -> None:
    assert Bootstrap(range(50), seed=0).ratio([1.0] * 50, [1.0] * 50) == Interval(1.0, 1.0, 1.0)


def test_correlated_samples_widen_the_interval() -> None:
    right = [0.0] * 50 + [1.0] * 50
    alone = Bootstrap(range(100), seed=0).mean(right)
    clustered = Bootstrap([i // 10 for i in range(100)], seed=0).mean(right)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    right = list(np.random.default_rng(0).random(60))
    one, again, other = (Bootstrap(range(60), seed=s).mean(right) for s in (3, 3, 4))
    assert one == again
    assert one != other


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        found = Bootstrap(range(80), seed=trial, resamples=400).mean(rng.random(80) < 0.7)
        hits += found.low <= 0.7 <= found.high
    assert 178 <= hits <= 199


def test_ratio_to_nothing_is_nan() -> None:
    found = Bootstrap([0, 1], seed=0).ratio([1.0, 1.0], [0.0, 0.0])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bootstrap([])


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 0), (3, 9), (40, 60), (7, 7)])
def test_mcnemar_is_the_two_sided_binomial_test(b: int, c: int) -> None:
    first = [True] * b + [False] * c + [True] * 11
    second = [False] * b + [True] * c + [True] * 11
    # brute force: as unlikely or less likely, under fair coins; the coin is symmetric
    n = b + c
    mass = [comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(m for k, m in enumerate(mass) if min(k, n - k) <= min(b, c))
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == pytest.approx(expected)
    assert mcnemar(np.array(first), np.array(second)) == pytest.approx(expected)


def test_mcnemar_needs_as_many_answers_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])
