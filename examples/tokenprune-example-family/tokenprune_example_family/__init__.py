"""A family of multimodal LLMs from a package of one's own: DeepSeek-VL in transformers."""

from collections.abc import Callable
from typing import Any

from tokenprune_adapters.transformers.families import Family, FamilyAdapter, Pictures
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.picture_places import square

from tokenprune import hookimpl

PICTURES = Pictures(
    method="get_image_features",  # of the core; what the engine puts itself around
    placeholder=("image_token_id",),  # setting with the id that stands for a visual token
    pixels=("pixel_values",),
    read=square,  # every picture is a square of tokens
    # its last states, without a class token; the projector is run on the tokens that are left
    tower=Followed("vision_model", layers=(), cut=0, projector="aligner"),
)


class DeepseekVlAdapter(FamilyAdapter):
    """A SigLIP tower, an aligner that keeps the number of tokens, and a Llama."""

    name = "deepseek_vl"
    claims = (
        "transformers.models.deepseek_vl.modeling_deepseek_vl.DeepseekVLForConditionalGeneration",
    )
    towers = ("siglip",)
    family = Family({"image": PICTURES}, towers=("siglip",))


@hookimpl
def register_adapters(register: Callable[[type[Any]], None]) -> None:
    """Tell tokenprune about it."""
    register(DeepseekVlAdapter)
