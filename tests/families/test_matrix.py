"""The columns of these families in the matrix of strategies say what attaching really does."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import tokenprune
from tests.contract.cases import shipped, stage_of
from tests.families.calls import case_of
from tests.families.cases import CASES
from tests.families.plans import LAYER, plan
from tokenprune.errors import SignalError, UnsupportedModelError
from tokenprune.interface.signals import LayerBefore
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import placement, places
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import families, fit, signals

COLUMNS = [name for name in CASES if any(family.adapter == name for family in families())]
TOWERS = {"llava_onevision": "siglip"}
"""Towers of the tiny models of families that may have several; CLIP for most."""
LINEAR = ("qwen3_5", "qwen3_5_moe", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
"""Families whose last of four layers only has full attention."""
PLACES: list[tuple[str, Stage]] = [
    (name, at) for name, kind in shipped().items() for at in places(kind)
]
asked = functools.cache(signals)  # both make the strategy, which a learned one takes its time for


@functools.cache
def staged(name: str, at: Stage) -> dict[str, Any]:
    """The stage of a strategy, as long as no family changes it."""
    return stage_of(host().strategies[name], at)


@functools.cache
def alike() -> list[list[tuple[str, Stage]]]:
    """Strategies and stages, together where they ask a family for the same."""
    found: dict[Any, list[tuple[str, Stage]]] = {}
    for name, at in PLACES:
        kind = host().strategies[name]
        where = frozenset(staged(name, at)) & {"keep", "layer", "layers"}
        wanted = (at, kind.length, placement(kind, at).positions, where, asked(kind, at))
        found.setdefault(wanted, []).append((name, at))
    return [*found.values()]


def test_every_family_has_a_column() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(COLUMNS)


@pytest.mark.parametrize("family", COLUMNS)
def test_a_cell_is_what_attach_does(family: str) -> None:
    """Of strategies that ask for the same, each family meets one, and another than the last did."""
    columns = [found for found in families() if found.adapter == family]
    tower = TOWERS.get(family, "clip")
    column = next(found for found in columns if len(columns) == 1 or found.tower == tower)
    model = case_of(family).build()
    turn = COLUMNS.index(family)
    for name, at in (same[turn % len(same)] for same in alike()):
        kind = host().strategies[name]
        one, stage = fit(kind, column, asked), dict(staged(name, at))
        if at == "encoder":
            stage["keep"] = 0.6  # some pieces have few units
        if at == "decoder" and family in LAYER:
            stage = {key: value for key, value in stage.items() if key != "layers"}
            stage["layer"] = LAYER[family]
        wanted = plan(stage)
        needs = {signal.needs for signal in asked(kind, at)}
        if at == "decoder" and family in LINEAR and LayerBefore in needs:
            # the one layer with full attention has none in front of it in these tiny models
            with pytest.raises(SignalError, match="linear attention"):
                tokenprune.attach(model, wanted)
            continue
        if at in one.runs:
            tokenprune.attach(model, wanted).detach()
            continue
        error = SignalError if one.refused[at].startswith("needs ") else UnsupportedModelError
        with pytest.raises(error):
            tokenprune.attach(model, wanted)
