"""Running a plan on pictures and drawing what became of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.interface.loading import LoadedClassifier, LoadedDual, LoadedMllm, LoadedModel
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.positions import check_questions
from tokenprune.lab.trained import check_trained_for
from tokenprune.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

NEW_TOKENS = 8


def show(
    loaded: LoadedModel,
    plan: Plan,
    pictures: Sequence[tuple[str, Image]],
    *,
    question: str = "",
    every_site: bool = False,
) -> Image:
    """One row a picture: as the model saw it, in tiles stitched together, then a panel a stage.

    Where the model sees a part of the picture only, the whole of it stands in front.

    Args:
        loaded: the model.
        plan: what is attached.
        pictures: names and pictures.
        question: what a multimodal LLM is asked; the answer goes into the row's title.
        every_site: a panel a site instead of the last one of every stage.

    Raises:
        TokenpruneError: the plan doesn't fit the model.
    """
    from tokenprune.lab.drawing import crops, overlay, panels, views

    check_trained_for(loaded, plan)
    sheets = []
    for name, picture in pictures:
        traces, answer = _run(loaded, plan, picture, question)
        (one,) = views.drawn(loaded, [picture], traces)
        title = f"{name}    {answer}" if answer else name
        box = crops.seen_part(picture.size, loaded.picture)
        cropped = None if box is None else (picture, box)
        sheets.append(
            overlay.draw(one.views, one.trace, title=title, every_site=every_site, cropped=cropped)
        )
    return panels.stack(sheets)


Traces = Sequence[ImageTrace]


def _run(loaded: LoadedModel, plan: Plan, picture: Image, question: str) -> tuple[Traces, str]:
    if isinstance(loaded, LoadedDual):
        return _embedded(loaded, plan, picture)
    with torch.no_grad(), attach(loaded.model, plan) as handle:
        if isinstance(loaded, LoadedClassifier):
            logits = loaded.model(loaded.prepare([picture]))
            answer = f"class {int(logits.argmax())}"
        else:
            answer = f"{question}  {_ask(loaded, picture, question)}"
        return handle.trace.images, answer


def _embedded(loaded: LoadedDual, plan: Plan, picture: Image) -> tuple[Traces, str]:
    """Of an embedding nothing can be read; how near it stayed to the unpruned one can."""
    inputs = loaded.prepare([picture])
    with torch.no_grad():
        dense = loaded.embed(loaded.model, inputs)
        with attach(loaded.model, plan) as handle:
            pruned = loaded.embed(loaded.model, inputs)
            traces = handle.trace.images
    return (
        traces,
        f"cosine similarity with the unpruned embedding {float((dense * pruned).sum()):.3f}",
    )


def _ask(loaded: LoadedMllm, picture: Image, question: str) -> str:
    model: Any = loaded.model
    inputs = loaded.prepare([picture], [question])
    check_questions(loaded.model, inputs, [question], NEW_TOKENS)
    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return loaded.decode(ids[:, inputs["input_ids"].shape[1] :])[0]
