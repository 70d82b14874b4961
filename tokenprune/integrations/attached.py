"""A plan of static length and a tower, before anything on the tower changes."""

from __future__ import annotations

from torch import nn

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.stages import built
from tokenprune.errors import PlanError, UnsupportedModelError
from tokenprune.integrations.static import AnyPlan, check_static
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.plan import load_plan


def attached(
    tower: nn.Module, plan: AnyPlan, adapter: str | type[EncoderAdapter] | EncoderAdapter | None
) -> tuple[Attachment, EncoderAdapter]:
    """An attachment that holds nothing yet, and the adapter that knows the tower.

    Args:
        tower: the module.
        plan: a plan, a plan file, or a mapping.
        adapter: an adapter's name, class or instance; by default found by the tower's class.

    Raises:
        PlanError: a stage is inside the LLM, its length depends on the data, or frames are to be
            put together.
        UnsupportedModelError: no adapter knows the tower, or it is no tower.
    """
    plan = load_plan(plan)
    stages = built(plan)
    check_static(stages)
    if plan.images == "frames":
        raise PlanError(
            "no prompt says which images are the frames of one video.",
            where="images",
            remedy="Use images: separate.",
        )
    chosen = choose_adapter(tower, adapter)
    if not isinstance(chosen, EncoderAdapter):
        raise UnsupportedModelError(
            "this is a multimodal LLM, not its vision tower.",
            where=type(tower).__name__,
            remedy="Pass the tower, or use tokenprune.attach.",
        )
    return Attachment(tower, plan, stages), chosen


def attached_unpacked(
    tower: nn.Module, plan: AnyPlan, adapter: str | type[EncoderAdapter] | EncoderAdapter | None
) -> tuple[Attachment, EncoderAdapter]:
    """The same for a tower that reads every image by itself.

    Raises:
        PlanError: as of `attached`.
        UnsupportedModelError: as of `attached`, or the tower packs images into one row.
    """
    attachment, chosen = attached(tower, plan, adapter)
    if isinstance(chosen, PackedEncoderAdapter):
        raise UnsupportedModelError(
            "this tower packs its images into one row.",
            where=type(tower).__name__,
            remedy="Use tokenprune.integrations.packed_encoder.",
        )
    return attachment, chosen
