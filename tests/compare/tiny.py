"""Tiny models on disk, as a user has them: a LLaVA folder and a timm checkpoint with pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.models import IMAGE, PATCH, PATCHES, llava_clip
from tokenprune.reference import vocabulary

TIMM = "timm:test_vit"


def save_llava(folder: Path) -> Path:
    """A random LLaVA with a CLIP tower, its processor and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>", ".", "<image>"]
    words = {word: index for index, word in enumerate([*special, *vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    # the last layer, so that four blocks are used: ipcv prunes at block 3 by default
    model = llava_clip(vision_feature_layer=-1)
    assert model.config.image_seq_length == PATCHES
    assert len(words) <= model.config.text_config.vocab_size
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_timm(file: Path) -> Path:
    """Weights of the smallest ViT that timm names."""
    import timm
    from safetensors.torch import save_file

    from tests.models import shaken

    model = shaken(timm.create_model(TIMM.removeprefix("timm:"), pretrained=False))
    save_file(model.state_dict(), file)
    return file


def save_pictures(folder: Path, count: int = 6) -> Path:
    """Noisy gradients, and `labels.csv` beside them."""
    rng = np.random.default_rng(0)
    rows = ["file,class_index"]
    for number in range(count):
        ramp = np.linspace(0, 255, 200)[None, :, None] * rng.random((1, 1, 3))
        noise = rng.integers(0, 40, (180, 200, 3))
        picture = Image.fromarray((0.8 * ramp + noise).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
