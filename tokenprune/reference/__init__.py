"""The bundled reference models and the procedural data of their training and measurement."""

from __future__ import annotations

from pathlib import Path

from tokenprune.reference.clip import FRAMES, ClipScene, Mover, sample_clip
from tokenprune.reference.clip_heldout import ClipSample, heldout_clips, iter_heldout_clips
from tokenprune.reference.clip_questions import CLIP_TYPES, ask_clip, clip_prompt, clip_words
from tokenprune.reference.clip_render import RenderedClip, render_clip
from tokenprune.reference.detail_heldout import (
    DetailSample,
    heldout_details,
    iter_heldout_details,
)
from tokenprune.reference.detail_questions import DETAIL_TYPES, ask_detail, detail_words
from tokenprune.reference.detail_render import detail_textures, render_detail
from tokenprune.reference.detail_scene import DetailScene, sample_detail_scene
from tokenprune.reference.heldout import Sample, heldout_samples, iter_heldout
from tokenprune.reference.questions import TYPES, SceneQuestion, ask_each, vocabulary
from tokenprune.reference.render import Rendered, Textures, render
from tokenprune.reference.scene import Item, Scene, sample_scene

__all__ = [
    "CLIP_TYPES",
    "DETAIL_TYPES",
    "FRAMES",
    "TYPES",
    "ClipScene",
    "ClipSample",
    "DetailSample",
    "DetailScene",
    "Item",
    "Mover",
    "SceneQuestion",
    "Rendered",
    "RenderedClip",
    "Sample",
    "Scene",
    "Textures",
    "ask_clip",
    "ask_detail",
    "ask_each",
    "clip_prompt",
    "clip_words",
    "detail_model_path",
    "detail_textures",
    "detail_words",
    "heldout_clips",
    "heldout_details",
    "heldout_samples",
    "iter_heldout",
    "iter_heldout_clips",
    "iter_heldout_details",
    "reference_model_path",
    "render",
    "render_clip",
    "render_detail",
    "sample_clip",
    "sample_detail_scene",
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


def detail_model_path() -> Path:
    """Folder of the bundled checkpoint for detail pictures, ready for `from_pretrained`."""
    return Path(__file__).parent / "detail_weights"
