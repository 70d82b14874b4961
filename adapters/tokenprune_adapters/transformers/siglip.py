"""SigLIP's and SigLIP 2's vision encoders in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.signals import BLOCK_VIEWS, View
from tokenprune.interface.sites import Grid
from tokenprune_adapters.shared.refusals import is_full
from tokenprune_adapters.transformers import vit_names as compat
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import PATCHES

_ONE = "transformers.models.siglip.modeling_siglip"
_TWO = "transformers.models.siglip2.modeling_siglip2"


class SiglipAdapter(HfVitAdapter):
    """SiglipVisionModel, SiglipModel's vision half, the classifier, and the same of SigLIP 2.

    The attention-pooling head reads the tokens that are left, as it is. SigLIP 2 takes patches
    with a mask; it is served where all pictures of a call have the same shape and no padding.
    Fixed-resolution checkpoints of SigLIP 2 load as SigLIP and need no care.
    """

    name: ClassVar[str] = "siglip"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.SiglipVisionModel",
        f"{_ONE}.SiglipVisionTransformer",
        f"{_ONE}.SiglipModel",
        f"{_ONE}.SiglipForImageClassification",
        f"{_TWO}.Siglip2VisionModel",
        f"{_TWO}.Siglip2VisionTransformer",
        f"{_TWO}.Siglip2Model",
        f"{_TWO}.Siglip2ForImageClassification",
    )
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.SiglipEncoderLayer",
        f"{_TWO}.Siglip2EncoderLayer",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.SiglipAttention",
        f"{_TWO}.Siglip2Attention",
    )
    class_token: ClassVar[bool] = False
    averaging: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.SiglipForImageClassification",
        f"{_TWO}.Siglip2ForImageClassification",
    )

    @property
    def takes_patches(self) -> bool:
        """Whether this is SigLIP 2, which is given patches instead of pictures."""
        return compat.takes_patches(self.vision)

    def call_grid(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        """The grid of the given pictures.

        Raises:
            UnsupportedCallError: SigLIP 2 pictures of different shapes, or with padding.
        """
        if not self.takes_patches:
            return super().call_grid(args, kwargs)
        patches, mask, shapes = (
            compat.argument(self.vision, name, args, kwargs) for name in PATCHES
        )
        found = {tuple(shape) for shape in shapes.tolist()}
        height, width = next(iter(found))
        even = len(found) == 1 and height * width == patches.shape[1]
        if not even or not is_full(mask):
            raise UnsupportedCallError(
                "the pictures of this call have different shapes or padding.",
                where=type(self.vision).__name__,
                remedy="Give pictures of one shape, and max_num_patches equal to its patches.",
            )
        return (1, height, width)

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """SigLIP 2: also drop a mask that masks nothing, since it has the unpruned length."""
        overrides = dict(super().overrides())
        if self.takes_patches:
            overrides.setdefault((self.vision, "forward"), self._scaled)
        return overrides

    def _scaled(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.takes_patches and is_full(compat.argument(self.vision, compat.MASK, args, kwargs)):
            args, kwargs = compat.without_mask(args, kwargs)
        return super()._scaled(original, *args, **kwargs)

    def _mean_length(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
        if not self.takes_patches:
            return None
        # the classifier divides by the unpruned mask's sum
        return int(compat.argument(self.vision, "pixel_values", args, kwargs).shape[1])
