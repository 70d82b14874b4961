"""A plan of static length and a tower, before anything on the tower changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.stages import built
from tokenprune.errors import PlanError, UnsupportedModelError
from tokenprune.integrations.static import AnyPlan, check_static
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.plan import load_plan


@contextmanager
def attaching(
    tower: nn.Module,
    plan: AnyPlan,
    adapter: str | type[EncoderAdapter] | EncoderAdapter | None,
    *,
    packed: bool = False,
) -> Iterator[tuple[Attachment, EncoderAdapter]]:
    """An attachment that holds nothing yet, and the adapter that knows the tower.

    What the block has put on the tower is taken back if it raises.

    Args:
        tower: the module.
        plan: a plan, a plan file, or a mapping.
        adapter: an adapter's name, class or instance; by default found by the tower's class.
        packed: whether the tower has to pack images into one row; else it may not.

    Raises:
        PlanError: a stage is inside the LLM, its length depends on the data, or frames are to be
            put together.
        UnsupportedModelError: no adapter knows the tower, it is no tower, or one of the other kind.
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
    if isinstance(chosen, PackedEncoderAdapter) != packed:
        does = "reads every picture by itself" if packed else "packs its images into one row"
        other = "encoder" if packed else "packed_encoder"
        raise UnsupportedModelError(
            f"this tower {does}.",
            where=type(tower).__name__,
            remedy=f"Use tokenprune.integrations.{other}.",
        )
    attachment = Attachment(tower, plan, stages)
    try:
        yield attachment, chosen
    except BaseException:
        attachment.detach()
        raise
