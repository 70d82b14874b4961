from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tokenprune.errors import BudgetError
from tokenprune.plan import Plan
from tokenprune.plan.coupling import Coupling

THIRD = 1 / 3


@pytest.mark.parametrize(
    ("average", "first", "second"), [(192, 288, 96), (128, 192, 64), (64, 96, 32)]
)
def test_vscans_table(average: int, first: int, second: int) -> None:
    # 576 tokens, 32 layers, a third is kept from layer 16 on
    assert Coupling(average, (THIRD,), (16,), 32).arrivals(576) == first
    assert int(first * THIRD + 1e-9) == second
    assert Coupling(average, (0.334,), (16,), 32).arrivals(576) == first  # as a plan writes it
    assert int(first * 0.334) == second
    assert Coupling(average, (second,), (16,), 32).arrivals(576) == first


def test_without_later_stages_it_is_the_number_itself() -> None:
    assert Coupling(64.9, (), (), 32).arrivals(576) == 64


def mean(count: int, keep: int | float, layer: int, layers: int) -> float | None:
    """Mean over the layers, by a loop; None where the decoder stage can't keep its tokens."""
    left = keep if isinstance(keep, int) else max(1, int(count * keep + 1e-9))
    if left > count:
        return None
    return sum(count if at < layer else left for at in range(layers)) / layers


@given(
    most=st.integers(1, 300),
    wanted=st.floats(0.5, 320),
    keep=st.one_of(st.integers(1, 200), st.floats(0.01, 1)),
    layers=st.integers(2, 20),
    share=st.floats(0.05, 0.95),
)
def test_it_is_the_largest_that_fits(
    most: int, wanted: float, keep: int | float, layers: int, share: float
) -> None:
    layer = max(1, int(layers * share))
    means = {count: mean(count, keep, layer, layers) for count in range(1, most + 1)}
    known = {count: value for count, value in means.items() if value is not None}
    coupling = Coupling(wanted, (keep,), (layer,), layers)
    if not known:
        assert coupling.arrivals(most) == most
        return
    fitting = [count for count, value in known.items() if value <= wanted + 1e-9]
    if not fitting or wanted > max(known.values()) + 1e-6:
        with pytest.raises(BudgetError) as caught:
            coupling.arrivals(most, where="stages.0")
        nearest = min(known.values()) if not fitting else max(known.values())
        assert caught.value.nearest == pytest.approx(nearest)
        assert Coupling(nearest, (keep,), (layer,), layers).arrivals(most) in known
    else:
        assert coupling.arrivals(most) == max(fitting)


def test_several_stages_behind() -> None:
    coupling = Coupling(20, (0.5, 4), (2, 6), 8)
    found = coupling.arrivals(100)
    means = [(2 * n + 4 * (n // 2) + 2 * 4) / 8 for n in (found, found + 1)]
    assert means[0] <= 20 < means[1]


def test_frames_share_the_average() -> None:
    # 16 of 32 layers see n, the others a third of it: n is one and a half times the average
    coupling = Coupling(10, (THIRD,), (16,), 32)
    assert coupling.arrivals(8 * 36, frames=8) == 8 * 15
    assert Coupling(10, (5,), (16,), 32).arrivals(8 * 36, frames=8) == 8 * 15


def test_the_message_names_place_and_nearest() -> None:
    with pytest.raises(BudgetError) as caught:
        Coupling(600, (THIRD,), (16,), 32).arrivals(576, where="stages.0.keep")
    assert caught.value.nearest == 384
    assert "stages.0.keep" in str(caught.value)
    assert "nearest feasible average is 384" in str(caught.value)
    with pytest.raises(BudgetError) as caught:
        Coupling(5, (32,), (16,), 32).arrivals(576)
    assert caught.value.nearest == 32


def plan(*stages: tuple[str, Any]) -> Plan:
    found = [{"at": at, "strategy": "random", "keep": keep} for at, keep in stages]
    for number, stage in enumerate(found):
        if stage["at"] == "decoder":
            stage["layer"] = number + 1
    return Plan.model_validate({"schema_version": 1, "stages": found})


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([("pre_llm", {"average": 9}), ("pre_llm", 4)], "only the last one"),
        ([("pre_llm", {"average": 9}), ("pre_llm", {"average": 9})], "only the last one"),
        ([("pre_llm", {"average": 9}), ("decoder", {"average": 9})], "tokens or ratios"),
        ([("pre_llm", {"average": 9}), ("decoder", 3), ("decoder", {"average": 9})], "tokens or"),
    ],
)
def test_plans_that_say_it_twice_are_refused(stages: list[tuple[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan(*stages)


def test_plans_that_are_fine() -> None:
    plan(("pre_llm", 20), ("pre_llm", {"average": 9}), ("decoder", 3), ("decoder", 0.5))
    plan(("pre_llm", {"average": 9}))
