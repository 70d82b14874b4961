"""LLaVA in transformers: a CLIP or SigLIP tower, a projector and a Llama-like LLM."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.specs import MllmSpec
from tokenprune_adapters.shared.signatures import Relied, check_library
from tokenprune_adapters.transformers import layer_configs
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.family_towers import LAYERS, STRATEGY
from tokenprune_adapters.transformers.layers import check_types, layers_of
from tokenprune_adapters.transformers.mllm import TransformersMllm

LAYER = LAYERS[0]
"""Which hidden states of the tower go to the projector: setting, and argument of a call."""


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
        self._spec = self._read()
        check_library("transformers", self._relied_on())
        self.check_layers(self._spec.layers, "language_model")
        check_types(self._spec.language_model, "language_model")

    def spec(self) -> MllmSpec:
        """The model as data."""
        return self._spec

    def padding_masks(self) -> bool:
        """Whether the LLM runs FlashAttention."""
        config = getattr(self._language, names.MODEL_CONFIG)
        return "flash" in str(getattr(config, names.IMPLEMENTATION))

    @property
    def _language(self) -> Any:
        model: Any = self.model
        return model.model.language_model

    def _read(self) -> MllmSpec:
        model: Any = self.model
        core, language = model.model, self._language
        layer, strategy = getattr(model.config, LAYER), getattr(model.config, STRATEGY)
        placeholder, text = int(model.config.image_token_id), model.config.get_text_config()
        windows = layer_configs.windows(language.config)
        return MllmSpec(
            core=core,
            tower=core.vision_tower,
            used=self._used(layer) if isinstance(layer, int) else None,
            cut=1 if strategy == "default" else 0,
            projector=core.multi_modal_projector,
            language_model=language,
            layers=layers_of(language),
            placeholder_id=placeholder,
            names=names.NAMES,
            supplies=self.supplies,
            settings={"used": LAYER, "cut": STRATEGY},
            fixed={LAYER: layer, STRATEGY: strategy},
            refused=names.REFUSED,
            refused_generation=names.REFUSED_GENERATION,
            refused_methods=names.REFUSED_METHODS,
            first_id=getattr(text, "bos_token_id", None),
            window=layer_configs.window(language.config, windows, flat=self.padding_masks()),
            windows=windows,
            renumbers=layer_configs.renumbers(language.config, apart=False),
            # other tokens of a chat template are known to the tokenizer only
            special_ids=layer_configs.special_ids(model) | {placeholder},
            prepares=names.PREPARES if hasattr(model, names.PREPARES) else None,
        )

    def _used(self, layer: int) -> int:
        """Blocks in front of hidden state `layer`; hidden state 0 is the input of block 0."""
        config: Any = self.model.config
        depth = int(config.vision_config.num_hidden_layers)
        used = depth + 1 + layer if layer < 0 else layer
        if not 1 <= used <= depth:
            raise UnsupportedModelError(
                f"vision_feature_layer {layer} isn't the output of one of {depth} blocks.",
                where="config.vision_feature_layer",
                remedy=f"Choose -1 to -{depth}, or 1 to {depth}.",
            )
        return used

    def _relied_on(self) -> list[Relied]:
        """The methods that the engine overrides or calls, with the arguments it reads or sets."""
        model, spec = self.model, self._spec
        step = (names.MASK, names.POSITIONS, names.CACHE_NAMES)
        asked = (names.IDS, names.PICTURES, names.EMBEDS, *step)
        return [
            Relied(model, "forward", (*asked, names.LABELS)),
            Relied(model, names.PREPARES, (*step[::2], names.EMBEDS), (names.IDS,)),
            Relied(spec.core, "forward", asked),
            Relied(spec.core, "get_image_features", first=(names.PICTURES,)),
            Relied(spec.projector, "forward", first=("image_features",)),
            Relied(spec.language_model, "forward", (names.EMBEDS, *step)),
            Relied(self._language.rotary_emb, "forward", (names.POSITIONS,)),
            *(
                Relied(layer, "forward", (*step, names.ROTARY), (names.HIDDEN,))
                for layer in spec.layers
            ),
        ]
