"""Every name inside transformers' LLaVA that the adapter relies on.

Nothing here imports transformers: models are read by attribute, classes by full name.
`tests/mllm/test_mllm_compat.py` checks each name and signature.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from tokenprune_adapters.shared.signatures import Relied
from tokenprune_adapters.transformers import llm_names as names

LAYER = "vision_feature_layer"
"""Which hidden states of the tower go to the projector: setting, and argument of a call."""
STRATEGY = "vision_feature_select_strategy"
"""`default` cuts the first token off the features, `full` doesn't: setting, and argument."""


def relied_on(model: Any) -> list[Relied]:
    """The methods that the engine overrides or calls, with the arguments that it reads or sets."""
    inner, language = core(model), language_model(model)
    step = (names.MASK, names.POSITIONS, names.CACHE_NAMES)
    asked = (names.IDS, names.PICTURES, names.EMBEDS, *step)
    return [
        Relied(model, "forward", (*asked, names.LABELS)),
        Relied(model, "prepare_inputs_for_generation", (*step[::2], names.EMBEDS), (names.IDS,)),
        Relied(inner, "forward", asked),
        Relied(inner, "get_image_features", first=(names.PICTURES,)),
        Relied(projector(model), "forward", first=("image_features",)),
        Relied(language, "forward", (names.EMBEDS, *step)),
        Relied(language.rotary_emb, "forward", (names.POSITIONS,)),
        *(
            Relied(layer, "forward", (*step, names.ROTARY), (names.HIDDEN,))
            for layer in decoder_layers(model)
        ),
    ]


def core(model: Any) -> nn.Module:
    """The model without its head: `LlavaModel`."""
    inner: nn.Module = model.model
    return inner


def tower(model: Any) -> nn.Module:
    """The vision tower."""
    vision: nn.Module = model.model.vision_tower
    return vision


def tower_depth(model: Any) -> int:
    """Blocks of the vision tower."""
    return int(model.config.vision_config.num_hidden_layers)


def projector(model: Any) -> nn.Module:
    """The projector."""
    module: nn.Module = model.model.multi_modal_projector
    return module


def language_model(model: Any) -> Any:
    """The LLM without head."""
    return model.model.language_model


def decoder_layers(model: Any) -> list[nn.Module]:
    """The LLM's layers, in order."""
    return list(language_model(model).layers)


def feature_layer(model: Any) -> int | list[int]:
    """Which hidden states of the tower go to the projector."""
    layer: int | list[int] = getattr(model.config, LAYER)
    return layer


def select_strategy(model: Any) -> str:
    """`default` cuts the first token off the features, `full` doesn't."""
    return str(getattr(model.config, STRATEGY))


def placeholder_id(model: Any) -> int:
    """Token id that stands for one visual token."""
    return int(model.config.image_token_id)


def first_id(model: Any) -> int | None:
    """What the config of the LLM names as first token of a text, if anything."""
    found = getattr(model.config.get_text_config(), "bos_token_id", None)
    return None if found is None else int(found)


def special_ids(model: Any) -> frozenset[int]:
    """The placeholder and what the configs name as first, last and padding tokens.

    Other tokens of a chat template are known to the tokenizer only.
    """
    configs = (
        model.config,
        model.config.get_text_config(),
        getattr(model, "generation_config", None),
    )
    named = [
        getattr(config, f"{name}_token_id", None)
        for config in configs
        for name in ("bos", "eos", "pad")
    ]
    ids = [value for one in named for value in (one if isinstance(one, list) else [one])]
    return frozenset({placeholder_id(model), *(int(value) for value in ids if value is not None)})


def window(model: Any) -> int | None:
    """Length of the LLM's sliding window, if it has one."""
    value = getattr(language_model(model).config, "sliding_window", None)
    return None if value is None else int(value)


def takes_padding_masks(model: Any) -> bool:
    """Whether the LLM runs FlashAttention, which knows no masks but `[B, T]`."""
    return "flash" in str(language_model(model).config._attn_implementation)
