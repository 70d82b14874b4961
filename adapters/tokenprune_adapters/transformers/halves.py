"""The two halves of transformers' vision blocks with separate projections, read by data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.compiler import is_compiling

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments, Given
from tokenprune_adapters.shared.refusals import refuse_dropout, refuse_unrun, require_exact
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import collecting_names as collecting
from tokenprune_adapters.transformers import vit_names
from tokenprune_adapters.transformers.attention_functions import functions, refuse_registered
from tokenprune_adapters.transformers.vit_family_names import CLIP, VisionNames


class HalvedBlocks(EncoderAdapter):
    """Base of encoders whose blocks differ in the names of their parts only.

    Class attributes:
        names: where encoder, blocks and their parts stand.
        block_classes, attention_classes: exact classes whose forward is known.
    """

    names: ClassVar[VisionNames] = CLIP
    block_classes: ClassVar[tuple[str, ...]]
    attention_classes: ClassVar[tuple[str, ...]]

    def __init__(self, model: nn.Module) -> None:
        """Find the module that runs the blocks, and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class, or without its parts.
        """
        super().__init__(model)
        self.vision: nn.Module = self._vision()
        self.argument_names = vit_names.argument_names(self.vision)
        self.blocks = vit_names.blocks(self.vision, self.names)
        self._attentions: dict[nn.Module, list[nn.Module]] = {}
        for number, block in enumerate(self.blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, self.block_classes, {})
            self._attentions[block] = vit_names.attentions(block, self.names)
            for attention in self._attentions[block]:
                require_exact(attention, f"{where}, attention", self.attention_classes, {})
            self._block = vit_names.block_names(block, where, self.names)
        self._first = self._attentions[self.blocks[0]] if len(self.blocks) else []
        self._functions = functions(self._first[0]) if self._first else {}
        check_library("transformers", vit_names.relied_on(self.vision, self.names))

    def _vision(self) -> nn.Module:
        """The module that runs the blocks."""
        return self.model

    def attention_maps(self, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """Asked for by argument, or by the config where the argument is absent.

        Raises:
            UnsupportedCallError: the first attention's function is a user's. Compiled graphs ask
                no further one: guards on the config that blocks share would be looked at for each.
        """
        for attention in self._first:  # also where a compiler runs this call as it is
            refuse_registered(attention, self.vision, self._functions)
        given = vit_names.argument(self.argument_names, vit_names.MAPS, args, kwargs)
        configs = (getattr(self.vision, "config", None), getattr(self.model, "config", None))
        if given is None and any(getattr(one, vit_names.MAPS, False) for one in configs):
            return f"config.{vit_names.MAPS}"
        return vit_names.MAPS if given else None

    def own_hook(self, hook: Callable[..., Any]) -> bool:
        """Whether a hook collects states for the outputs of a call."""
        return collecting.is_hook(hook)

    def listened(self) -> bool:
        """Whether a call around that of the tower collects states."""
        return collecting.running()

    def unmasked(self, kwargs: Arguments) -> Given:
        """A block's arguments without a mask that hides nothing and is as long as all patches."""
        (mask,) = self.names.called[1:]
        return (None,), {name: value for name, value in kwargs.items() if name != mask}

    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projections, `[B, T, D]` -> three `[B, H, T, d]`.

        Raises:
            UnsupportedCallError: training with dropout on attention weights, or something hangs on
                the attention, which isn't called, or its function is a user's.
        """
        if not is_compiling():
            for attention in self._attentions.get(block, ()):
                refuse_unrun(attention, block)
                refuse_registered(attention, block, self._functions)
        if block.training:
            active = vit_names.attention_dropout(block, self._block)
            refuse_dropout(active, self.vision, "Set the config's attention dropout to 0")
        return vit_names.heads(block, self._block, hidden)

    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, scale and residual: `[B, T, D]`, `[B, H, T, d]` -> `[B, T, D]`."""
        return vit_names.join(block, self._block, hidden, attended)

    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Second norm, MLP, scale and residual: `[B, T, D]` -> `[B, T, D]`."""
        return vit_names.feed_forward(block, self._block, hidden)
