"""The list of strategies, from the registry."""

from __future__ import annotations

from typing import Any

from generators.markdown import MARK, table
from tokenprune.errors import TokenpruneError
from tokenprune.interface.sites import STAGES, Site
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.plugins.host import host

PAGE = """\
# Strategies

{mark}
Every method is a plugin. These ship with tokenprune and come in through the same entry point that
a third party uses.

{table}
Where they stand: `encoder` is inside the vision encoder, `pre_llm` after it and before the
projector, `decoder` inside the LLM. Signals are what a strategy asks of the model with default
parameters; an adapter that can't supply one refuses the plan.

On every page, a default marked **ours** is this project's and not the paper's, with the reason
beside it. `tokenprune describe NAME` prints the same from the code. Where the methods come from
and what was used of them stands under [provenance](../provenance.md).
"""


def strategies_table() -> str:
    """The page, in Markdown."""
    kinds = sorted(host().strategies.values(), key=lambda kind: kind.name)
    heading = ("name", "what it does", "where", "signals", "training")
    return PAGE.format(
        mark=MARK.format(source="the registered strategies"),
        table=table(heading, [_row(kind) for kind in kinds]),
    )


def _row(kind: type[PruningStrategy[Any]]) -> tuple[str, ...]:
    return (
        f"[`{kind.name}`]({kind.name}.md)",
        kind.about.summary,
        ", ".join(f"`{stage}`" for stage in STAGES if stage in places(kind)),
        _signals(kind),
        "a checkpoint" if issubclass(kind, TrainableStrategy) else "none",
    )


def _signals(kind: type[PruningStrategy[Any]]) -> str:
    try:
        strategy = kind(kind.Params())
    except (ValueError, TokenpruneError):  # it needs parameters that have no default
        return "depends on parameters"
    names = (str(s) for stage in places(kind) for s in strategy.signals(Site(stage, 2, 12)))
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "none"
