"""Which plans a comparison runs: one per strategy and budget, or the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import PlanError
from tokenprune.plan import Average, Plan, StagePlan
from tokenprune.strategy import PruningStrategy
from tokenprune.tokens import Stage

Strategies = Mapping[str, type[PruningStrategy[Any]]]

#: Budgets of the built-in comparisons (ours): a sixth to a 24th of the reference model's 196
#: patches, and three quarters to a quarter for classifiers, whose class token reads what is left.
MLLM_KEEPS = (32, 16, 8)
CLASSIFIER_KEEPS = (147, 98, 64, 49)

#: FastV's layer, where a strategy doesn't name its own.
DECODER_LAYER = 2

#: Strategies shown once more with compacted position ids, and at which budget.
POSITION_ROWS = ("evoprune", "fopru", "random")

MAIN = "plans"
COMPACT = "compacted position ids"


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        name: strategy, or name of the plan.
        plan: what is attached.
        group: rows of one group are shown and compared with each other.
        meaning: what the budget's number counts.
    """

    name: str
    plan: Plan
    group: str = MAIN
    meaning: str = ""

    @property
    def keep(self) -> str:
        """The budget as it is shown: one number a stage."""
        return " + ".join(_shown(stage.keep) for stage in self.plan.stages) or "all"

    @property
    def label(self) -> str:
        """Name and budget, for progress bars and messages."""
        return f"{self.name} {self.keep}"

    @property
    def strategy(self) -> str | None:
        """The strategy, if the plan has one stage only."""
        return self.plan.stages[0].strategy if len(self.plan.stages) == 1 else None


def default_entries(
    strategies: Strategies, keeps: Sequence[int], *, positions: str = "both", seed: int = 0
) -> list[Entry]:
    """Every training-free strategy at every budget, each where it stands by default.

    Args:
        strategies: by name.
        keeps: tokens per image.
        positions: `original`, `compact`, or `both`: all with original position ids and
            a few with compacted ones beside them.
        seed: of the plans.
    """
    free = {name: kind for name, kind in sorted(strategies.items()) if kind.training_free}
    main = [
        strategy_entry(kind, keep, home(kind), seed=seed, compact=positions == "compact")
        for keep in keeps
        for kind in free.values()
    ]
    if positions != "both":
        return main
    middle = keeps[len(keeps) // 2]
    again = [
        strategy_entry(free[name], middle, home(free[name]), seed=seed, compact=True, also=True)
        for name in POSITION_ROWS
        if name in free
    ]
    return main + again


def home(kind: type[PruningStrategy[Any]]) -> Stage:
    """Where a strategy stands in a comparison: before the LLM if it can, else at its first stage.

    Baselines can stand anywhere; before the LLM they drop as many tokens with the least harm.
    """
    return "pre_llm" if "pre_llm" in kind.stages else kind.stages[0]


def encoder_entries(strategies: Strategies, keeps: Sequence[int], *, seed: int = 0) -> list[Entry]:
    """Every training-free strategy that can stand inside an encoder, at every budget.

    Each runs under its own default schedule; the scores and baselines share `skip`.
    """
    free = {name: kind for name, kind in sorted(strategies.items()) if kind.training_free}
    return [
        strategy_entry(kind, keep, "encoder", seed=seed)
        for keep in keeps
        for kind in free.values()
        if "encoder" in kind.stages
    ]


def strategy_entry(
    kind: type[PruningStrategy[Any]],
    keep: int,
    at: Stage,
    *,
    seed: int = 0,
    compact: bool = False,
    also: bool = False,
) -> Entry:
    """A strategy with its defaults at one stage; `also` puts it into the group beside the main."""
    layer = (kind.default_layer or DECODER_LAYER) if at == "decoder" else None
    stage = StagePlan(at=at, strategy=kind.name, keep=keep, layer=layer)
    plan = Plan(
        name=f"{kind.name}-{keep}",
        seed=seed,
        positions="compact" if compact else "original",
        stages=(stage,),
    )
    return Entry(kind.name, plan, COMPACT if also else MAIN, meaning(stage, kind))


def plan_entries(
    plans: Iterable[tuple[str, Plan]], keeps: Sequence[int], strategies: Strategies
) -> list[Entry]:
    """The user's plans, or each of them at every budget in `keeps`.

    Args:
        plans: a name for each that has none of its own, and the plan.
        keeps: tokens per image that replace the budgets of plans with one stage.
        strategies: by name.

    Raises:
        PlanError: a budget was given for a plan with several stages.
    """
    entries = []
    for fallback, plan in plans:
        name = plan.name or fallback
        for variant in _variants(name, plan, keeps):
            stages = variant.stages
            means = meaning(stages[0], strategies.get(stages[0].strategy)) if stages else ""
            entries.append(Entry(name, variant, MAIN, means if len(stages) == 1 else "each stage"))
    return entries


def meaning(stage: StagePlan, kind: type[PruningStrategy[Any]] | None) -> str:
    """What the number of a budget counts at a stage."""
    if stage.at == "pre_llm":
        return "tokens handed to the LLM"
    if stage.at == "decoder":
        if isinstance(stage.keep, Average):
            return "mean over the LLM's layers"
        return f"tokens from LLM layer {stage.layer} on; all before it"
    if kind is not None and kind.restores:
        return "tokens inside the encoder; all are restored after it"
    return "tokens that leave the encoder"


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


def _shown(keep: float | Average | None) -> str:
    if keep is None:
        return "own"
    return f"avg {keep.average:g}" if isinstance(keep, Average) else f"{keep:g}"
