"""What lmms-eval does with a sample of the task; it needs nothing of tokenprune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = Path(__file__).parent


def to_visual(doc: dict[str, Any]) -> list[Image]:
    """The picture of a sample."""
    from PIL import Image

    with Image.open(FOLDER / doc["image"]) as picture:
        return [picture.convert("RGB")]


def to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question; no model needs another wording."""
    return str(doc["question"])


def to_target(doc: dict[str, Any]) -> str:
    """The right answer."""
    return str(doc["answer"])


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 for the right word, whatever its case and punctuation."""
    return {"accuracy": float(_plain(results[0]) == _plain(doc["answer"]))}


def _plain(answer: str) -> str:
    return answer.strip().strip(".!,").lower()
