"""vLLM's own CLIP and SigLIP towers: the two halves of their blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS, View
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.refusals import require_exact

_MODELS = "vllm.model_executor.models"


class VllmVitAdapter(EncoderAdapter):
    """Base of vLLM's towers with one projection for queries, keys and values.

    Its linear layers return an output and a bias.

    Class attributes:
        block_classes, attention_classes: exact classes whose forward is known.
        class_token: whether a class token stands in front of the patches.
    """

    block_classes: ClassVar[tuple[str, ...]]
    attention_classes: ClassVar[tuple[str, ...]]
    class_token: ClassVar[bool]

    def __init__(self, model: nn.Module) -> None:
        """Find the blocks and check them.

        Raises:
            UnsupportedModelError: a block or attention of another class.
        """
        super().__init__(model)
        vision: Any = model
        for number, block in enumerate(vision.encoder.layers):
            where = f"{type(model).__name__}, block {number}"
            require_exact(block, where, self.block_classes, {})
            require_exact(block.self_attn, f"{where}, attention", self.attention_classes, {})
        side = vision.config.image_size // vision.config.patch_size
        self._spec = EncoderSpec(
            entry=model,
            blocks=list(vision.encoder.layers),
            used=len(vision.encoder.layers),
            prefix=int(self.class_token),
            class_token=self.class_token,
            grid=(1, side, side),
            width=vision.config.hidden_size,
        )

    def spec(self) -> EncoderSpec:
        """The tower as data; vLLM builds as many blocks as the feature layer needs."""
        return self._spec

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First norm and projection, `[B, T, D]` -> three `[B, H, T, d]`."""
        joined, _ = block.self_attn.qkv_proj(block.layer_norm1(hidden))
        heads = block.self_attn.num_heads_per_partition
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, dim=-1)
        )
        return query, key, value

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection and residual: `[B, T, D]`, `[B, H, T, d]` -> `[B, T, D]`."""
        made, _ = block.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
        joined: Tensor = hidden + made
        return joined

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        """Second norm, MLP and residual: `[B, T, D]` -> `[B, T, D]`."""
        made: Tensor = hidden + block.mlp(block.layer_norm2(hidden))
        return made


class VllmClipAdapter(VllmVitAdapter):
    """CLIP's vision transformer in vLLM."""

    name: ClassVar[str] = "vllm_clip"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODELS}.clip.CLIPVisionTransformer",)
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODELS}.clip.CLIPEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODELS}.clip.CLIPAttention",)
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS | CLASS_VIEWS
    class_token: ClassVar[bool] = True


class VllmSiglipAdapter(VllmVitAdapter):
    """SigLIP's vision transformer in vLLM, behind `returning_tensors`."""

    name: ClassVar[str] = "vllm_siglip"
    claims: ClassVar[tuple[str, ...]] = (f"{_MODELS}.siglip.SiglipVisionTransformer",)
    block_classes: ClassVar[tuple[str, ...]] = (f"{_MODELS}.siglip.SiglipEncoderLayer",)
    attention_classes: ClassVar[tuple[str, ...]] = (f"{_MODELS}.siglip.SiglipAttention",)
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    class_token: ClassVar[bool] = False


class VllmIdeficsAdapter(VllmVitAdapter):
    """The vision transformer of Idefics3 and SmolVLM in vLLM, on pictures without padding."""

    name: ClassVar[str] = "vllm_idefics"
    claims: ClassVar[tuple[str, ...]] = (
        f"{_MODELS}.idefics2_vision_model.Idefics2VisionTransformer",
    )
    block_classes: ClassVar[tuple[str, ...]] = (
        f"{_MODELS}.idefics2_vision_model.Idefics2EncoderLayer",
    )
    attention_classes: ClassVar[tuple[str, ...]] = (
        f"{_MODELS}.idefics2_vision_model.Idefics2VisionAttention",
    )
    supplies: ClassVar[frozenset[type[View]]] = BLOCK_VIEWS
    class_token: ClassVar[bool] = False


def returning_tensors(vision: Any) -> None:
    """Let the blocks of a SigLIP tower return hidden states alone, as those of CLIP do.

    vLLM's return a pair whose second part is always None; blocks that a plan acts in return
    hidden states. The loop over the blocks, which takes the pairs apart, is replaced with them.

    Args:
        vision: a `SiglipVisionTransformer`, changed in place.
    """
    for block in vision.encoder.layers:
        block.forward = _first_of(block.forward)
    vision.encoder.forward = _loop(vision.encoder.layers)


def _first_of(forward: Any) -> Any:
    def first(hidden_states: Tensor) -> Tensor:
        hidden, _ = forward(hidden_states)
        states: Tensor = hidden
        return states

    return first


def _loop(blocks: Iterable[nn.Module]) -> Any:
    def run(inputs_embeds: Tensor, return_all_hidden_states: bool) -> Tensor | list[Tensor]:
        states = [inputs_embeds]
        for block in blocks:
            states.append(block(states[-1]))
        return states if return_all_hidden_states else states[-1]

    return run
