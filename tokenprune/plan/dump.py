"""Writing plans."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic_core import PydanticSerializationError

from tokenprune.errors import PlanError
from tokenprune.plan.model import Plan


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, defaults left out, the version first.

    Raises:
        PlanError: `params` hold something that isn't plain data.
    """
    try:
        data = plan.model_dump(mode="json", exclude_defaults=True)
    except PydanticSerializationError as error:
        raise PlanError(
            f"the plan holds a value that no file can hold ({error}).",
            remedy="Use numbers, strings, lists and mappings in 'params'.",
        ) from error
    return {"schema_version": plan.schema_version, **data}


def dump_plan(plan: Plan) -> str:
    """The plan as YAML; `load_plan` on it gives the same plan.

    Raises:
        PlanError: `params` hold something that isn't plain data.
    """
    data = plan_data(plan)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    if "\x85" in text:  # PyYAML writes this line break bare and reads it as a space
        text = yaml.safe_dump(data, sort_keys=False)
    return text
