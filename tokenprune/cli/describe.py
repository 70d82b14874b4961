"""`tokenprune describe`: all about one strategy."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenprune.cli.examples import examples
from tokenprune.errors import TokenpruneError
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.tokens import Site

EXAMPLES = examples("tokenprune describe evoprune")


def command(
    name: Annotated[str, typer.Argument(help="A strategy, see `tokenprune list`.")],
) -> None:
    """Show a strategy's parameters with defaults, its paper, stages, signals and licence note."""
    from tokenprune.plugins.strategies import strategy_class

    kind = strategy_class(name, where="describe")
    console = Console()
    console.print(f"[bold]{kind.name}[/]  {escape(kind.summary)}")
    console.print(_facts(kind))
    console.print(_params(kind) if kind.Params.model_fields else "It has no parameters.")


def _facts(kind: type[PruningStrategy[Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    lines = {
        "paper": kind.paper or "none",
        "licence": kind.licence_note or "Apache-2.0, as this package",
        "acts at": ", ".join(kind.stages),
        "signals": "; ".join(f"{at}: {signals}" for at, signals in _signals(kind).items()),
        "training": "none needed" if kind.training_free else "needs a checkpoint of its own",
        "length": "set by the budget alone" if kind.static else "depends on the picture",
        "text": "pruned too if a plan says keep_text" if kind.prunes_text else "never pruned",
        "defaults": _defaults(kind),
    }
    for label, value in lines.items():
        table.add_row(f"[dim]{label}[/]", escape(value))
    return table


def _defaults(kind: type[PruningStrategy[Any]]) -> str:
    parts = []
    if "encoder" in kind.stages and kind.spreads:
        parts.append(f"schedule {kind.default_schedule}")
    layer = kind.layer_for(32)
    if layer is not None:
        parts.append(f"layer {layer}" + (" of 32, by depth" if kind.layer_for(8) != layer else ""))
    return ", ".join(parts) or "no schedule and no layer of its own"


def _signals(kind: type[PruningStrategy[Any]]) -> dict[str, str]:
    """What it asks for at each stage with default parameters."""
    try:
        strategy = kind(kind.Params())
    except (ValueError, TokenpruneError):
        # a required parameter, or a checkpoint that only a plan names
        return dict.fromkeys(kind.stages, "depends on its parameters")
    asked = {at: strategy.signals(Site(at, 2, 12)) for at in kind.stages}
    return {at: ", ".join(map(str, signals)) or "none" for at, signals in asked.items()}


def _params(kind: type[PruningStrategy[Any]]) -> Table:
    table = Table("parameter", "type", "default", "meaning", "whose default")
    schema = kind.Params.model_json_schema()
    for name, field in kind.Params.model_fields.items():
        about = schema["properties"].get(field.alias or name, {})
        ours = kind.ours.get(name)
        table.add_row(
            f"[bold]{field.alias or name}[/]",
            escape(_type(about)),
            "required" if field.is_required() else escape(repr(field.default)),
            escape(about.get("description", "")),
            _whose(ours, field.default),
        )
    return table


def _whose(ours: str | None, default: object) -> str:
    if ours:
        return f"[yellow]ours[/]: {escape(ours)}"
    return "-" if default is None else "the paper's"


def _type(about: dict[str, Any]) -> str:
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(_type(part) for part in about["anyOf"])
    return str(about.get("const", about.get("type", about.get("$ref", "any").split("/")[-1])))
