"""LLaVA in transformers: a CLIP or SigLIP tower, a projector and a Llama-like LLM."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.specs import MllmSpec
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.transformers import llava_names as compat
from tokenprune_adapters.transformers import llm_layers, llm_names
from tokenprune_adapters.transformers.layers import check_layers, check_types
from tokenprune_adapters.transformers.mllm import TransformersMllm


class LlavaAdapter(TransformersMllm):
    """LlavaForConditionalGeneration with any LLM whose layers are known.

    The vision tower is served by its own adapter, which is found by class.
    """

    name: ClassVar[str] = "llava"
    claims: ClassVar[tuple[str, ...]] = (
        "transformers.models.llava.modeling_llava.LlavaForConditionalGeneration",
    )
    towers: ClassVar[tuple[str, ...]] = ("clip", "siglip")

    def __init__(self, model: nn.Module) -> None:
        """Check the LLM's layers and the signatures of what is called.

        Raises:
            UnsupportedModelError: a layer of a class or type that isn't known, or a release of
                transformers with other arguments.
        """
        super().__init__(model)
        check_library("transformers", compat.relied_on(model))
        check_layers(compat.decoder_layers(model), "language_model", self.kinds)
        check_types(compat.language_model(model), "language_model")
        self._spec = self._read()

    def spec(self) -> MllmSpec:
        """The model as data."""
        return self._spec

    def padding_masks(self) -> bool:
        """Whether the LLM runs FlashAttention."""
        return compat.takes_padding_masks(self.model)

    def _read(self) -> MllmSpec:
        model, layer = self.model, compat.feature_layer(self.model)
        language = compat.language_model(model)
        windows = llm_layers.windows(language.config)
        strategy = compat.select_strategy(model)
        return MllmSpec(
            core=compat.core(model),
            tower=compat.tower(model),
            used=self._used(layer) if isinstance(layer, int) else None,
            cut=1 if strategy == "default" else 0,
            projector=compat.projector(model),
            language_model=language,
            layers=compat.decoder_layers(model),
            placeholder_id=compat.placeholder_id(model),
            names=llm_names.NAMES,
            supplies=self.supplies,
            settings={"used": compat.LAYER, "cut": compat.STRATEGY},
            fixed={compat.LAYER: layer, compat.STRATEGY: strategy},
            refused=llm_names.REFUSED,
            refused_generation=llm_names.REFUSED_GENERATION,
            refused_methods=llm_names.REFUSED_METHODS,
            first_id=compat.first_id(model),
            window=llm_layers.window(language.config, windows, flat=self.padding_masks()),
            windows=windows,
            renumbers=llm_layers.renumbers(language.config, apart=False),
            special_ids=compat.special_ids(model),
            prepares=llm_names.PREPARES if hasattr(model, llm_names.PREPARES) else None,
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
