"""Clips on a model: whether it takes any, and what that means for plans."""

from __future__ import annotations

from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm
from tokenprune.plan import Plan


def check_clips(loaded: LoadedMllm, where: str) -> None:
    """Refuse clips where the model takes none.

    Args:
        loaded: the model.
        where: what asks for clips, for the error.

    Raises:
        DataError: neither does its processor make videos, nor may the pictures of a prompt be the
            frames of one.
        UnsupportedModelError: no adapter serves the model.
    """
    if loaded.videos or _joins(loaded):
        return
    raise DataError(
        f"{type(loaded.model).__name__} takes no videos: the checkpoint's processor makes none, "
        "and pictures aren't seen as maps of one size, which frames have to be.",
        where=where,
        remedy="Ask about pictures, or take a model whose processor has a video processor.",
    )


def on_clips(plan: Plan, loaded: LoadedMllm) -> Plan:
    """The plan as it runs on clips, whatever it says.

    Where the LLM is shown the frames as pictures, plans take these for one video; other models
    tell by themselves which frames belong together.
    """
    return plan.model_copy(update={"images": "frames" if _joins(loaded) else "separate"})


def _joins(loaded: LoadedMllm) -> bool:
    """Whether the pictures of a prompt may be the frames of a video."""
    adapter = choose_adapter(loaded.model)
    if not isinstance(adapter, MllmAdapter):
        return False
    spec = adapter.spec()
    return spec.joins or not spec.modalities
