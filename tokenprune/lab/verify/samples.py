"""The pictures and questions that a model is verified on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokenprune.engine.attach import attach
from tokenprune.errors import DataError, UnsupportedCallError
from tokenprune.interface.loading import Frames, LoadedMllm, LoadedModel
from tokenprune.lab.data.folders import pictures_in
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.reading import open_picture
from tokenprune.lab.models import bundled_name
from tokenprune.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

#: Asked where the user asks nothing; of several lengths, so that batches need padding (ours).
QUESTIONS = (
    "what is this ?",
    "which of the things in the picture is nearest to its left edge , and what colour is it ?",
    "how many objects are there , and do any two of them touch ?",
)
#: Seed of made pictures (ours).
MADE_SEED = 7
#: Their widths and heights in pixels (ours): three sizes, two of them in one prompt.
MADE_SIZES = ((224, 224), (160, 224), (224, 224), (224, 160))

#: Frames of the clip (ours): an even number, of which some families see two at a time.
CLIP = 4


def samples_for(
    loaded: LoadedModel,
    folder: Path | None,
    questions: Sequence[str],
    plan: Plan | None = None,
) -> tuple[list[Question], str]:
    """Samples of several lengths: two with one picture and one with two, and one about a clip.

    The clip is for models that get it as a video of its own kind; elsewhere a plan says that
    pictures are frames.

    Args:
        loaded: the model.
        folder: the user's pictures; otherwise held-out ones for the bundled models, made ones for
            others.
        questions: the user's; otherwise `QUESTIONS`, for the bundled models held-out ones.
        plan: without a clip where it can't run on one.

    Returns:
        The samples, and where their pictures come from.

    Raises:
        DataError: the folder holds no pictures, one can't be read, or a question is empty.
    """
    _require_words(questions)
    bundled = bool(bundled_name(loaded.name))
    if folder is not None:
        pictures, source = _of_folder(folder), str(folder)
    elif bundled:
        pictures, source = _heldout(), "the bundled model's held-out pictures"
    else:
        pictures, source = _made(), f"made from seed {MADE_SEED}"
        if not _taken(loaded, [pictures]):
            pictures = [picture.resize(MADE_SIZES[0]) for picture in pictures]
            source += ", of one size: the processor takes no others together"
    asked = tuple(questions) or (_heldout_questions() if bundled else QUESTIONS)
    count = max(len(asked), 3)
    found = []
    for number in range(count):
        shown = [pictures[(number + more) % len(pictures)] for more in range(2)]
        several = isinstance(loaded, LoadedMllm) and number % 3 == 2
        image = tuple(shown) if several else shown[0]
        found.append(Question(image, "", asked[number % len(asked)], "", number))
    if not (isinstance(loaded, LoadedMllm) and loaded.videos):
        return found, source
    clip = Frames(picture.resize(pictures[0].size) for picture in pictures[:CLIP])
    if not _taken(loaded, [pictures[0], clip]):
        return found, f"{source}, without a clip: the processor takes none beside pictures"
    refused = _refusal(loaded, plan, clip)
    if refused:
        return found, f"{source}, without a clip: {refused}"
    found.append(Question(clip, "", asked[count % len(asked)], "", count))
    return found, f"{source}, and a clip of {len(clip)} frames of them"


def _require_words(questions: Sequence[str]) -> None:
    if not all(question.strip() for question in questions):
        raise DataError(
            "a question is empty: a prompt that ends in its picture may lose its last token, and "
            "nothing is left to compare there.",
            where="question",
            remedy="Ask something of each picture.",
        )


def _of_folder(folder: Path) -> list[Image]:
    if not folder.is_dir():
        raise DataError(
            f"there is no folder '{folder}'.",
            where="--images",
            remedy="Name a folder that holds pictures.",
        )
    files = pictures_in(folder)[:4]
    if not files:
        raise DataError(
            "the folder holds no pictures.",
            where=f"--images {folder}",
            remedy="Name a folder with PNG or JPEG files, or leave --images away.",
        )
    return [open_picture(file) for file in files]


def _heldout() -> list[Image]:
    from tokenprune.reference import iter_heldout

    pictures = {sample.image_id: sample.image for sample in iter_heldout(4)}
    return list(pictures.values())


def _heldout_questions() -> tuple[str, ...]:
    """The shortest, the longest and a middle one of some held-out questions."""
    from tokenprune.reference import iter_heldout

    texts = {sample.question for sample in islice(iter_heldout(), 40)}
    ranked = sorted(texts, key=lambda text: (len(text.split()), text))
    return ranked[0], ranked[-1], ranked[len(ranked) // 2]


def _taken(loaded: LoadedModel, shown: Sequence[Image | Sequence[Image]]) -> bool:
    """Whether the processor of a multimodal LLM puts what several prompts show into one call."""
    if not isinstance(loaded, LoadedMllm):
        return True
    try:
        loaded.prepare(shown, [QUESTIONS[0]] * len(shown))
    except Exception:  # each has a class of its own for it
        return False
    return True


def _refusal(loaded: LoadedMllm, plan: Plan | None, clip: Frames) -> str:
    """Why a plan that fits the model doesn't run on a clip; empty if it does."""
    if plan is None:
        return ""
    inputs = loaded.prepare([clip], QUESTIONS[:1])
    with attach(loaded.model, plan), torch.no_grad():
        try:
            loaded.call(loaded.model, inputs)
        except UnsupportedCallError as error:
            return error.message
    return ""


def _made() -> list[Image]:
    """Coloured ramps with noise: no two patches are alike."""
    from PIL import Image

    rng = np.random.default_rng(MADE_SEED)
    found = []
    for width, height in MADE_SIZES:
        right, low = rng.uniform(40, 120, (2, 3))
        across, down = np.linspace(0, 1, width), np.linspace(0, 1, height)
        noise = rng.uniform(0, 60, (height, width, 3))
        values = across[None, :, None] * right + down[:, None, None] * low + noise
        found.append(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    return found
