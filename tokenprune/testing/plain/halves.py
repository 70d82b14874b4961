"""Every block of an encoder beside its two halves, as its adapter names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.testing.plain.comparing import Difference
from tokenprune.testing.plain.names import states_of


class HalvesBesideBlocks:
    """A plain pass through an encoder in which every block also runs by its halves.

    Args:
        adapter: the encoder's family.
        used: blocks that are read.
    """

    def __init__(self, adapter: EncoderAdapter, used: int) -> None:
        self.adapter, self.used = adapter, used
        self.difference = Difference()

    def install(self, patches: Patches) -> None:
        """Wrap the forward of every used block."""
        blocks = self.adapter.spec().blocks
        for number in range(self.used):
            patches.override(blocks[number], "forward", self._block(blocks[number]))
        for (module, name), function in self.adapter.overrides().items():
            if any(module is block for block in blocks[: self.used]):
                patches.override(module, name, function)

    def _block(self, block: nn.Module) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            whole = self.adapter.run(original, hidden, args, kwargs)
            query, key, value = self.adapter.heads(block, hidden)
            query, key = self.adapter.rotate(query, key, args, kwargs)
            attended = scaled_dot_product_attention(query, key, value)
            halves = self.adapter.feed_forward(block, self.adapter.join(block, hidden, attended))
            self.difference.add(halves, states_of(whole))
            return whole

        return forward
