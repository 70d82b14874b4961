"""A family of custom code: a config of other names, and methods that put out tensors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.picture_places import square
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.plugins.newcomers_model import MyVit

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
}
IMAGE = 90


def _filled(old: Any, new: Any) -> dict[str, Any]:
    # transformers 5.24 calls the cache by another name
    return {} if new is old is None else {"past_key_values": old} if new is None else {"cache": new}


class OwnConfig(PretrainedConfig):
    """Says nothing about the tower."""

    model_type = "own_family"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": Qwen2Config}

    def __init__(self, text_config: Any = None, picture_token: int = IMAGE, **rest: Any) -> None:
        given = text_config or TEXT
        self.text_config = Qwen2Config(**given) if isinstance(given, dict) else given
        self.picture_token = picture_token
        super().__init__(**rest)


class OwnModel(PreTrainedModel):
    """Tower, projector and LLM."""

    config_class = OwnConfig
    _supports_sdpa = True

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.eye = MyVit()
        self.projector = nn.Linear(self.eye.width, config.text_config.hidden_size)
        self.language_model = Qwen2Model(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def look(self, pixels: Tensor) -> Tensor:
        return self.projector(self.eye(pixels)[:, 1:])

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if pixels is not None:
            places = (input_ids == self.config.picture_token)[..., None].expand_as(embeds)
            embeds = embeds.masked_scatter(places, self.look(pixels))
        return self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **_filled(past_key_values, cache),
            **kwargs,
        )


class OwnForGeneration(PreTrainedModel, GenerationMixin):
    """The core and its head."""

    config_class = OwnConfig
    _supports_sdpa = True

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.model = OwnModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        out = self.model(
            input_ids,
            pixels,
            attention_mask,
            position_ids,
            inputs_embeds,
            **_filled(past_key_values, cache),
            **kwargs,
        )
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        held = "cache" if "cache" in out else "past_key_values"
        return CausalLMOutputWithPast(logits=logits, **{held: out.get(held)})

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        made: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        first = kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True)
        return made if first else {**made, "pixels": None}


class OwnAdapter(FamilyAdapter):
    """The family as data."""

    name = "own_family"
    claims = (f"{OwnForGeneration.__module__}.OwnForGeneration",)
    towers = ("my-vit",)
    family = Family(
        {
            "image": Pictures(
                method="look",
                placeholder=("picture_token",),
                pixels=("pixels",),
                read=square,
                tower=Followed("eye", layers=(), cut=1, blocks="blocks", projector="projector"),
            )
        },
        towers=("my-vit",),
    )


def tiny() -> OwnForGeneration:
    torch.manual_seed(0)
    return OwnForGeneration(OwnConfig()).eval()
