"""Hooks that a plugin can implement: those of the house, each with the row of its kind.

The lab adds its own, see `tokenprune.lab.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pluggy

from tokenprune.interface.about import About
from tokenprune.interface.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.interface.placement import Placement
from tokenprune.interface.strategy import Length, PruningStrategy, StrategyParams, places
from tokenprune.interface.text_tower import TextTower
from tokenprune.plugins.kinds import Kind, wrong_class, wrong_kind

PROJECT = "tokenprune"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_strategies(register: Callable[[type[PruningStrategy[Any]]], None]) -> None:
    """Call `register(StrategyClass)` for every strategy of the plugin."""


@hookspec
def register_adapters(
    register: Callable[[type[EncoderAdapter] | type[MllmAdapter]], None],
) -> None:
    """Call `register(AdapterClass)` for every model family of the plugin."""


@hookspec
def register_text_towers(register: Callable[[type[TextTower]], None]) -> None:
    """Call `register(TowerClass)` for every kind of text tower that plans can name."""


@hookspec
def register_kinds(register: Callable[[Kind[Any]], None]) -> None:
    """Call `register(kind)` for every kind of thing that others can bring to the plugin."""


def _wrong_strategy(given: Any) -> str:
    wrong = wrong_class(given, PruningStrategy)
    if wrong:
        return wrong
    stages = getattr(given, "stages", ())
    listed = isinstance(stages, tuple | list)
    if not stages or not listed or not all(isinstance(place, Placement) for place in stages):
        forms = "(PreLlm(),) or (PreLlm(), Decoder(layer=2))"
        return f"its stages are {stages!r}; write placements in a tuple, such as {forms}"
    if len({place.at for place in stages}) < len(stages):
        return f"its stages name a place twice: {', '.join(places(given))}"
    if given.length not in get_args(Length):
        return f"its length is {given.length!r}, known are {', '.join(get_args(Length))}"
    if not isinstance(given.about, About):
        return "its about is no About(summary, paper, licence, ours)"
    params = given.Params
    if not (isinstance(params, type) and issubclass(params, StrategyParams)):
        return "its Params is no subclass of StrategyParams"
    return ""


def _wrong_adapter(given: Any) -> str:
    wrong = wrong_class(given, Adapter)
    if wrong:
        return wrong
    if not issubclass(given, EncoderAdapter | MllmAdapter):
        return "subclass EncoderAdapter or MllmAdapter"
    claims = getattr(given, "claims", None)
    if not isinstance(claims, tuple) or not all(isinstance(claim, str) for claim in claims):
        return "its claims have to be a tuple of full class names"
    return ""


STRATEGIES: Kind[type[PruningStrategy[Any]]] = Kind(
    "strategy", register_strategies, _wrong_strategy
)
ADAPTERS: Kind[type[EncoderAdapter] | type[MllmAdapter]] = Kind(
    "adapter", register_adapters, _wrong_adapter
)
TEXT_TOWERS: Kind[type[TextTower]] = Kind(
    "text tower", register_text_towers, lambda given: wrong_class(given, TextTower)
)
KINDS: Kind[Kind[Any]] = Kind("kind", register_kinds, wrong_kind)
HOUSE: tuple[Kind[Any], ...] = (KINDS, STRATEGIES, ADAPTERS, TEXT_TOWERS)
