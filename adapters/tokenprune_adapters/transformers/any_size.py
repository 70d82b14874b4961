"""What transformers' towers with separate projections for pictures of any size have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.refusals import refuse_dropout, require_exact
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import vit_names as compat
from tokenprune_adapters.transformers.packed import NOMINAL
from tokenprune_adapters.transformers.vit_family_names import VisionNames


class AnySizeAdapter(PackedEncoderAdapter):
    """Base of Pixtral's and Gemma 4's towers; subclasses are data, and what differs.

    Class attributes:
        names: where blocks and their parts stand.
        block_classes, attention_classes: exact classes whose forward is known.
    """

    names: ClassVar[VisionNames]
    block_classes: ClassVar[tuple[str, ...]]
    attention_classes: ClassVar[tuple[str, ...]]

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or without its parts.
        """
        super().__init__(model)
        blocks = compat.blocks(model, self.names)
        for number, block in enumerate(blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, self.block_classes, {})
            for attention in compat.attentions(block, self.names):
                require_exact(attention, f"{where}, attention", self.attention_classes, {})
            self._block = compat.block_names(block, where, self.names)
        check_library("transformers", compat.relied_on(model, self.names))
        self._spec = EncoderSpec(
            entry=model,
            blocks=blocks,
            used=len(blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=compat.width(model) * self.members,
            packed=True,
        )

    @property
    def members(self) -> int:
        """Rows of a unit."""
        return 1

    def spec(self) -> EncoderSpec:
        """The encoder as data."""
        return self._spec

    def attention_maps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Asked for by argument, or by the config where the argument is absent."""
        given = kwargs.get(compat.MAPS)
        config: Any = self.model.config
        if given is None and getattr(config, compat.MAPS, False):
            return f"config.{compat.MAPS}"
        return compat.MAPS if given else None

    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projections, `[1, R, D]` -> three `[1, H, R, d]`.

        Raises:
            UnsupportedCallError: training with dropout on attention weights.
        """
        active = compat.attention_dropout(block, self._block)
        refuse_dropout(active, self.model, "Set the config's attention dropout to 0")
        return compat.heads(block, self._block, hidden)

    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[1, R, D]`, `[1, H, R, d]` -> `[1, R, D]`."""
        return compat.join(block, self._block, hidden, attended)

    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[1, R, D]` -> `[1, R, D]`."""
        return compat.feed_forward(block, self._block, hidden)
