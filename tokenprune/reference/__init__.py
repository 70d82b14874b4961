"""The bundled reference model and the procedural data that it was trained and is measured on."""

from __future__ import annotations

from pathlib import Path

from tokenprune.reference.heldout import Sample, heldout_samples, iter_heldout
from tokenprune.reference.questions import TYPES, Question, ask_each, vocabulary
from tokenprune.reference.render import Rendered, Textures, render
from tokenprune.reference.scene import Item, Scene, sample_scene

__all__ = [
    "TYPES",
    "Item",
    "Question",
    "Rendered",
    "Sample",
    "Scene",
    "Textures",
    "ask_each",
    "heldout_samples",
    "iter_heldout",
    "reference_model_path",
    "render",
    "sample_scene",
    "vocabulary",
]


def reference_model_path() -> Path:
    """Folder of the bundled checkpoint, ready for `from_pretrained`."""
    return Path(__file__).parent / "weights"
