"""Running a plan on pictures and drawing what became of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tokenprune.engine.attach import attach
from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames, LoadedDual, LoadedMllm, LoadedModel
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.clips import check_clips, on_clips
from tokenprune.lab.greedy import generated, largest
from tokenprune.lab.positions import check_questions
from tokenprune.lab.trained import check_trained_for
from tokenprune.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

NEW_TOKENS = 8


def show(
    loaded: LoadedModel,
    plan: Plan,
    pictures: Sequence[tuple[str, Image | Frames]],
    *,
    question: str = "",
    every_site: bool = False,
) -> Image:
    """One row a picture: as the model saw it, in tiles stitched together, then a panel a stage.

    Where the model sees a part of the picture only, the whole of it stands in front.

    Args:
        loaded: the model.
        plan: what is attached.
        pictures: names, and pictures or clips.
        question: what a multimodal LLM is asked; the answer goes into the row's title.
        every_site: a panel a site instead of the last one of every stage.

    Raises:
        TokenpruneError: the plan doesn't fit the model, or it takes no clips.
    """
    from tokenprune.lab.drawing import crops, overlay, panels, views

    check_trained_for(loaded, plan)
    sheets = []
    for name, picture in pictures:
        mine = _on_clip(loaded, plan) if isinstance(picture, Frames) else plan
        traces, answer = _run(loaded, mine, picture, question)
        title = f"{name}    {answer}" if answer else name
        several = picture if isinstance(picture, Frames) else [picture]
        (one,) = views.drawn(loaded, several, traces)
        cropped = None
        # a picture in pieces has views of all that the model sees, and a clip's frames are seen
        if len(one.views) == 1 and not isinstance(picture, Frames):
            box = crops.seen_part(picture.size, loaded.picture)
            cropped = None if box is None else (picture, box)
        sheets.append(
            overlay.draw(one.views, one.trace, title=title, every_site=every_site, cropped=cropped)
        )
    return panels.stack(sheets)


def _on_clip(loaded: LoadedModel, plan: Plan) -> Plan:
    """The plan as it runs on a clip.

    Raises:
        DataError: the model takes none.
    """
    if isinstance(loaded, LoadedMllm):
        check_clips(loaded, "--frames")
        return on_clips(plan, loaded)
    raise DataError("an encoder sees single pictures.", where="--frames", remedy="Leave it away.")


Traces = Sequence[ImageTrace]


def _run(
    loaded: LoadedModel, plan: Plan, picture: Image | Frames, question: str
) -> tuple[Traces, str]:
    if isinstance(loaded, LoadedMllm):
        with torch.no_grad(), attach(loaded.model, plan) as handle:
            answer = _ask(loaded, picture, question)
            return handle.trace.images, f"{question}  {answer}"
    assert not isinstance(picture, Frames)
    if isinstance(loaded, LoadedDual):
        return _embedded(loaded, plan, picture)
    with torch.no_grad(), attach(loaded.model, plan) as handle:
        logits = loaded.model(loaded.prepare([picture]))
        return handle.trace.images, f"class {largest(logits)[0]}"


def _embedded(loaded: LoadedDual, plan: Plan, picture: Image) -> tuple[Traces, str]:
    """Of an embedding nothing can be read; how near it stayed to the unpruned one can."""
    inputs = loaded.prepare([picture])
    with torch.no_grad():
        dense = loaded.embed(loaded.model, inputs)
        with attach(loaded.model, plan) as handle:
            pruned = loaded.embed(loaded.model, inputs)
            traces = handle.trace.images
    cosine = float((dense.float() * pruned.float()).sum())
    return traces, f"cosine similarity with the unpruned embedding {cosine:.3f}"


def _ask(loaded: LoadedMllm, picture: Image | Frames, question: str) -> str:
    inputs = loaded.prepare([picture], [question])
    check_questions(loaded.model, inputs, [question], NEW_TOKENS)
    ids = generated(loaded.model, inputs, NEW_TOKENS)
    return loaded.decode(ids[:, inputs["input_ids"].shape[1] :])[0]
