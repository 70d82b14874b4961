"""What transformers' vision encoders have in common: pre-norm blocks with separate projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import EncoderAdapter, class_names
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.pooling import PoolWeights, scaled_for_mean
from tokenprune_adapters.shared.refusals import refuse_dropout, require_exact
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import vit_names as compat
from tokenprune_adapters.transformers.vit_family_names import CLIP, VisionNames


class HfVitAdapter(EncoderAdapter):
    """Base of the transformers families; subclasses are data, and what differs.

    Class attributes:
        names: where encoder, blocks and their parts stand.
        block_classes, attention_classes: exact classes whose forward is known.
        class_token: whether a class token stands in front of the patches.
        averaging: full names of claimed classes that average the patches after the encoder.
        paired: whether a text tower can share a space with the tokens.
    """

    names: ClassVar[VisionNames] = CLIP
    block_classes: ClassVar[tuple[str, ...]]
    attention_classes: ClassVar[tuple[str, ...]]
    class_token: ClassVar[bool]
    averaging: ClassVar[tuple[str, ...]] = ()
    paired: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        """Find the vision part and check its blocks.

        Raises:
            UnsupportedModelError: a block or attention of another class, or without its parts.
        """
        super().__init__(model)
        self.vision: nn.Module = compat.vision_module(model, self.names)
        blocks = compat.blocks(self.vision, self.names)
        for number, block in enumerate(blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, self.block_classes, {})
            for attention in compat.attentions(block, self.names):
                require_exact(attention, f"{where}, attention", self.attention_classes, {})
            self._block = compat.block_names(block, where, self.names)
        check_library("transformers", compat.relied_on(self.vision, self.names))
        self._weights = PoolWeights()
        self._spec = EncoderSpec(
            entry=self.vision,
            blocks=blocks,
            used=len(blocks),
            prefix=int(self.class_token) + compat.registers(self.vision),
            class_token=self.class_token,
            grid=(1, *compat.default_grid(self.vision)),
            width=compat.width(self.vision),
            paired=self.paired,
        )

    def spec(self) -> EncoderSpec:
        """The encoder as data; entry is the innermost vision module, which all wrappers call."""
        return self._spec

    def call_grid(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        """The grid of the given pictures (they may be larger than the default).

        Raises:
            UnsupportedCallError: the call carries an attention mask.
        """
        if compat.argument(self.vision, "attention_mask", args, kwargs) is not None:
            raise UnsupportedCallError(
                "an attention mask over the patches was passed, which a pruned encoder can't"
                " follow.",
                where=type(self.vision).__name__,
                remedy="Call the model without attention_mask for its pictures.",
            )
        pixels = compat.argument(self.vision, "pixel_values", args, kwargs)
        if pixels is None:
            return self._spec.grid
        height, width = compat.patch_size(self.vision)
        return (1, pixels.shape[-2] // height, pixels.shape[-1] // width)

    def attention_maps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Asked for by argument, or by the config where the argument is absent."""
        given = compat.argument(self.vision, compat.MAPS, args, kwargs)
        configs = (getattr(self.vision, "config", None), getattr(self.model, "config", None))
        if given is None and any(getattr(one, compat.MAPS, False) for one in configs):
            return f"config.{compat.MAPS}"
        return compat.MAPS if given else None

    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projections, `[B, T, D]` -> three `[B, H, T, d]`.

        Raises:
            UnsupportedCallError: training with dropout on attention weights.
        """
        active = compat.attention_dropout(block, self._block)
        refuse_dropout(active, self.vision, "Set the config's attention dropout to 0")
        return compat.heads(block, self._block, hidden)

    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, scale and residual: `[B, T, D]`, `[B, H, T, d]` -> `[B, T, D]`."""
        return compat.join(block, self._block, hidden, attended)

    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Second norm, MLP, scale and residual: `[B, T, D]` -> `[B, T, D]`."""
        return compat.feed_forward(block, self._block, hidden)

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """For classifiers that average patches: the sizes' scope, and the scaling before it."""
        if not any(name in self.averaging for name in class_names(self.model)):
            return {}
        return {
            (self.model, "forward"): self._weights.scoped,
            (self.vision, "forward"): self._scaled,
        }

    def weighted_pool(self, weight: Tensor) -> None:
        """Keep the sizes `[B, T]` until the classifier's mean is taken."""
        self._weights.set(weight)

    def _scaled(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        weight = self._weights.get()
        if weight is not None:
            length = self._mean_length(args, kwargs)
            output.last_hidden_state = scaled_for_mean(
                output.last_hidden_state, weight, self._spec.prefix, length
            )
        return output

    def _mean_length(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
        return None
