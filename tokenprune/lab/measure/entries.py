"""Which plans a comparison runs: one per strategy and budget, or the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import PlanError
from tokenprune.interface.placement import Decoder
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.plan import Average, PerTile, Plan, StagePlan, Total
from tokenprune.plan.keep import Budgeted

Strategies = Mapping[str, type[PruningStrategy[Any]]]

#: FastV's layer, where a strategy doesn't name its own.
DECODER_LAYER = 2

MAIN = "plans"
COMPACT = "compacted position ids"


def budgets(plan: Plan) -> list[str]:
    """The budget of every stage as it is shown."""
    return [_shown(stage.keep) for stage in plan.stages]


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        name: strategy, or name of the plan.
        plan: what is attached.
        group: rows of one group are shown and compared with each other.
        meaning: what the budget's number counts.
        budget: what rows share that are compared with each other; default: the budget as shown.
        optional: where the plan can't run, the row is left out with the reason; else that ends
            everything.
    """

    name: str
    plan: Plan
    group: str = MAIN
    meaning: str = ""
    budget: str = ""
    optional: bool = False

    @property
    def peers(self) -> str:
        """What rows share that are compared with each other."""
        return self.budget or self.keep

    @property
    def keep(self) -> str:
        """The budget as it is shown: one number a stage."""
        return " + ".join(budgets(self.plan)) or "all"

    @property
    def label(self) -> str:
        """Name and budget, for progress bars and messages."""
        return f"{self.name} {self.keep}"

    @property
    def strategy(self) -> str | None:
        """The strategy, if the plan has one stage only."""
        return self.plan.stages[0].strategy if len(self.plan.stages) == 1 else None


def strategy_entry(
    kind: type[PruningStrategy[Any]],
    keep: int | None,
    at: Stage,
    *,
    seed: int = 0,
    compact: bool = False,
    also: bool = False,
    layers: int = 0,
    name: str = "",
    params: Mapping[str, Any] | None = None,
) -> Entry:
    """A strategy with its defaults at one stage; `also` puts it into the group beside the main.

    Args:
        kind: the strategy.
        keep: tokens per image; None for a strategy that sets its own budget.
        at: the stage.
        seed: of the plan.
        compact: renumber position ids.
        also: put it into the group beside the main one.
        layers: layers of the LLM, so that the row names the strategy's own; 0 if not known.
        name: of the row; default: the strategy's.
        params: other parameters than its defaults.
    """
    own, layer = placement(kind, at), None
    if isinstance(own, Decoder) and not own.every_layer:
        known = own.layer_of(layers) if layers else None
        layer = DECODER_LAYER if own.layer is None and own.steps is None else known
    stage = StagePlan(at=at, strategy=kind.name, keep=keep, layer=layer, params=dict(params or {}))
    shown = name or kind.name
    plan = Plan(
        name=shown if keep is None else f"{shown}-{keep}",
        seed=seed,
        positions="compact" if compact else "original",
        stages=(stage,),
    )
    budget = f"own, {shown}" if keep is None else ""
    return Entry(shown, plan, COMPACT if also else MAIN, meaning(stage, kind), budget)


def plan_entries(
    plans: Iterable[tuple[str, Plan]], keeps: Sequence[int], strategies: Strategies
) -> list[Entry]:
    """The user's plans, or each of them at every budget in `keeps`.

    Args:
        plans: a name for each that has none of its own, and the plan. Plans with one name and
            one budget have the given name behind their own.
        keeps: tokens per image that replace the budgets of plans with one stage.
        strategies: by name.

    Raises:
        PlanError: a budget was given for a plan with several stages.
    """
    entries = []
    given = list(plans)
    rows = Counter(_row(plan, keeps) for _, plan in given)
    for fallback, plan in given:
        name = plan.name or fallback
        if plan.name and rows[_row(plan, keeps)] > 1:
            name = f"{name} ({fallback})"
        for variant in _variants(name, plan, keeps):
            stages = variant.stages
            means = meaning(stages[0], strategies.get(stages[0].strategy)) if stages else ""
            entries.append(Entry(name, variant, MAIN, means if len(stages) == 1 else "each stage"))
    return entries


def _row(plan: Plan, keeps: Sequence[int]) -> tuple[str | None, ...]:
    """What rows are told apart by: name, and budgets where `keeps` doesn't replace them."""
    return (plan.name, *(() if keeps else budgets(plan)))


def meaning(stage: StagePlan, kind: type[PruningStrategy[Any]] | None) -> str:
    """What the number of a budget counts at a stage."""
    if stage.keep is None:
        return "as many tokens as the method chooses for each image"
    if isinstance(stage.keep, Average):
        return "mean over the LLM's layers"
    if isinstance(stage.keep, Total):
        return f"all images of a prompt together: {_what(stage, kind)}"
    if isinstance(stage.keep, PerTile):
        return f"a tile of an image: {_what(stage, kind)}"
    return _what(stage, kind)


def _what(stage: StagePlan, kind: type[PruningStrategy[Any]] | None) -> str:
    if stage.at == "pre_llm":
        return "tokens handed to the LLM"
    if stage.at == "decoder":
        return _from_layer_on(stage, kind)
    if kind is not None and placement(kind, "encoder").restores:
        return "tokens inside the encoder; all are restored after it"
    return "tokens that leave the encoder"


def _from_layer_on(stage: StagePlan, kind: type[PruningStrategy[Any]] | None) -> str:
    if stage.layer is not None:
        return f"tokens from LLM layer {stage.layer} on; all before it"
    if kind is not None and placement(kind, "decoder").steps is not None:
        return "tokens from the last of its LLM layers on; more before it"
    return "tokens from its own LLM layer on; all before it"


def _variants(name: str, plan: Plan, keeps: Sequence[int]) -> list[Plan]:
    if not keeps:
        return [plan]
    if len(plan.stages) != 1:
        raise PlanError(
            f"--keep can't replace the budget of a plan with {len(plan.stages)} stages.",
            where=name,
            remedy="Leave --keep away and write the budgets into the plan.",
        )
    stage = plan.stages[0]
    return [
        plan.model_copy(update={"stages": (stage.model_copy(update={"keep": keep}),)})
        for keep in keeps
    ]


def _shown(keep: Budgeted | None) -> str:
    if keep is None:
        return "own"
    if isinstance(keep, Average):
        return f"avg {keep.average:g}"
    return f"{keep:g}" if isinstance(keep, int | float) else str(keep).strip("{}")


def home(kind: type[PruningStrategy[Any]]) -> Stage:
    """Where a strategy stands in a comparison: before the LLM if it can, else at its first stage.

    Baselines can stand anywhere; before the LLM they drop as many tokens with the least harm.
    """
    return "pre_llm" if "pre_llm" in places(kind) else kind.stages[0].at
