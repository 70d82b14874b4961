"""SigLIP's and SigLIP 2's vision encoders in transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.signals import BLOCK_VIEWS, View
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import Demand
from tokenprune_adapters.transformers import vit_names
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
        return vit_names.takes_patches(self.vision)

    def call_grid(self, args: tuple[Any, ...], kwargs: Arguments) -> Grid:
        """The grid of the given pictures; `demands` holds them to one shape."""
        if not self.takes_patches:
            return super().call_grid(args, kwargs)
        shapes = vit_names.argument(self.argument_names, PATCHES[2], args, kwargs)
        height, width = shapes[0].tolist()
        return (1, height, width)

    def demands(self, args: tuple[Any, ...], kwargs: Arguments) -> Sequence[Demand]:
        """SigLIP 2: pictures of one shape, without padding."""
        if not self.takes_patches:
            return ()
        patches, mask, shapes = (
            vit_names.argument(self.argument_names, name, args, kwargs) for name in PATCHES
        )
        even = (shapes == shapes[:1]).all() & (shapes[0].prod() == patches.shape[1])
        if mask is not None:
            even = even & (mask != 0).all().to(even.device)
        problem = "the pictures of this call have different shapes or padding."
        remedy = "Give pictures of one shape, and max_num_patches equal to its patches."
        return (Demand(even, problem, remedy),)

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Without the mask of SigLIP 2: it hides nothing, and is as long as all patches."""
        if not self.takes_patches:
            return args, kwargs
        return self.unmasked(kwargs)

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """SigLIP 2: the pooling head is given no mask either."""
        overrides = dict(super().overrides())
        vision: Any = self.vision
        if self.takes_patches and getattr(vision, "head", None) is not None:
            overrides[(vision.head, "forward")] = _unmasked
        return overrides

    def _mean_length(self, args: tuple[Any, ...], kwargs: Arguments) -> int | None:
        if not self.takes_patches:
            return None
        # the classifier divides by the unpruned mask's sum
        return int(vit_names.argument(self.argument_names, "pixel_values", args, kwargs).shape[1])


def _unmasked(original: Callable[..., Any], hidden_state: Tensor, *_: Any, **__: Any) -> Any:
    return original(hidden_state)
