"""A plan inside an engine's own vision tower that sees every picture in tiles of one size.

Encoder stages act in each tile by itself, stages behind the tower on whole pictures. Squares of
patches may become one token of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import CallState, calling, current_state
from tokenprune.engine.checks import refuse_signals
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.llm.arrivals import arrived
from tokenprune.engine.llm.units import Located, image_batches
from tokenprune.engine.stages import EncoderSchedule
from tokenprune.errors import UnsupportedCallError
from tokenprune.integrations.attached import attaching
from tokenprune.integrations.pruned import PrunedTower
from tokenprune.integrations.static import AnyPlan, Selected, left_of, static_stages
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.places import Places
from tokenprune.interface.signals import ClassFeature, Companions, TowerSpace
from tokenprune.interface.sites import Grid, Site
from tokenprune.plan import load_plan

NARROWER = frozenset({ClassFeature, Companions, TowerSpace})
"""What a tower supplies at its own width, which tokens of the LLM don't have."""

LAST = "last_hidden_state"
"""Where a tower that puts out more than its last states has them."""


class _Tiles(Surroundings):
    """A model that sees pictures in tiles, and reads the states behind `used` blocks."""

    pieces = True

    def __init__(self, used: int, side: int) -> None:
        self.levels, self._side = frozenset({used}), side

    def side(self, call: CallState | None) -> int:
        """The same in every call."""
        return self._side


class PrunedTiledEncoder(PrunedTower):
    """A vision tower that carries a plan, until `detach`; made by `tiled_encoder`.

    Attributes:
        plan: the plan.
    """

    def __init__(self, attachment: Attachment, adapter: EncoderAdapter, side: int) -> None:
        spec = adapter.spec()
        site = Site.behind(spec.used)
        for stage in attachment.stages_at("pre_llm"):
            refuse_signals(stage, [site], spec.supplies - NARROWER, adapter)
        runner = encoder_runner(attachment, adapter, spec, _Tiles(spec.used, side))
        _, height, width = spec.grid
        self._tile: Grid = (1, height // side, width // side)
        attachment.patches.override(spec.entry, "forward", self._hand_on)
        super().__init__(attachment, runner)

    def _hand_on(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the tower puts out, with zeros for rows that were removed."""
        output = original(*args, **kwargs)
        state = current_state(self._attachment, EncoderState)
        if state is None:
            return output
        last = state.exits[self._runner.spec.used]
        if isinstance(output, Tensor):
            return last.whole(output, state.prefix, state.complete)
        setattr(output, LAST, last.whole(getattr(output, LAST), state.prefix, state.complete))
        return output

    def run(self, features: Callable[[], Tensor], tiles: Sequence[int]) -> list[Selected]:
        """What the plan leaves of the pictures whose tiles the tower sees in `features`.

        Args:
            features: calls the tower once, on the tiles of one picture behind those of the other,
                and gives the tokens of all of them at the LLM's width, `[T, U, d]`. What the
                tower puts out has rows for all patches, so the engine's own code goes on working.
            tiles: of each picture.

        Returns:
            Of every picture, in order: features `[1, K, d]`, with K = `count_tiled`.

        Raises:
            UnsupportedCallError: the plan was detached, `features` didn't call the tower or gives
                something else, or the pictures have other tiles.
            NonFiniteError: the features hold NaN or infinity.
        """
        self._attachment.require_attached()
        with calling(self._attachment) as call:
            made = features()
            state = call.state(EncoderState)
            units = prod(self._tile)
            if state is None or made.shape[:2] != (len(state.images), units):
                raise UnsupportedCallError(
                    f"features of shape {tuple(made.shape)} are not what the tower put out.",
                    where="features",
                    remedy=f"Call the tower once and give [tiles, {units}, d].",
                )
            shown = [Places.of_tiles([Places(self._tile)] * count, -1) for count in tiles]
            where = Located.of(shown, bare=True, device=made.device)
            arrivals = arrived(shown, state, call.trace, made.device)
            batches = image_batches(arrivals, where, made.flatten(0, 1), call)
            return self._selected(call, batches)


def tiled_encoder(
    tower: nn.Module,
    plan: AnyPlan,
    adapter: str | type[EncoderAdapter] | EncoderAdapter | None = None,
    *,
    side: int = 1,
) -> PrunedTiledEncoder:
    """Put a plan of static length in force on an engine's own tower that sees tiles of pictures.

    Args:
        tower: the module, which puts out its last states, by themselves or as `last_hidden_state`;
            its tiles have its own size.
        plan: encoder stages and pre-LLM stages; a plan, a plan file, or a mapping.
        adapter: what knows the tower: an adapter's name, class or instance; by default found by
            the tower's class.
        side: rows and columns of patches that become one token of the LLM.

    Raises:
        PlanError: a stage is inside the LLM, or its length depends on the data.
        BudgetError: a budget can't be reached on a picture of one tile.
        LayerError: a stage names a block that the tower hasn't.
        SignalError: a strategy needs what the tower doesn't have at the LLM's width.
        UnsupportedModelError: no adapter knows the tower, or it packs images into one row.
        AlreadyAttachedError: the tower carries a plan already.
    """
    with attaching(tower, plan, adapter) as (attachment, chosen):
        return PrunedTiledEncoder(attachment, chosen, side)


def count_tiled(tile: Grid, plan: AnyPlan, *, used: int, tiles: int) -> int:
    """Tokens that a `tiled_encoder` with the plan will leave of a picture.

    Args:
        tile: tokens (t, h, w) of the LLM that a tile makes without the plan.
        plan: a plan, a plan file, or a mapping.
        used: how many blocks of the vision tower feed the features.
        tiles: of the picture, its overview among them.

    Raises:
        PlanError: a stage is inside the LLM, or its length depends on the data.
        BudgetError: a budget can't be reached.
        LayerError: a stage names a block that isn't used.
    """
    stages = static_stages(load_plan(plan), inside=True)
    inside = [one for one in stages if one.plan.at == "encoder"]
    later = [one for one in stages if one.plan.at == "pre_llm"]
    each = left_of(EncoderSchedule(inside, used, tile), (), tile)
    whole = tile if tiles == 1 and each == prod(tile) else (1, 1, each * tiles)
    return left_of(EncoderSchedule([], used, whole), later, whole, tiles)
