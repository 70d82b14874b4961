"""Write a training checkpoint as an ordinary transformers folder: fp16 model, processor, tokenizer.

`python -m training.video_model.export CHECKPOINT [DIR]`
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlavaProcessor

from tokenprune.reference import video_model_path
from training.reference_model import export as image_export
from training.reference_model.vocab import build_tokenizer
from training.shared.writing import export_command
from training.video_model.model import MAX_POSITIONS, build_model
from training.video_model.vocab import WORD_ID

#: Several images are frames, each behind its number; one image is a picture.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set frames = namespace(seen=0, all=0) %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set frames.all = frames.all + 1 %}{% endif %}"
    "{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}"
    "{% if frames.all > 1 %}{{ frames.seen }} {% endif %}<image> "
    "{% set frames.seen = frames.seen + 1 %}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def build_processor() -> LlavaProcessor:
    """The image model's processor with more words and numbered frames."""
    tokenizer = build_tokenizer(WORD_ID, longest=MAX_POSITIONS)
    return image_export.build_processor(tokenizer, CHAT_TEMPLATE)


def export(checkpoint: Path, folder: Path) -> None:
    """Convert one checkpoint of `train` into a folder for `from_pretrained`."""
    model = build_model(0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    image_export.write(model, build_processor(), folder)


def main() -> None:
    """Command line."""
    export_command(__doc__, export, video_model_path())


if __name__ == "__main__":
    main()
