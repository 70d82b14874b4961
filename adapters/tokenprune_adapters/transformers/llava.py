"""LLaVA in transformers: a CLIP or SigLIP tower, a projector and a Llama-like LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter, MllmSpec, class_names
from tokenprune.interface.signals import Signal
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import llava_names as compat


class LlavaAdapter(MllmAdapter):
    """LlavaForConditionalGeneration with a Llama, Mistral or Qwen2 as its LLM.

    The vision tower is served by its own adapter, which is found by class.
    """

    name: ClassVar[str] = "llava"
    claims: ClassVar[tuple[str, ...]] = (
        "transformers.models.llava.modeling_llava.LlavaForConditionalGeneration",
    )
    offers: ClassVar[tuple[Signal, ...]] = (
        Signal.LAST_QUERY_ATTENTION,
        Signal.QUESTION_STATE,
        Signal.QUESTION_ATTENTION_MAX,
        Signal.QUESTION_ATTENTION_MEAN,
        Signal.PROMPT_ATTENTION_MEAN,
        Signal.AHEAD_ATTENTION,
        Signal.AHEAD_ATTENTION_UNROTATED,
        Signal.TEXT_STATES,
        Signal.TEXT_PLACE,
    )
    towers: ClassVar[tuple[str, ...]] = ("clip", "siglip")

    def __init__(self, model: nn.Module) -> None:
        """Check the LLM's layers and the signatures of what is called.

        Raises:
            UnsupportedModelError: a layer of a class that isn't known, or a release of
                transformers with other arguments.
        """
        super().__init__(model)
        check_library("transformers", compat.relied_on(model))
        for layer in compat.decoder_layers(model):
            if not any(name in compat.DECODER_LAYERS for name in class_names(layer)):
                known = ", ".join(name.rpartition(".")[2] for name in compat.DECODER_LAYERS)
                raise UnsupportedModelError(
                    f"LLM layers of class {type(layer).__name__} aren't supported.",
                    where="language_model",
                    remedy=f"Supported: {known}.",
                )
        self._spec = self._read()

    def spec(self) -> MllmSpec:
        """The model as data."""
        return self._spec

    def projections(self, layer: nn.Module) -> Mapping[str, nn.Module]:
        """The query and key projections."""
        return compat.projections(layer)

    def query_key(
        self, layer: nn.Module, projections: Mapping[str, Tensor], rotary: Any
    ) -> tuple[Tensor, Tensor]:
        """Query `[B, H, T, d]` and key `[B, H_kv, T, d]`, rotated unless `rotary` is None."""
        return compat.query_key(layer, projections, rotary)

    def project(self, layer: nn.Module, hidden: Tensor) -> Mapping[str, Tensor]:
        """Outputs of the query and key projections for a layer's input `[B, T, D]`."""
        return compat.project(layer, hidden)

    def trim_cache(self, cache: Any, layer: int, columns: Tensor) -> None:
        """Keep `columns` `[B, K]` of a dynamic cache's layer."""
        compat.trim_cache(cache, layer, columns)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids `[B, T]`."""
        return compat.embed(self.model, ids)

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of `position_ids` `[B, T]`."""
        return compat.rotary(self.model, hidden, position_ids)

    def padding_masks(self) -> bool:
        """Whether the LLM runs FlashAttention."""
        return compat.takes_padding_masks(self.model)

    def _read(self) -> MllmSpec:
        model, layer = self.model, compat.feature_layer(self.model)
        strategy = compat.select_strategy(model)
        return MllmSpec(
            core=compat.core(model),
            tower=compat.tower(model),
            used=self._used(layer) if isinstance(layer, int) else None,
            cut=1 if strategy == "default" else 0,
            projector=compat.projector(model),
            language_model=compat.language_model(model),
            layers=compat.decoder_layers(model),
            placeholder_id=compat.placeholder_id(model),
            cache_names=compat.CACHE_NAMES,
            signals=frozenset(self.offers),
            fixed={"vision_feature_layer": layer, "vision_feature_select_strategy": strategy},
            window=compat.window(model),
            special_ids=compat.special_ids(model),
        )

    def _used(self, layer: int) -> int:
        """Blocks in front of hidden state `layer`; hidden state 0 is the input of block 0."""
        depth = compat.tower_depth(self.model)
        used = depth + 1 + layer if layer < 0 else layer
        if not 1 <= used <= depth:
            raise UnsupportedModelError(
                f"vision_feature_layer {layer} isn't the output of one of {depth} blocks.",
                where="config.vision_feature_layer",
                remedy=f"Choose -1 to -{depth}, or 1 to {depth}.",
            )
        return used
