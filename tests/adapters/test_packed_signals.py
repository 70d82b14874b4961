"""What strategies are shown inside packed towers, against the attention of a full-length run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tokenprune
from tests.adapters.packed_full import BLOCK, Watch, full, near
from tests.adapters.packed_oracle import removed
from tests.packed import GRIDS, MEMBERS, UNIT_WIDTH, call, plan, run, tower
from tests.plugin import registering
from tokenprune import Signal
from tokenprune.errors import SignalError
from tokenprune.interface.signals import BlockAttention
from tokenprune.interface.sites import Site
from tokenprune.plugins.host import register_plugin

FIRST = {"strategy": "random", "layer": 0, "keep": 0.5}
WATCH = {"strategy": "t-watch", "layer": BLOCK, "keep": 0.5}


class Ahead(Watch):
    """Asks for a value of tokens in front, of which a packed tower has none."""

    name = "t-ahead"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (
            Signal("t_front", "[B, P] none", BlockAttention, lambda view: view.key[:, 0, :0, 0]),
        )


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Watch.seen.clear()
    with register_plugin(registering(Watch, Ahead), "packed-signals"):
        yield


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "exaone4_5"])
def test_signals_are_means_over_members_and_over_the_picture(family: str) -> None:
    model, given = tower(family, torch.float64), call(dtype=torch.float64)
    with tokenprune.attach(model, plan(FIRST, WATCH)) as handle:
        run(model, given)
    gone = removed(handle.trace.images, len(model.blocks))
    whole = full(model, given, gone)
    firsts = {(1, 2, 4): [0, 28], (1, 4, 5): [8], (1, 2, 5): [36, 46]}
    assert {tokens.grid for tokens in Watch.seen} == firsts.keys()
    for tokens in Watch.seen:
        assert tokens.hidden.shape[2] == UNIT_WIDTH
        for picture, first in enumerate(firsts[tokens.grid]):
            units = first + tokens.index[picture]
            assert not bool(gone[BLOCK][units].any())
            shown = {name: value[picture] for name, value in tokens.signals.items()}
            whole.check(shown, units)
            rows = whole.row[units]
            near(tokens.hidden[picture], whole.hidden[rows].flatten(1))
            near(shown["previous_hidden"], whole.before[rows].flatten(1))


def test_windows_of_different_sizes_count_by_their_queries() -> None:
    """Every query gives one in all, so a picture's units receive one in all, cut or not."""
    model = tower("qwen2_5_vl")
    with tokenprune.attach(model, plan(FIRST, WATCH)):
        run(model, call())
    assert len(Watch.seen) == len(set(GRIDS))
    for tokens in Watch.seen:
        total = tokens.signal(Signal.ATTENTION_RECEIVED).sum(dim=1) * MEMBERS
        near(total, torch.ones_like(total))


def test_values_of_tokens_in_front_are_refused() -> None:
    with pytest.raises(SignalError, match="t_front"):
        tokenprune.attach(tower(), plan({"strategy": "t-ahead", "layer": 1, "keep": 0.5}))
