from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenprune.errors import BudgetError, LayerError
from tokenprune.plan import Average
from tokenprune.plan.budget import (
    average,
    decoder_keeps,
    front_loaded,
    kept,
    split,
)


@pytest.mark.parametrize(
    ("keep", "count", "expected"),
    [(128, 576, 128), (0.25, 576, 144), (1.0, 7, 7), (1, 7, 1), (0.001, 7, 1), (0.29, 100, 29)],
)
def test_kept(keep: float, count: int, expected: int) -> None:
    assert kept(keep, count, "here") == expected


@pytest.mark.parametrize(
    ("keep", "count", "nearest"), [(577, 576, 576), (0, 5, 1), (-3, 5, 1), (1.5, 5, 1.0)]
)
def test_kept_names_the_nearest(keep: float, count: int, nearest: float) -> None:
    with pytest.raises(BudgetError) as caught:
        kept(keep, count, "stages.0")
    assert caught.value.nearest == nearest
    assert str(caught.value).startswith("stages.0: ")


def test_nothing_arrives() -> None:
    with pytest.raises(BudgetError, match="no token arrives"):
        kept(1.0, 0, "")


@given(ratio=st.floats(1e-6, 1), count=st.integers(1, 5000))
def test_ratios_round_down_to_at_least_one(ratio: float, count: int) -> None:
    found = kept(ratio, count, "")
    assert 1 <= found <= count
    assert found <= count * ratio + 1e-8 or found == 1
    assert found + 1 > count * ratio


def test_layer_average_as_users_compute_it() -> None:
    # FastV on LLaVA-1.5-7B: (576 * 2 + 144 * 30) / 32
    assert average([144], [2], 576, 32) == 171
    assert decoder_keeps([Average(average=171)], [2], 576, 32, "") == (144,)
    assert decoder_keeps([Average(average=172)], [2], 576, 32, "") == (145,)


def test_unreachable_averages() -> None:
    with pytest.raises(BudgetError) as caught:
        decoder_keeps([Average(average=30)], [2], 576, 32, "stages.1")
    assert caught.value.nearest == (576 * 2 + 30) / 32
    assert decoder_keeps([Average(average=caught.value.nearest)], [2], 576, 32, "") == (1,)
    with pytest.raises(BudgetError) as caught:
        decoder_keeps([Average(average=600)], [2], 576, 32, "")
    assert caught.value.nearest == 576
    for layer in (32, -1):
        with pytest.raises(LayerError, match="0 to 31"):
            decoder_keeps([Average(average=200)], [layer], 576, 32, "")


@given(
    arrivals=st.integers(1, 800),
    layers=st.integers(1, 40),
    layer=st.integers(0, 39),
    wanted=st.floats(0.5, 900),
)
def test_one_stage_is_the_largest_that_fits(
    arrivals: int, layers: int, layer: int, wanted: float
) -> None:
    assume(layer < layers)

    def mean(k: int) -> float:
        return sum(arrivals if at < layer else k for at in range(layers)) / layers

    feasible = [k for k in range(1, arrivals + 1) if mean(k) <= wanted + 1e-9]
    budget = Average(average=wanted)
    if not feasible or wanted > arrivals:
        with pytest.raises(BudgetError) as caught:
            decoder_keeps([budget], [layer], arrivals, layers)
        assert caught.value.nearest == pytest.approx(arrivals if feasible else mean(1))
    else:
        assert decoder_keeps([budget], [layer], arrivals, layers) == (feasible[-1],)


@given(
    arrivals=st.integers(2, 700),
    cuts=st.sets(st.integers(0, 31), min_size=1, max_size=4),
    share=st.floats(0.01, 1),
)
def test_several_stages_share_an_average(arrivals: int, cuts: set[int], share: float) -> None:
    at = sorted(cuts)
    wanted = Average(average=max(1.0, arrivals * share))
    least = average([1] * len(at), at, arrivals, 32)
    if wanted.average < least:
        with pytest.raises(BudgetError) as caught:
            decoder_keeps([wanted] * len(at), at, arrivals, 32)
        assert caught.value.nearest == least
        wanted = Average(average=least)
    found = decoder_keeps([wanted] * len(at), at, arrivals, 32)
    assert all(b <= a for a, b in zip((arrivals, *found), found, strict=False))
    mean = average(found, at, arrivals, 32)
    assert mean <= wanted.average + 1e-6
    if len(found) == 1 or found[-1] < found[-2]:
        assert mean > wanted.average - (32 - at[-1]) / 32 - 1e-6


def test_fixed_stages_come_first() -> None:
    found = decoder_keeps([0.5, Average(average=200)], [2, 16], 576, 32)
    assert found[0] == 288
    assert average(found, [2, 16], 576, 32) <= 200 < average((288, found[1] + 1), [2, 16], 576, 32)
    assert decoder_keeps([0.5, 100], [2, 16], 576, 32) == (288, 100)
    with pytest.raises(BudgetError, match="come last"):
        decoder_keeps([Average(average=200), 20], [2, 16], 576, 32)
    with pytest.raises(BudgetError, match="can't keep 300 of 288"):
        decoder_keeps([0.5, 300], [2, 16], 576, 32)


def test_pyramid_shape() -> None:
    found = decoder_keeps([Average(average=192)] * 3, [8, 16, 24], 576, 32)
    ratios = [b / a for a, b in zip((576, *found), found, strict=False)]
    assert max(ratios) - min(ratios) < 0.05
    assert 191 < average(found, [8, 16, 24], 576, 32) <= 192


def test_front_loaded() -> None:
    warning = front_loaded((288, 0, 0, 100), 576)
    assert warning is not None
    assert "Block 0 of 4 removes 288 of 576" in warning
    assert front_loaded((38, 0) * 11 + (30,), 576) is None
    assert front_loaded((0, 0, 0, 0, 300, 0), 576) is None  # half, but late
    assert front_loaded((0, 0, 0), 576) is None


def split_by_loops(total: int, counts: list[int]) -> list[int]:
    """One token after the other goes to whom its exact part is missed by most, in fractions."""
    from fractions import Fraction

    left, sharing = min(total, sum(counts)), list(range(len(counts)))
    parts = [0] * len(counts)
    while True:
        whole = sum(counts[place] for place in sharing)
        exact = {place: Fraction(left * counts[place], whole) for place in sharing}
        small = [place for place in sharing if exact[place] < 1]
        if not small:
            break
        for place in small:
            parts[place] = 1
            sharing.remove(place)
            left -= 1
    for place in sharing:
        parts[place] = int(exact[place])
    while sum(parts[place] for place in sharing) < left:
        missed = [(exact[place] - parts[place], -place) for place in sharing]
        parts[-max(missed)[1]] += 1
    return parts


@given(counts=st.lists(st.integers(1, 3000), min_size=1, max_size=8), total=st.integers(1, 9000))
def test_a_total_is_split_exactly(counts: list[int], total: int) -> None:
    if total < len(counts):
        with pytest.raises(BudgetError, match=f"each of {len(counts)} pictures") as caught:
            split(total, counts, "here")
        assert caught.value.nearest == len(counts)
        return
    parts = split(total, counts)
    assert sum(parts) == min(total, sum(counts))
    assert all(1 <= part <= count for part, count in zip(parts, counts, strict=True))
    assert parts == split_by_loops(total, counts)


def test_a_total_is_split_in_proportion() -> None:
    assert split(600, [576, 2880]) == [100, 500]
    assert split(7, [8, 15]) == [2, 5]
    assert split(4, [1, 1, 1000]) == [1, 1, 2]
    assert split(3, [5, 5]) == [2, 1]
