"""Which pictures share a prompt, and with it a budget for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.pre_llm.projector import in_order
from tokenprune.engine.pre_llm.stages import ImageBatch, Prompts
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.specs import MllmSpec


def prompts_of(
    state: MllmState, spec: MllmSpec, kind: str, images: Sequence[ImageTokens] | None = None
) -> Prompts:
    """Tells the pictures of each prompt, when it is asked; beams of a prompt count once.

    Args:
        state: of the call.
        spec: the model.
        kind: of the pictures.
        images: all pictures of this kind, in order; None for those of the batches.
    """

    def tell(batches: Sequence[ImageBatch]) -> list[list[int]]:
        shown = images or in_order(batches)
        place = {image.number: number for number, image in enumerate(shown)}
        rows = by_row(_placeholders(state, spec, kind), shown, spec.names.ids)
        found = ([place[image.number] for image in row] for row in rows)
        # a prompt repeated for its beams has the same pictures
        return [list(row) for row in dict.fromkeys(map(tuple, found)) if row]

    return tell


def _placeholders(state: MllmState, spec: MllmSpec, kind: str) -> list[int]:
    """Placeholders of a kind in every prompt.

    Raises:
        UnsupportedCallError: there are no prompts, or one shows pictures of another kind too,
            whose features are made at another time.
    """
    if state.given.ids is None:
        raise UnsupportedCallError(
            f"a total over the {spec.names.pictures} of a prompt needs the prompt's tokens.",
            where=spec.names.ids,
            remedy="Give token ids, or a budget per image.",
        )
    prompt, ours = state.read(spec), spec.placeholders[kind]
    mine = prompt.placeholders(kind)
    # a core whose kinds share a placeholder takes one kind a call
    for other in (name for name, one in spec.placeholders.items() if one != ours):
        counts = prompt.placeholders(other)
        if any(map(min, mine, counts)):
            raise UnsupportedCallError(
                f"a prompt shows pictures of two kinds ({kind} and {other}), which reach the LLM "
                "one kind after the other, so no total can be shared in front of it.",
                where="keep: total",
                remedy="Use it at: decoder (layer: 0), or write a budget per image.",
            )
    return mine
