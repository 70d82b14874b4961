"""The vision towers of Idefics3 and SmolVLM in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.signals import BLOCK_VIEWS, View
from tokenprune.interface.specs import Demand
from tokenprune_adapters.transformers import vit_names
from tokenprune_adapters.transformers.vit import HfVitAdapter
from tokenprune_adapters.transformers.vit_family_names import IDEFICS3, VisionNames

_ONE = "transformers.models.idefics3.modeling_idefics3"
_TWO = "transformers.models.smolvlm.modeling_smolvlm"


class Idefics3VisionAdapter(HfVitAdapter):
    """Idefics3VisionTransformer and SmolVLMVisionTransformer, on pictures without padding."""

    name: ClassVar[str] = "idefics3-vision"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.Idefics3VisionTransformer",
        f"{_TWO}.SmolVLMVisionTransformer",
    )
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    names: ClassVar[VisionNames] = IDEFICS3
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.Idefics3EncoderLayer",
        f"{_TWO}.SmolVLMEncoderLayer",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_ONE}.Idefics3VisionAttention",
        f"{_TWO}.SmolVLMVisionAttention",
    )
    class_token: ClassVar[bool] = False

    def demands(self, args: tuple[Any, ...], kwargs: Arguments) -> Sequence[Demand]:
        """The mask over patches hides none of them."""
        name = self.names.takes[1]
        mask = vit_names.argument(self.argument_names, name, args, kwargs)
        if mask is None:
            return ()
        problem = f"'{name}' hides patches: the pictures of this call are padded."
        remedy = "Give pictures of one size in a call, which need no padding."
        return (Demand((mask != 0).all(), problem, remedy),)

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Without the mask: it hides nothing, and is as long as all patches."""
        return self.unmasked(kwargs)
