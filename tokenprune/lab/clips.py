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
        DataError: neither does its processor make videos, nor do plans take the pictures of a
            prompt for the frames of one.
        UnsupportedModelError: no adapter serves the model.
    """
    adapter = choose_adapter(loaded.model)
    # kinds of pictures of its own: such a model takes several pictures for several pictures
    if loaded.videos or not (isinstance(adapter, MllmAdapter) and adapter.spec().modalities):
        return
    raise DataError(
        f"{type(loaded.model).__name__} takes no videos: the checkpoint's processor makes none.",
        where=where,
        remedy="Ask about pictures, or take a model whose processor has a video processor.",
    )


def on_clips(plan: Plan, loaded: LoadedMllm) -> Plan:
    """The plan as it runs on clips, whatever it says.

    A model that gets videos tells their frames apart by itself; for others the pictures of a prompt
    are the frames.
    """
    return plan.model_copy(update={"images": "separate" if loaded.videos else "frames"})
