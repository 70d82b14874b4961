"""The page of signals, from their rows."""

from __future__ import annotations

from generators.markdown import MARK, table
from tokenprune.interface.signals import Signal, View
from tokenprune.plugins.signals import KnownSignal, known_signals

PAGE = """\
# Signals

{mark}
A strategy asks for these by returning them from `signals`, as `Signal.KEYS`, and reads them with
`tokens.signal(Signal.KEYS)` ([writing a strategy](writing-a-strategy.md)). Letters in shapes: B
samples, N tokens of the site, D channels of a token, d channels of a head, G companion tokens, S
text tokens of the prompt. Names in lower case are signals that a method defines for itself.
`tokenprune list --signals` prints the same with the strategies that are installed.

Where a model cuts an image into tiles, a tower sees each tile by itself: attention is that within
the tile, scores of different tiles come from softmaxes of their own, and `PREFIX_STATES` are those
of the first tile, which shows the whole image. Where a square of patches becomes one token, a
token's attention and keys are means over its patches, and states have them side by side, `m * D`
wide.

{table}
## What they are computed from

A signal needs one view of the model, and every model has it whose adapter supplies that view. A
view marked with * can be that of a chosen encoder block at `pre_llm`: `Signal.KEYS.at(5)`; without
`at` it is the last one whose output is used.

{views}
[The API reference](api.md#views-of-a-model) lists what each view holds, for signals of your own.
"""


def signals_page() -> str:
    """The page, in Markdown."""
    known = known_signals()
    rows = [_row(one) for one in known]
    views = {one.signal.needs: one for one in known if one.signal.needs is not None}
    return PAGE.format(
        mark=MARK.format(source="the signals' rows"),
        table=table(("signal", "shape", "what it is", "where", "computed from"), rows),
        views=table(
            ("view", "what it is", "where", "families that supply it"),
            [_view(view, one) for view, one in views.items()],
        ),
    )


def _row(one: KnownSignal) -> tuple[str, ...]:
    name, view = one.signal.name, one.signal.needs
    return (
        f"`{name.upper() if name in Signal.shipped() else name}`",
        f"`{one.shape}`",
        one.what,
        _stages(one),
        "" if view is None else f"`{view.__name__}`",
    )


def _view(view: type[View], one: KnownSignal) -> tuple[str, ...]:
    chosen = " *" if view.chosen else ""
    families = ", ".join(one.families)
    return f"`{view.__name__}`{chosen}", view.title, _stages(one), families


def _stages(one: KnownSignal) -> str:
    return ", ".join(f"`{stage}`" for stage in one.signal.stages)
