"""A plan inside an engine's own tower that packs pictures of any size into one sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import CallState, calling
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.llm.units import Located, image_batches
from tokenprune.engine.llm.whole_arrivals import arrived_whole, pictures_of
from tokenprune.errors import UnsupportedCallError
from tokenprune.integrations.attached import attaching
from tokenprune.integrations.pruned import PrunedTower
from tokenprune.integrations.static import AnyPlan, Selected
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.places import Places

Levels = Tensor | Sequence[Tensor]
"""Rows of all units `[U, d]`, or several of them: the tower's last ones and those of its depths."""


class PrunedPackedEncoder(PrunedTower):
    """A packed vision tower that carries a plan, until `detach`; made by `packed_encoder`.

    Attributes:
        plan: the plan.
    """

    def __init__(self, attachment: Attachment, adapter: PackedEncoderAdapter) -> None:
        runner = encoder_runner(attachment, adapter, adapter.spec(), Surroundings())
        super().__init__(attachment, runner, by_frame=True)

    def run(self, features: Callable[[], Levels]) -> list[Selected]:
        """What the plan leaves of the pictures and clips that the tower sees in `features`.

        Args:
            features: calls the tower once and gives its rows of all units `[U, d]`, in the order of
                the pictures, at the LLM's width. A tower with rows of further depths (DeepStack)
                gives all of them, its last ones first; stages choose by these, and the others
                follow.

        Returns:
            Of every picture or clip, in order: features `[1, K, d]`, with K = `count(grid)`, and
            `levels` with the same tokens of each further depth.

        Raises:
            UnsupportedCallError: the plan was detached, `features` didn't call the tower or gives
                something else.
            NonFiniteError: the features hold NaN or infinity.
        """
        self._attachment.require_attached()
        with calling(self._attachment) as call:
            made = features()
            rows, *depths = [made] if isinstance(made, Tensor) else made
            return self._left(call, _required(call, (rows, *depths)), rows, depths)

    def _left(
        self, call: CallState, state: PackedState, rows: Tensor, depths: Sequence[Tensor]
    ) -> list[Selected]:
        grids, device = state.packing.grids, rows.device
        shown = [Places(grid) for grid in grids]
        where = Located.of(shown, bare=True, device=device)
        arrivals = arrived_whole(shown, grids, pictures_of(state), device)
        found = self._selected(call, image_batches(arrivals, where, rows, call))
        for number, one in enumerate(found):
            rows = where.find(one.index[0], [number], [one.index.shape[1]])
            found[number] = replace(one, levels=tuple(depth[rows][None] for depth in depths))
        return found


def packed_encoder(
    tower: nn.Module,
    plan: AnyPlan,
    adapter: str | type[EncoderAdapter] | EncoderAdapter | None = None,
) -> PrunedPackedEncoder:
    """Put a plan of static length in force on an engine's own tower that packs its pictures.

    Args:
        tower: the module; its pictures and clips may have any size.
        plan: encoder stages and pre-LLM stages; a plan, a plan file, or a mapping.
        adapter: what knows the tower: an adapter's name, class or instance; by default found by
            the tower's class.

    Raises:
        PlanError: a stage is inside the LLM, or its length depends on the data.
        LayerError: a stage names a block that the tower hasn't.
        SignalError: a strategy needs what a tower alone doesn't have, such as the question.
        UnsupportedModelError: no adapter knows the tower, or it reads every picture by itself.
        AlreadyAttachedError: the tower carries a plan already.
    """
    with attaching(tower, plan, adapter, packed=True) as (attachment, chosen):
        assert isinstance(chosen, PackedEncoderAdapter)
        return PrunedPackedEncoder(attachment, chosen)


def _required(call: CallState, levels: Sequence[Tensor]) -> PackedState:
    """The state of the pass that made some rows.

    Raises:
        UnsupportedCallError: they aren't those of the tower's latest pass.
    """
    state = call.state(PackedState)
    shapes = [tuple(one.shape) for one in levels]
    units = None if state is None else state.packing.units
    if state is None or any(len(shape) != 2 or shape[0] != units for shape in shapes):
        why = "the tower wasn't called" if state is None else f"it saw {units} units"
        raise UnsupportedCallError(
            f"features of shape {shapes} are not what the tower put out: {why}.",
            where="features",
            remedy="Call the tower once, and give its rows of all units.",
        )
    return state
