"""How the adapters read transformers' vision encoders, by the names that a family's data gives.

Nothing here imports transformers: models are read by attribute, classes by full name.
`tests/adapters/test_compat_transformers.py` checks each name and signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Arguments
from tokenprune_adapters.shared.arguments import signature
from tokenprune_adapters.shared.scaling import scaled
from tokenprune_adapters.shared.signatures import Relied
from tokenprune_adapters.transformers.vit_family_names import (
    CLIP,
    PATCHES,
    BlockNames,
    VisionNames,
)


def relied_on(vision: Any, names: VisionNames) -> list[Relied]:
    """The methods of a vision module that the engine overrides, with their arguments."""
    # SigLIP 2 is served under SigLIP's names, too; Cosmos 3 has the setting and names of its own
    given = PATCHES if names is CLIP and takes_patches(vision) else names.takes
    return [
        Relied(vision, "forward", first=given),
        *(
            Relied(block, "forward", names.block_keywords, first=names.called)
            for block in blocks(vision, names)
        ),
    ]


def vision_module(model: Any, names: VisionNames = CLIP) -> Any:
    """The module that holds embeddings and blocks, however many wrappers are around it.

    `CLIPModel`, `SiglipModel` and the models with a head keep a vision model in `vision_model`;
    some releases wrap it once more.

    Raises:
        UnsupportedModelError: neither blocks nor a further wrapper are where they should be.
    """
    inner = model
    while not _has(inner, names.blocks):
        further = [name for name in names.wrappers if hasattr(inner, name)]
        if not further:
            raise _lacks(inner, type(model).__name__, names.blocks)
        inner = getattr(inner, further[0])
    return inner


def blocks(vision: Any, names: VisionNames) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return list(attrgetter(names.blocks)(vision))


def block_names(block: nn.Module, where: str, names: VisionNames) -> BlockNames:
    """The names that a block has all parts of: those of its release.

    Raises:
        UnsupportedModelError: it has the parts of no known release.
    """
    for variant in names.variants:
        if all(_has(block, part) for part in variant.parts()):
            return variant
    newest = names.variants[0].parts()
    raise _lacks(block, where, next(part for part in newest if not _has(block, part)))


def attentions(block: nn.Module, names: VisionNames) -> list[nn.Module]:
    """The attention module of a block and what wraps it inside the block, outermost first."""
    paths = [variant.attention.split(".") for variant in names.variants]
    starts = {".".join(path[: end + 1]) for path in paths for end in range(len(path))}
    return [block.get_submodule(start) for start in sorted(starts) if _has(block, start)]


def heads(block: Any, names: BlockNames, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, D]` -> query, key, value `[B, H, T, d]`, scaled so that 1/sqrt(d) is implied."""
    attention = attrgetter(names.attention)(block)
    width = int(getattr(attention, names.head_width))
    normed = getattr(block, names.norm)(hidden)
    whole = [getattr(attention, name)(normed) for name in names.projections]
    for place, name in enumerate(names.shared_norms):
        whole[place] = getattr(attention, name)(whole[place])
    parts = [part.view(*part.shape[:-1], -1, width) for part in whole]
    for place, name in enumerate(names.head_norms):
        parts[place] = getattr(attention, name)(parts[place])
    query, key, value = (part.transpose(1, 2) for part in parts)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads of queries share one of keys and values
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return scaled(query, float(getattr(attention, names.scale))), key, value


def join(block: Any, names: BlockNames, hidden: Tensor, attended: Tensor) -> Tensor:
    """Heads `[B, H, T, d]` through what follows them, added to `hidden` `[B, T, D]`."""
    return hidden + _run(block, names.after, attended.transpose(1, 2).flatten(2))


def feed_forward(block: Any, names: BlockNames, hidden: Tensor) -> Tensor:
    """Second norm, MLP and residual: `[B, T, D]` -> `[B, T, D]`."""
    return hidden + _run(block, names.feed_forward, hidden)


def attention_dropout(block: Any, names: BlockNames) -> float:
    """Dropout on attention weights that is active in training."""
    if names.dropout is None:
        return 0.0
    return float(getattr(attrgetter(names.attention)(block), names.dropout))


def _run(block: Any, parts: Sequence[str], hidden: Tensor) -> Tensor:
    for name in parts:
        part = attrgetter(name)(block)
        hidden = hidden * part if isinstance(part, Tensor) else part(hidden)
    return hidden


def _has(owner: Any, name: str) -> bool:
    try:
        attrgetter(name)(owner)
    except AttributeError:
        return False
    return True


def _lacks(owner: Any, where: str, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"'{type(owner).__name__}' has no '{name}'.",
        where=where,
        remedy="Its class has changed, or is not the one that the adapter was written for.",
    )


def patch_size(vision: Any) -> tuple[int, int]:
    """Height and width of a patch, in pixels."""
    return _sides(vision.config.patch_size)


def width(vision: Any) -> int:
    """Channels of a token."""
    return int(vision.config.hidden_size)


def registers(vision: Any) -> int:
    """Register tokens behind the class token."""
    return int(getattr(vision.config, "num_register_tokens", 0))


def default_grid(vision: Any) -> tuple[int, int]:
    """Rows and columns of patches at the image size that the model was made for."""
    if takes_patches(vision):  # there is no image size
        side = int(int(vision.config.num_patches) ** 0.5)
        return side, side
    height, width = _sides(vision.config.image_size)
    return height // patch_size(vision)[0], width // patch_size(vision)[1]


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence):
        height, width = value
        return int(height), int(width)
    return int(value), int(value)


def takes_patches(vision: Any) -> bool:
    """Whether the model is given patches, a mask and shapes instead of pictures (SigLIP 2)."""
    return hasattr(vision.config, "num_patches")


MAPS = "output_attentions"


def argument_names(vision: Any) -> tuple[str, ...]:
    """The names of a vision model's arguments; finding them takes longer than most of a call."""
    return tuple(signature(type(vision).forward))


def argument(names: Sequence[str], name: str, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    """An argument of a vision model's forward, given by position or by name; None if absent."""
    if name in kwargs or not args:
        return kwargs.get(name)
    return dict(zip(names, args, strict=False)).get(name)
