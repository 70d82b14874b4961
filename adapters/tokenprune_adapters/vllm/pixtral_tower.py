"""vLLM's own tower of Pixtral, which Mistral 3 has: the two halves of its blocks, and its units."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.packed import PackedEncoderAdapter, Packing
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.refusals import require_exact
from tokenprune_adapters.shared.rotary import rotated
from tokenprune_adapters.vllm.packed_towers import NOMINAL

_MODULE = "vllm.model_executor.models.pixtral"

PIXELS = "pixel_values"
"""What the tower is called with: pictures `[3, h, w]` of any size."""


class VllmPixtralAdapter(PackedEncoderAdapter):
    """Patches in raster order, picture behind picture; squares of them become units behind.

    Args:
        model: the tower.
        side: rows and columns of patches that become a unit.
    """

    name: ClassVar[str] = "vllm_pixtral"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODULE}.PixtralHFVisionModel",)
    raster: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False

    def __init__(self, model: nn.Module, side: int = 1) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class.
        """
        super().__init__(model)
        vision: Any = model
        blocks = list(vision.transformer.layers)
        for number, block in enumerate(blocks):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, (f"{_MODULE}.PixtralHFTransformerBlock",), {})
            attention = (f"{_MODULE}.PixtralHFAttention",)
            require_exact(block.attention, f"{where}, attention", attention, {})
        self._side = side
        self._spec = EncoderSpec(
            entry=model,
            blocks=blocks,
            used=len(blocks),
            prefix=0,
            class_token=False,
            grid=NOMINAL,
            width=vision.config.hidden_size * side**2,
            packed=True,
        )

    def spec(self) -> EncoderSpec:
        """The tower as data, all of whose blocks are read."""
        return self._spec

    def packing(self, args: tuple[Any, ...], kwargs: Arguments) -> Packing:
        """Sizes from the pictures."""
        vision: Any = self.model
        shown = named(type(vision).forward, args, kwargs)[PIXELS]
        side = vision.config.patch_size
        grids = [(1, one.shape[-2] // side, one.shape[-1] // side) for one in shown]
        return Packing(grids, 1).grouped(self._side)

    def loops(self, block: nn.Module) -> bool:
        """Always: once units are gone, no block is called as a whole."""
        return True

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projection, `[1, R, D]` -> three `[1, H, R, d]`."""
        joined, _ = block.attention.qkv_proj(block.attention_norm(hidden))
        query, key, value = (
            part.unflatten(-1, (block.attention.n_heads, -1)).transpose(1, 2)
            for part in joined.chunk(3, dim=-1)
        )
        return query, key, value

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate query and key `[1, H, R, d]`."""
        cos, sin, *_ = args
        return rotated(query, cos, sin), rotated(key, cos, sin)

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Cosines and sines of the rows `[R']`, in any order; the halves read no more."""
        cos, sin, *rest = args
        rows = index.to(cos.device)
        return (cos[rows], sin[rows], *rest), kwargs

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[1, R, D]`, `[1, H, R, d]` -> `[1, R, D]`."""
        made, _ = block.attention.o_proj(attended.transpose(1, 2).flatten(2))
        joined: Tensor = hidden + made
        return joined

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[1, R, D]` -> `[1, R, D]`."""
        made: Tensor = hidden + block.feed_forward(block.ffn_norm(hidden))
        return made
