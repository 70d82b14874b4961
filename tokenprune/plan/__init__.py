"""Plans: typed, validated, read from YAML, with a solver from budgets to numbers of tokens."""

from tokenprune.plan.check import check_plan
from tokenprune.plan.dump import dump_plan
from tokenprune.plan.load import load_plan
from tokenprune.plan.model import Average, Plan, ScheduleSpec, StagePlan
from tokenprune.plan.numbering import Numbering, numbering, positions_of
from tokenprune.plan.schema import plan_schema

__all__ = [
    "Average",
    "Numbering",
    "Plan",
    "ScheduleSpec",
    "StagePlan",
    "check_plan",
    "dump_plan",
    "load_plan",
    "numbering",
    "plan_schema",
    "positions_of",
]
