"""Tiny dual encoders on disk, fitted to tell solid colours apart, with pictures of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, normalize

from tests import models
from tests.models import IMAGE, PATCH

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 190, 40),
    "blue": (40, 50, 220),
    "yellow": (230, 220, 40),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
NAMES = tuple(COLOURS)
PROMPTS = ("a photo of a {}.", "the {} one")
LENGTH = 16
STEPS = 60


def save_clip(folder: Path, *, fitted: bool = True) -> Path:
    """A CLIP with its processor.

    Args:
        folder: where.
        fitted: whether it has learned the colours.
    """
    from transformers import CLIPImageProcessor, CLIPProcessor

    size = {"height": IMAGE, "width": IMAGE}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=size)
    return _saved(folder, models.clip, CLIPProcessor(images, tokenizer()), fitted)


def save_siglip(folder: Path) -> Path:
    """A SigLIP with its processor."""
    from transformers import SiglipImageProcessor, SiglipProcessor

    images = SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE})
    return _saved(folder, models.siglip, SiglipProcessor(images, tokenizer()))


def save_siglip2(folder: Path) -> Path:
    """A SigLIP 2 that takes patches, not fitted, with its processor."""
    from transformers import Siglip2ImageProcessor, Siglip2Processor

    images = Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=models.PATCHES)
    models.siglip2().save_pretrained(folder)
    Siglip2Processor(images, tokenizer()).save_pretrained(folder)
    return folder


def tokenizer(lower: bool = True) -> Any:
    """Words of the prompts and colours, with a first and a last token.

    Args:
        lower: whether it lower-cases texts by itself.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers import models as kinds
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys(word for prompt in PROMPTS for word in prompt.strip(".").split())
    known = [word for word in words if word != "{}"]
    # letters are for SigLIP 2, whose tokenizer class takes any vocabulary for one of word pieces;
    # the last token has the highest number, as CLIP's does: its embedding is read there
    rows = ["<pad>", "<unk>", "<bos>", *known, *NAMES, *ascii_lowercase, ".", "<eos>"]
    ids = {word: index for index, word in enumerate(dict.fromkeys(rows))}
    core = Tokenizer(kinds.WordLevel(ids, unk_token="<unk>"))
    if lower:
        core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(one, ids[one]) for one in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


def picture(colour: str, seed: int, size: tuple[int, int] = (64, 56)) -> Image.Image:
    """Nearly one colour, with noise."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def save_colours(folder: Path, each: int = 2) -> Path:
    """Pictures, `labels.csv`, `classes.txt` and `captions.jsonl` with two captions a picture."""
    rows, captions = ["file,class_index"], []
    for number in range(each * len(NAMES)):
        colour, name = NAMES[number % len(NAMES)], f"{number}.png"
        picture(colour, 100 + number).save(folder / name)
        rows.append(f"{name},{number % len(NAMES)}")
        captions += [{"image": name, "caption": prompt.format(colour)} for prompt in PROMPTS]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    lines = "".join(json.dumps(row) + "\n" for row in captions)
    (folder / "captions.jsonl").write_text(lines)
    return folder


def _saved(folder: Path, build: Callable[..., Any], processor: Any, fitted: bool = True) -> Path:
    model = build()
    if fitted:
        _fit(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _fit(model: Any, processor: Any) -> None:
    """A few contrastive steps, with every picture's colour in one prompt or the other."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    torch.manual_seed(0)
    for step in range(STEPS):
        shown = [picture(name, 7 * step + place) for place, name in enumerate(NAMES)]
        texts = [PROMPTS[step % 2].format(name) for name in NAMES]
        pixels = processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
        # CLIP's text tower is causal and reads in front of the padding, so it needs no mask either
        padded = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
        ids = processor.tokenizer(texts, **padded)["input_ids"]
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        read = model.get_text_features(input_ids=ids).pooler_output
        logits = 10 * normalize(seen, dim=-1) @ normalize(read, dim=-1).T
        target = torch.arange(len(NAMES))
        loss = cross_entropy(logits, target) + cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
