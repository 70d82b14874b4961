"""Write a training checkpoint as an ordinary transformers folder: fp16 model, processor, tokenizer.

`python -m training.reference_model.export CHECKPOINT [DIR]`
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokenprune.reference import reference_model_path
from tokenprune.reference.scene import CANVAS, PATCH
from training.reference_model.model import build_model
from training.reference_model.vocab import BOS, EOS, PAD, build_tokenizer
from training.shared.writing import export_command

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def build_processor(
    tokenizer: PreTrainedTokenizerFast | None = None,
    template: str = CHAT_TEMPLATE,
    canvas: int = CANVAS,
) -> LlavaProcessor:
    """The processor: square pictures scaled to -1..1, and the word tokenizer.

    Args:
        tokenizer: default: the image model's.
        template: how the parts of a message become a prompt.
        canvas: pixels a side of the pictures.
    """
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": canvas},
        crop_size={"height": canvas, "width": canvas},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer or build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def write(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write model, as fp16, and processor into a folder for `from_pretrained`."""
    model = model.half()
    model.generation_config.update(
        do_sample=False, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def export(checkpoint: Path, folder: Path) -> None:
    """Convert one checkpoint of `train` into a folder for `from_pretrained`."""
    model = build_model(0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    write(model, build_processor(), folder)


def main() -> None:
    """Command line."""
    export_command(__doc__, export, reference_model_path())


if __name__ == "__main__":
    main()
