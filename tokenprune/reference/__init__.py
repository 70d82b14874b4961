"""The bundled reference models and the procedural data of their training and measurement."""

from __future__ import annotations

from pathlib import Path

from tokenprune.reference.clip import FRAMES, ClipScene, Mover, sample_clip
from tokenprune.reference.clip_heldout import ClipSample, heldout_clips, iter_heldout_clips
from tokenprune.reference.clip_questions import CLIP_TYPES, ask_clip, clip_prompt, clip_words
from tokenprune.reference.clip_render import RenderedClip, render_clip
from tokenprune.reference.heldout import Sample, heldout_samples, iter_heldout
from tokenprune.reference.questions import TYPES, SceneQuestion, ask_each, vocabulary
from tokenprune.reference.render import Rendered, Textures, render
from tokenprune.reference.scene import Item, Scene, sample_scene

__all__ = [
    "CLIP_TYPES",
    "FRAMES",
    "TYPES",
    "ClipScene",
    "ClipSample",
    "Item",
    "Mover",
    "SceneQuestion",
    "Rendered",
    "RenderedClip",
    "Sample",
    "Scene",
    "Textures",
    "ask_clip",
    "ask_each",
    "clip_prompt",
    "clip_words",
    "heldout_clips",
    "heldout_samples",
    "iter_heldout",
    "iter_heldout_clips",
    "reference_model_path",
    "render",
    "render_clip",
    "sample_clip",
    "sample_scene",
    "video_model_path",
    "vocabulary",
]


def reference_model_path() -> Path:
    """Folder of the bundled checkpoint, ready for `from_pretrained`."""
    return Path(__file__).parent / "weights"


def video_model_path() -> Path:
    """Folder of the bundled checkpoint for clips of 8 frames, ready for `from_pretrained`."""
    return Path(__file__).parent / "video_weights"
