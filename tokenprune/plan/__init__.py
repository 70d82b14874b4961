"""Plans: typed, validated, read from YAML, with a solver from budgets to numbers of tokens."""

from tokenprune.plan.check import check_plan
from tokenprune.plan.dump import dump_plan
from tokenprune.plan.keep import Average, PerTile, Total
from tokenprune.plan.load import load_plan
from tokenprune.plan.model import Plan, ScheduleSpec, StagePlan
from tokenprune.plan.numbering import Numbering, numbering, positions_of
from tokenprune.plan.schema import plan_schema

__all__ = [
    "Average",
    "Numbering",
    "PerTile",
    "Plan",
    "ScheduleSpec",
    "StagePlan",
    "Total",
    "check_plan",
    "dump_plan",
    "load_plan",
    "numbering",
    "plan_schema",
    "positions_of",
]
