"""Clips as a family's own video processor takes them: frames that were chosen before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.errors import DataError
from tokenprune_adapters.loaders.checkpoints import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

#: How data files mark the place of a clip in a question.
VIDEO = "<video>"

#: Frames a second of a clip, where the processor names no rate that it samples at (ours).
RATE = 1.0

#: Processors whose models know pictures and clips by one placeholder, so that they take one kind.
ONE_PLACEHOLDER = (
    *("Glm4vProcessor", "Glm46VProcessor", "Molmo2Processor"),
    "NemotronH_Omni_Reasoning_V3Processor",
)


def takes_clips(processor: Any) -> bool:
    """Whether a processor makes videos of clips; others can be given their frames as pictures."""
    return getattr(processor, "video_processor", None) is not None


def check_beside(processor: Any) -> None:
    """Refuse clips beside pictures in one call, where pixels or placeholders of both are alike.

    Raises:
        DataError: they are, so that one would take the other's place (SmolVLM), or the model can't
            tell them apart (GLM, Molmo 2).
    """
    made = (processor.image_processor, processor.video_processor)
    names = [{*one.model_input_names} for one in made]
    kind = type(processor).__name__
    if names[0] & names[1] or kind in ONE_PLACEHOLDER:
        raise DataError(
            f"{kind} makes either pictures or clips in one call.",
            where="videos",
            remedy="Ask about pictures and about clips in batches of their own.",
        )


def video_arguments(processor: Any, clips: Sequence[Sequence[Image]]) -> dict[str, Any]:
    """Arguments of a processor for clips, one a prompt.

    No frame is chosen anew. Families that write times into the prompt, or into positions, are told
    those of a clip at the rate that the processor itself samples at.

    Args:
        processor: with a video processor.
        clips: the frames of each, in order.

    Raises:
        DataError: the frames of a clip have different sizes.
    """
    if not clips:
        return {}
    rate = getattr(processor.video_processor, "fps", None) or RATE
    # plain lists of the metadata's fields: the class for them has another name in older releases
    told = [
        {"total_num_frames": len(one), "fps": rate, "frames_indices": list(range(len(one)))}
        for one in clips
    ]
    videos = [[_stacked(one)] for one in clips]
    # some processors leave it to their users to resize frames, and fail at odd sizes
    left = getattr(processor, "videos_kwargs", {}).get("do_resize") is False
    resized = {"do_resize": True} if left else {}
    return {"videos": videos, "video_metadata": told, "do_sample_frames": False, **resized}


def seen_frames(processor: Any, frames: Sequence[Image]) -> list[Image]:
    """The frames of a clip as they reach the encoder.

    Those that reach it as a list of patches come whole.
    """
    whole = [frame.convert("RGB") for frame in frames]
    videos = processor.video_processor
    made = videos(videos=[_stacked(whole)], do_sample_frames=False, return_tensors="pt")
    pixels = next((one for name, one in made.items() if name.startswith("pixel_values")), None)
    if pixels is None or pixels.dim() != 5 or pixels.shape[1] != len(whole):
        return whole
    return [to_picture(one, videos.image_mean, videos.image_std) for one in pixels[0]]


def _stacked(frames: Sequence[Image]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Frames as `[T, H, W, 3]`."""
    sizes = list(dict.fromkeys(frame.size for frame in frames))
    if len(sizes) > 1:
        (width, height), (other, high) = sizes[:2]
        raise DataError(
            f"the frames of a clip have different sizes, {width} x {height} and {other} x {high}.",
            where="videos",
            remedy="Bring them to one size.",
        )
    return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
