"""Training questions that never appear in the held-out set: looking an object up by its colour.

Looking up by colour forms late, because few questions need it and their colour word stands apart
from the question mark. These put it next to it, or ask for less than the shape.
"""

from __future__ import annotations

import numpy as np

from tokenprune.reference import Scene, SceneQuestion
from tokenprune.reference.questions import quadrant
from tokenprune.reference.scene import COLOURS, Item

HELPER = "helper"


def _about(item: Item) -> list[tuple[str, str]]:
    spot = quadrant(item)
    asked = [
        (f"what shape is {item.colour} ?", item.kind),
        (f"what is the {item.colour} object ?", item.kind),
    ]
    if spot is not None:
        asked.append((f"where is {item.colour} ?", spot))
        asked.append((f"where is the {item.colour} object ?", spot))
    return asked


def helper_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    """A question about an object known by its colour alone, or about the presence of a colour."""
    colours = [item.colour for item in scene.objects]
    options = [
        pair for item in scene.objects if colours.count(item.colour) == 1 for pair in _about(item)
    ]
    if options and rng.random() < 0.75:
        text, answer = options[int(rng.integers(len(options)))]
        return SceneQuestion(text, answer, HELPER)
    taboo = {scene.digit.colour} if scene.digit else set()
    absent = sorted(set(COLOURS) - set(colours) - taboo)
    present = bool(rng.random() < 0.5)
    names = colours if present else absent
    name = names[int(rng.integers(len(names)))]
    return SceneQuestion(f"is there a {name} object ?", "yes" if present else "no", HELPER)
