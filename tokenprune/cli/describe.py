"""`tokenprune describe`: all about one strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenprune.cli.options import examples
from tokenprune.errors import TokenpruneError
from tokenprune.errors.visible import visible
from tokenprune.interface.sites import Site

if TYPE_CHECKING:
    from tokenprune.interface.strategy import PruningStrategy

EXAMPLES = examples("tokenprune describe evoprune")
NOT_STATED = "not stated"


def command(
    name: Annotated[str, typer.Argument(help="A strategy, see `tokenprune list`.")],
) -> None:
    """Show a strategy's parameters with defaults, its paper, stages, signals and licence note."""
    from tokenprune.plugins.strategies import strategy_class

    kind = strategy_class(name, where="describe")
    console = Console()
    console.print(f"[bold]{kind.name}[/]  {_text(kind.about.summary)}")
    console.print(_facts(kind))
    console.print(_params(kind) if kind.Params.model_fields else "It has no parameters.")


def _facts(kind: type[PruningStrategy[Any]]) -> Table:
    from tokenprune.interface.strategy import placement, places
    from tokenprune.interface.trainable import TrainableStrategy

    table = Table.grid(padding=(0, 2))
    learned, planned = issubclass(kind, TrainableStrategy), kind.length == "planned"
    text = "decoder" in places(kind) and placement(kind, "decoder").text
    lines = {
        "paper": kind.about.paper or NOT_STATED,
        "licence": kind.about.licence or NOT_STATED,
        "acts at": ", ".join(places(kind)),
        "signals": "; ".join(f"{at}: {signals}" for at, signals in _signals(kind).items()),
        "training": "needs a checkpoint of its own" if learned else "none needed",
        "length": "set by the budget alone" if planned else "depends on the picture",
        "text": "pruned too if a plan says keep_text" if text else "never pruned",
        "defaults": _defaults(kind),
        "positions": _positions(kind),
    }
    for label, value in lines.items():
        table.add_row(f"[dim]{label}[/]", _text(value))
    return table


def _defaults(kind: type[PruningStrategy[Any]]) -> str:
    from tokenprune.interface.placement import default_schedules, own_layers

    parts = [f"schedule {name}" for name in default_schedules(kind.stages)]
    parts += [f"layer {layer}" for layer in own_layers(kind.stages)]
    return ", ".join(parts) or "no schedule and no layer of its own"


def _positions(kind: type[PruningStrategy[Any]]) -> str:
    """Position ids of what it leaves, place by place, where the plan doesn't say."""
    own = {place.at: place.positions for place in kind.stages if place.positions is not None}
    if not own:
        return "original, unless the plan says compact"
    parts = ", ".join(f"{positions} at {at}" for at, positions in own.items())
    return f"{parts}, as its official code has them, unless the plan says otherwise"


def _signals(kind: type[PruningStrategy[Any]]) -> dict[str, str]:
    """What it asks for at each stage with default parameters."""
    from tokenprune.interface.strategy import places

    try:
        strategy = kind(kind.Params())
    except (ValueError, TokenpruneError):
        # a required parameter, or a checkpoint that only a plan names
        return dict.fromkeys(places(kind), "depends on its parameters")
    asked = {at: strategy.signals(Site(at, 2, 12)) for at in places(kind)}
    return {at: ", ".join(map(str, signals)) or "none" for at, signals in asked.items()}


def _params(kind: type[PruningStrategy[Any]]) -> Table:
    table = Table("parameter", "type", "default", "meaning", "whose default")
    schema = kind.Params.model_json_schema()
    for name, field in kind.Params.model_fields.items():
        about = schema["properties"].get(field.alias or name, {})
        table.add_row(
            f"[bold]{field.alias or name}[/]",
            _text(_type(about)),
            "required" if field.is_required() else _text(repr(field.default)),
            _text(about.get("description", "")),
            _whose(kind, name),
        )
    return table


def _whose(kind: type[PruningStrategy[Any]], name: str) -> str:
    """Who chose a parameter's default, as far as the author of the strategy says it."""
    field, ours = kind.Params.model_fields[name], kind.about.ours
    if ours and name in ours:
        return f"[yellow]ours[/]: {_text(ours[name])}"
    if field.is_required() or field.default is None:
        return "-"
    if name in kind.about.borrowed:
        return _text(kind.about.borrowed[name])
    return NOT_STATED if ours is None else "the paper's"


def _text(given: str) -> str:
    """What an author wrote: no markup and no control characters of theirs are read."""
    return escape(visible(given))


def _type(about: dict[str, Any]) -> str:
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(_type(part) for part in about["anyOf"])
    return str(about.get("const", about.get("type", about.get("$ref", "any").split("/")[-1])))
