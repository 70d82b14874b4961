"""Whether a plan names all that it needs, as far as that is known without a model."""

from __future__ import annotations

from tokenprune.engine.stages import ResolvedStage, build_strategy
from tokenprune.engine.text_towers import named_text_tower
from tokenprune.errors import CheckpointError
from tokenprune.interface.sites import Site
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.plan import Plan
from tokenprune.plugins.matrix import SHAPE
from tokenprune.plugins.strategies import strategy_class


def check_complete(plan: Plan) -> list[CheckpointError]:
    """Refuse a plan that no model can be given, with the words of `attach`.

    Strategies are built, so checkpoints are read; text towers are not.

    Args:
        plan: a plan whose strategies and parameters are valid.

    Returns:
        What `attach` would say of learned stages that name no weights: such a plan can be trained.

    Raises:
        TokenpruneError: weights can't be read, or a stage names no text tower.
    """
    untrained: list[CheckpointError] = []
    early: list[ResolvedStage] = []
    for number, stage in enumerate(plan.stages):
        try:
            strategy = build_strategy(stage)
        except CheckpointError as error:
            learned = issubclass(strategy_class(stage.strategy), TrainableStrategy)
            if not learned or stage.params.get("checkpoint") is not None:
                raise
            untrained.append(error)
        else:
            early += [ResolvedStage(number, stage, strategy)] if stage.at == "pre_llm" else []
    site = Site.behind(SHAPE.encoder_blocks)
    named_text_tower([stage for stage in early if _told(stage, site)], site)
    return untrained


def _told(stage: ResolvedStage, site: Site) -> bool:
    """Whether what a stage asks for is known without a model, whose depth may matter to it."""
    try:
        stage.strategy.signals(site)
    except Exception:  # what a strategy declares is a plugin's code
        return False
    return True
