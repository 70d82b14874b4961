"""What transformers' vision encoders have in common: pre-norm blocks with separate projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import class_names
from tokenprune.interface.calls import Arguments
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.pooling import PoolWeights, scaled_for_mean
from tokenprune_adapters.transformers import vit_names
from tokenprune_adapters.transformers.halves import HalvedBlocks


class HfVitAdapter(HalvedBlocks):
    """Base of the transformers families; subclasses are data, and what differs.

    Class attributes:
        class_token: whether a class token stands in front of the patches.
        averaging: full names of claimed classes that average the patches after the encoder.
        paired: whether a text tower can share a space with the tokens.
    """

    class_token: ClassVar[bool]
    averaging: ClassVar[tuple[str, ...]] = ()
    paired: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        """Find the vision part and check its blocks.

        Raises:
            UnsupportedModelError: a block or attention of another class, or without its parts.
        """
        super().__init__(model)
        self._weights = PoolWeights()
        self._averages = any(name in self.averaging for name in class_names(self.model))
        self._spec = EncoderSpec(
            entry=self.vision,
            blocks=self.blocks,
            used=len(self.blocks),
            prefix=int(self.class_token) + vit_names.registers(self.vision),
            class_token=self.class_token,
            grid=(1, *vit_names.default_grid(self.vision)),
            width=vit_names.width(self.vision),
            paired=self.paired,
        )

    def _vision(self) -> nn.Module:
        found: nn.Module = vit_names.vision_module(self.model, self.names)
        return found

    def spec(self) -> EncoderSpec:
        """The encoder as data; entry is the innermost vision module, which all wrappers call."""
        return self._spec

    def call_grid(self, args: tuple[Any, ...], kwargs: Arguments) -> Grid:
        """The grid of the given pictures (they may be larger than the default).

        Raises:
            UnsupportedCallError: the call carries an attention mask.
        """
        if vit_names.argument(self.argument_names, "attention_mask", args, kwargs) is not None:
            raise UnsupportedCallError(
                "an attention mask over the patches was passed, which a pruned encoder can't"
                " follow.",
                where=type(self.vision).__name__,
                remedy="Call the model without attention_mask for its pictures.",
            )
        pixels = vit_names.argument(self.argument_names, "pixel_values", args, kwargs)
        if pixels is None:
            return self._spec.grid
        height, width = vit_names.patch_size(self.vision)
        return (1, pixels.shape[-2] // height, pixels.shape[-1] // width)

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """For classifiers that average patches: the sizes' scope, and the scaling before it."""
        if not self._averages:
            return {}
        return {
            (self.model, "forward"): self._weights.scoped,
            (self.vision, "forward"): self._scaled,
        }

    def weighted_pool(self, weight: Tensor) -> None:
        """Keep the sizes `[B, T]` until the classifier's mean is taken."""
        if self._averages:
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

    def _mean_length(self, args: tuple[Any, ...], kwargs: Arguments) -> int | None:
        return None
