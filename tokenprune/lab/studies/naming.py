"""What plans of a study are called: by the study's template, or by what its grid varies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.errors import PlanError
from tokenprune.errors.names import suggestion
from tokenprune.lab.measure.entries import budgets
from tokenprune.lab.studies.model import PlanEntry
from tokenprune.plan import Plan

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def plan_name(entry: PlanEntry, plan: Plan, values: Mapping[str, Any]) -> str:
    """The name of one plan of an entry.

    Args:
        entry: of the study; `{...}` in its name stands for a value.
        plan: resolved.
        values: what the entry's grid put into the plan, by dotted place.

    Raises:
        PlanError: the name asks for a value that there isn't.
    """
    fallback = entry.plan.stem if isinstance(entry.plan, Path) else "plan"
    if entry.name is not None and _FIELD.search(entry.name):
        return _filled(entry.name, _fields(plan, values, fallback))
    name = entry.name or plan.name or fallback
    suffix = " ".join(f"{short(place)}={_shown(value)}" for place, value in values.items())
    return f"{name} {suffix}".strip()


def short(place: str) -> str:
    """`stages.0.params.tau` as `tau`; the number stays for later stages."""
    parts = place.split(".")
    number = f"{parts[1]}." if parts[0] == "stages" and parts[1] != "0" else ""
    return number + parts[-1]


def _fields(plan: Plan, values: Mapping[str, Any], fallback: str) -> dict[str, str]:
    """What a template can ask for: of the plan, and what the grid varied, in short and in full."""
    found = {
        "plan": plan.name or fallback,
        "strategy": "+".join(dict.fromkeys(stage.strategy for stage in plan.stages)),
        "at": "+".join(dict.fromkeys(stage.at for stage in plan.stages)),
        "keep": "+".join(budgets(plan)),
        "seed": str(plan.seed),
    }
    shown = {place: _shown(value) for place, value in values.items()}
    return {**found, **{short(place): text for place, text in shown.items()}, **shown}


def _filled(template: str, fields: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        whole, name = match[0], match[1]
        if name is None:
            return whole[0]
        if name not in fields:
            raise PlanError(
                f"the name asks for '{name}', which this plan doesn't have.",
                where="name",
                remedy=suggestion(name, fields),
            )
        return fields[name]

    return _FIELD.sub(value, template)


def _shown(value: Any) -> str:
    """A value of a grid in a name."""
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
