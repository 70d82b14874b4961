"""A plan inside an engine's own vision tower: how many tokens it leaves, and which.

An engine reserves places in the prompt before it has run anything, so all stages are of static
length. Encoder stages run inside the tower's own blocks, stages behind it on its features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import calling
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.pre_llm.projector import project, split_at_projector
from tokenprune.engine.pre_llm.stages import ImageBatch, count_left, image_batch, run_stages
from tokenprune.errors import LayerError, PlanError
from tokenprune.integrations.attached import attaching
from tokenprune.integrations.pruned import PrunedTower
from tokenprune.integrations.static import AnyPlan, Selected
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.sites import Grid

#: The modules of a tower to the tokens that the LLM gets.
Projector = Callable[[Tensor], Tensor]


class PrunedEncoder(PrunedTower):
    """A vision tower that carries a plan, until `detach`; made by `encoder`.

    Attributes:
        plan: the plan.
    """

    def __init__(self, attachment: Attachment, adapter: EncoderAdapter, used: int | None) -> None:
        spec = adapter.spec()
        self._grid = spec.grid
        if used is not None and not 1 <= used <= len(spec.blocks):
            raise LayerError(
                f"{used} of {len(spec.blocks)} blocks can't feed the features.",
                where="used",
                remedy=f"Give 1 to {len(spec.blocks)}.",
            )
        super().__init__(
            attachment, encoder_runner(attachment, adapter, spec, Surroundings(), used)
        )
        self._before, self._after = split_at_projector(self._later)

    def count(self, grid: Grid | None = None) -> int:
        """Tokens that `run` leaves of an image.

        Args:
            grid: its patch grid (t, h, w); by default the tower's own.

        Raises:
            DataError: the grid is none.
            BudgetError: a budget can't be reached on it.
        """
        return super().count(self._grid if grid is None else grid)

    def run(
        self,
        features: Callable[[], Tensor],
        *,
        prefix: int | None = None,
        projector: Projector | None = None,
    ) -> Selected:
        """What the plan leaves of the images that the tower sees in `features`.

        Args:
            features: calls the tower once and gives the features `[B, P + N, D]` of its last used
                block (the feature layer), with the P class tokens in front.
            prefix: P, if `features` took class tokens off; by default as many as the tower has.
            projector: `[B, n, D] -> [B, n, d]`, run on what is left; needed by stages that act on
                projected tokens.

        Returns:
            Features `[B, K, d]` without class tokens, with K = `count(grid)`.

        Raises:
            PlanError: a stage acts on projected tokens, and there is no projector.
            UnsupportedCallError: the plan was detached, `features` didn't call the tower or gives
                something else.
            NonFiniteError: the features hold NaN or infinity.
        """
        self._attachment.require_attached()
        self._require(projector)
        with calling(self._attachment) as call:
            made = features()
            cut = self._runner.spec.prefix if prefix is None else prefix
            batches = [image_batch(call, made, cut)]
            batches = run_stages(call, self._before, batches, self._site)
            if projector is not None:
                batches = project(batches, projector)
            batches = run_stages(call, self._after, batches, self._site)
            count_left(call, batches)
            return _selected(batches)

    def _require(self, projector: Projector | None) -> None:
        for stage in self._after if projector is None else ():
            raise PlanError(
                f"'{stage.plan.strategy}' acts on projected tokens.",
                where=stage.where,
                remedy="Pass the projector to run(), which then returns projected tokens.",
            )


def encoder(
    tower: nn.Module,
    plan: AnyPlan,
    adapter: str | type[EncoderAdapter] | EncoderAdapter | None = None,
    *,
    used: int | None = None,
) -> PrunedEncoder:
    """Put a plan of static length in force on a vision tower of an engine's own.

    Args:
        tower: the module; its images have one size each call.
        plan: encoder stages and pre-LLM stages; a plan, a plan file, or a mapping.
        adapter: what knows the tower: an adapter's name, class or instance; by default found by
            the tower's class.
        used: how many blocks feed the features, where the last ones aren't read.

    Raises:
        PlanError: a stage is inside the LLM, or its length depends on the data.
        BudgetError: a budget can't be reached on the tower's own grid.
        LayerError: the tower has no `used` blocks, or a stage names a block that isn't used.
        SignalError: a strategy needs what a tower alone doesn't have, such as the question.
        UnsupportedModelError: no adapter knows the tower, or it packs images into one row.
        AlreadyAttachedError: the tower carries a plan already.
    """
    with attaching(tower, plan, adapter) as (attachment, chosen):
        pruned = PrunedEncoder(attachment, chosen, used)
        pruned.count()  # budgets that the tower's own grid can't serve
        return pruned


def _selected(batches: list[ImageBatch]) -> Selected:
    """The one batch that static stages leave, without class tokens."""
    (batch,) = batches
    return Selected(batch.hidden[:, batch.state.prefix :], batch.state.index, batch.state.size)
