"""How long the sequence is in every block of the encoder and the LLM, read from a trace."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.interface.trace import ImageTrace


def encoder_lengths(image: ImageTrace, used: int, prefix: int) -> list[float]:
    """Tokens of a frame in each used block, prefix included; merges count from their block.

    A picture is one frame.
    """
    frames = image.grid[0]
    present, lengths = float(image.patches), []
    for block in range(used):
        for step in image.steps:
            if step.site.stage == "encoder" and step.site.layer == block and step.kept <= present:
                present = float(step.kept)
        lengths.append(prefix + present / frames)
    return lengths


def llm_lengths(images: Sequence[ImageTrace], layers: int, text: int) -> list[float]:
    """Tokens in each layer of the LLM for a prompt with these images and so many text tokens."""
    lengths = []
    for layer in range(layers):
        visual = 0
        for image in images:
            seen = [
                step.kept
                for step in image.steps
                if step.site.stage != "decoder" or step.site.layer <= layer
            ]
            visual += seen[-1] if seen else image.patches
        lengths.append(float(text + visual))
    return lengths
