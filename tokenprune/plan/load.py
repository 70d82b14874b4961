"""The way from a file or mapping to a validated plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenprune.errors import PlanError
from tokenprune.errors.validation import plan_error
from tokenprune.plan.check import check_plan
from tokenprune.plan.dump import plan_data
from tokenprune.plan.keep import FORMS
from tokenprune.plan.model import Plan, ScheduleSpec, StagePlan
from tokenprune.plan.overrides import Overrides, overridden
from tokenprune.plan.paths import anchored
from tokenprune.plan.read import as_mapping, is_stage, is_study, read_mapping, resolve_extends
from tokenprune.plugins.host import host

_KEYS = {
    "": (*Plan.model_fields, "extends"),
    "stages": tuple(StagePlan.model_fields),
    "keep": tuple(FORMS),
    "schedule": tuple(ScheduleSpec.model_fields),
}


def load_plan(source: str | Path | Mapping[str, Any] | Plan, *, overrides: Overrides = ()) -> Plan:
    """Load and validate a plan.

    Args:
        source: path of a YAML file, a mapping of the same shape, or a plan. `extends` names a
            file to start from, relative to this file (to the working directory for a mapping);
            mappings are merged, lists replaced.
        overrides: `["stages.0.keep=64"]`, values read as YAML, or `{"stages.0.keep": 64}`.

    Returns:
        The plan, valid for the strategies that are registered.

    Raises:
        UnknownNameError: a key, choice or strategy that doesn't exist; the nearest is suggested.
        PlanError: anything else that is wrong, with file and key path.
    """
    if isinstance(source, Plan):
        if not overrides:
            return check_plan(source)
        data, where = plan_data(source), ""
    else:
        data, where = _read(source)
    if is_study(data):
        raise PlanError(
            "this is a study, and a plan is needed.",
            where=where,
            remedy="Name a file with 'stages'; studies run with: tokenprune study FILE.",
        )
    if is_stage(data):
        raise PlanError(
            "this is a stage, and a plan has a list of them.",
            where=where,
            remedy="Put it into the list 'stages': "
            "{stages: [{at: pre_llm, strategy: fopru, keep: 64}]}.",
        )
    data = overridden(data, overrides)
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        raise plan_error(error, data, where=where, keys=_KEYS) from error
    return check_plan(plan, where=where)


def _read(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(source, Mapping):
        data, files = resolve_extends(as_mapping(source, "plan"), Path(), "plan")
        return data, ", extending ".join(str(file) for file in files)
    if not isinstance(source, str | Path):
        raise PlanError(
            f"a plan is a file or a mapping, not an object of type {type(source).__name__}.",
            remedy="Give a path, a dict with the list 'stages', or a tokenprune.Plan.",
        )
    path = Path(source)
    if str(source) in host().strategies and not path.exists():
        raise PlanError(
            f"'{source}' is a strategy, and a plan says where it stands and how much it keeps.",
            remedy=_plan_of(str(source)),
        )
    start = anchored(read_mapping(path), path.parent)
    data, files = resolve_extends(start, path.parent, str(path), (path.resolve(),))
    return data, ", extending ".join([str(path), *(str(file) for file in files[1:])])


def _plan_of(strategy: str) -> str:
    """How a plan with one strategy is written, where it stands first."""
    place = host().strategies[strategy].stages[0].at
    stage = f"at: {place}, strategy: {strategy}, keep: 0.5"
    return f"Write a file with: stages: [{{{stage}}}]; in Python, the same as a dict will do."
