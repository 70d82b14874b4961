"""The page of what runs where, from what strategies and adapters declare."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune_adapters.transformers.unserved import UNSERVED

from generators.markdown import MARK, table
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import Fit, alike, footnotes, matrix

PAGE = """\
# What runs where

{mark}
Strategies by model family, as `tokenprune list --matrix` prints it: the stages at which a strategy
can be attached with its default parameters. Families that take the same strategies at the same
stages are one column, and LLaVA has one for each kind of
vision tower. A number points to the reason why a strategy is refused.

{table}
{notes}

A family's column says what its adapter can supply for some model. A single model may have less: a
timm model without a class token has no `cls_attention`, and a LLaVA whose projector reads several
feature layers takes decoder stages only. `tokenprune.attach` then refuses the plan, with the
reason, before anything on the model changes. The tests attach every cell of this table.

## Families

What holds of all strategies in a family. Everywhere else its pictures, several sizes, several in a
prompt, and clips where it takes them, go with stages inside the tower, in front of the LLM and
inside of it, alone and together; the tests run every such cell against the plain model. Limits of
single layers (linear attention, shared keys) are said when a plan is attached.

{families}

Stages in front of the LLM see the projector's input in LLaVA, if their strategy wants that, and
in Llama 4, whose projector is a linear map. In the other families they stand where the core puts
its pictures together, behind the projector and at the LLM's width. That is why strategies with
companions (`vistog`) and those of several encoder levels (`quecc`), which read the tower's width,
are refused there.

### Not served

Multimodal LLMs of transformers that no adapter serves; `tokenprune.attach` refuses them. How one of
your own is made, [writing an adapter](writing-an-adapter.md) says.

{unserved}
"""


def strategy_matrix() -> str:
    """The page, in Markdown."""
    columns = alike(matrix())
    rows = list(zip(*columns, strict=True))
    notes = footnotes(rows)
    heading = ("strategy", *(column[0].family.name for column in columns))
    lines = [
        (f"[`{row[0].strategy}`](strategies/{row[0].strategy}.md)", *(_cell(c, notes) for c in row))
        for row in rows
    ]
    return PAGE.format(
        mark=MARK.format(source="the registered strategies and adapters"),
        table=table(heading, lines),
        notes="\n".join(f"{number}. {note}." for number, note in enumerate(notes, start=1)),
        families=_families(),
        unserved=_unserved(),
    )


def _families() -> str:
    """What holds of every multimodal family."""
    heading = ("family", "`pre_llm` sees the projector's", "limits")
    lines = [
        (f"`{name}`", "output" if kind.projected else "input", "; ".join(kind.limits) or "-")
        for name, kind in host().mllms.items()
    ]
    return table(heading, lines)


def _unserved() -> str:
    """The families of the library that no adapter serves."""
    lines = [
        (", ".join(f"`{name}`" for name in names), reason) for reason, names in UNSERVED.items()
    ]
    return table(("families", "why"), lines)


def _cell(one: Fit, notes: Sequence[str]) -> str:
    marks = ", ".join(str(notes.index(note) + 1) for note in one.notes)
    runs = ", ".join(f"`{stage}`" for stage in one.runs) or "-"
    return f"{runs} ({marks})" if marks else runs
