"""Granite 4 Vision: LLaVA-NeXT's tiles, whose features enter in front of several layers of the LLM.

A token of a picture is nothing at the LLM's input: what it shows is added to it in front of some
layers. Here that is read as an argument with a row for each token, so that it is cut as everything
else is, and what would be added behind a cut is added by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.interface.calls import Arguments, LlmCall, Written
from tokenprune.interface.places import Places
from tokenprune.interface.signals import PromptEmbeddings, View
from tokenprune.interface.specs import MllmSpec
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.shared.signatures import Relied
from tokenprune_adapters.transformers import deepstack, stitching
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.picture_places import Features, tiles_of_side

MODEL = "transformers.models.granite4_vision.modeling_granite4_vision"
MARKS, ROWS = "vision_mask", "deepstack_features"
"""Of the LLM: `[B, T, 1]` True for visual tokens; by layer `[n, d]` what is added to these. The
method for pictures puts out `ROWS`, too: pairs of a layer and the rows of every picture."""
_QUERIED = "learned queries read windows of patches, and every token is one of them"
_ENTERS = (
    "features of several depths enter in front of layers of the LLM, and strategies before the LLM "
    "see those of a token side by side: they don't compare pictures with words"
)


def downsampled(core: Any, given: Arguments, features: Features) -> list[Places]:
    """A base tile and the rows of the stitched map, of squares of fewer tokens than patches."""
    vision, rate = core.config.vision_config, Fraction(core.config.downsample_rate)
    side = int(vision.image_size // vision.patch_size * rate)
    return tiles_of_side(core, given, side)


PICTURES = Pictures(
    "get_image_features",
    ("image_token_id",),
    (names.PICTURES,),
    downsampled,
    unfollowed=_QUERIED,
)


class Granite4VisionAdapter(FamilyAdapter):
    """Granite4VisionForConditionalGeneration.

    What is removed before the LLM takes its features of all depths along, and what merges tokens
    merges all of them. Behind a layer, a merged token gets the features of its anchor.
    """

    name: ClassVar[str] = "granite4_vision"
    claims: ClassVar[tuple[str, ...]] = (f"{MODEL}.Granite4VisionForConditionalGeneration",)
    supplies: ClassVar[frozenset[type[View]]] = FamilyAdapter.supplies - {PromptEmbeddings}
    made: ClassVar[str] = ROWS
    family: ClassVar[Family] = Family({"image": PICTURES}, notes=(_ENTERS,))
    limits: ClassVar[tuple[str, ...]] = family.limits

    def features(self, made: Any) -> Tensor:
        """Features of all depths side by side, `[M, A d_llm]`."""
        return torch.cat([torch.cat(list(rows)) for _, rows in getattr(made, ROWS)], dim=-1)

    def with_features(self, made: Any, features: Tensor) -> Any:
        """What the method put out with other features, depth by depth and picture by picture."""
        before = getattr(made, ROWS)
        sizes = [len(one) for one in before[0][1]]
        depths = features.chunk(len(before), dim=-1)
        after = [
            (layer, list(torch.split(mine, sizes)))
            for (layer, _), mine in zip(before, depths, strict=True)
        ]
        setattr(made, ROWS, after)
        return made

    def read_llm(self, args: tuple[Any, ...], kwargs: Arguments) -> LlmCall:
        """What a call of the LLM says, with a row for each token and depth, zeros for text."""
        call = super().read_llm(args, kwargs)
        marks = call.per_token.get(MARKS)
        if marks is None:
            return call
        given = named(type(self.spec().language_model).forward, args, kwargs)[ROWS]
        added = {
            name: deepstack.spread(given[layer], marks[..., 0])
            for layer, name in self.spec().added.items()
            if layer in given
        }
        return replace(call, per_token={**call.per_token, **added})

    def write_llm(self, call: LlmCall, args: tuple[Any, ...], kwargs: Arguments) -> Written:
        """The LLM's arguments as `call` says."""
        added = {layer: name for layer, name in self.spec().added.items() if name in call.per_token}
        marks = call.per_token.get(MARKS)
        rest = {name: one for name, one in call.per_token.items() if name not in added.values()}
        put, told = super().write_llm(replace(call, per_token=rest), args, kwargs)
        if marks is None:
            return put, told
        packed = {
            layer: call.per_token[name][marks[..., 0].to(call.per_token[name].device)]
            for layer, name in added.items()
        }
        return put, {**told, ROWS: packed}

    def _rows(self, made: Any) -> list[Tensor]:
        """The features of every picture that come first, `[L, d]`."""
        return list(getattr(made, ROWS)[0][1])

    def _read(self) -> MllmSpec:
        spec, core = super()._read(), self.core
        enter = {*(layer for _, layer in core.config.deepstack_layer_map)}
        enter |= {*core.config.spatial_target_layers}
        added = {layer: f"{ROWS}.{layer}" for layer in sorted(enter) if layer < len(spec.layers)}
        axes: Mapping[str, int] = {MARKS: 1, **dict.fromkeys(added.values(), 1)}
        return replace(spec, added=added, per_token={**spec.per_token, **axes})

    def _relied_on(self) -> list[Relied]:
        return [
            *super()._relied_on(),
            Relied(self.spec().language_model, "forward", (MARKS, ROWS)),
            Relied(self.core, stitching.METHOD),
        ]
