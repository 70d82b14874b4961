"""Records and the model cards that are made from them, and checkpoints as folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]

#: How the processor is given a picture and a question about it.
PICTURE_INPUTS = (
    'inputs = processor(images=sample.image, text=f"<image> {sample.question}", '
    'return_tensors="pt")'
)


def row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def head(*cells: str) -> list[str]:
    """The first two rows of a Markdown table."""
    return [row(cells), row(["---"] * len(cells))]


def write_record(path: Path, record: Record) -> None:
    """Write a record into the folder of records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def usage_example(loads: str, draws: str, inputs: str, words: int, *also: str) -> str:
    """The part of a card that shows how a bundled model answers a held-out question.

    Args:
        loads: the function of `tokenprune.reference` that gives the model's folder.
        draws: the one that draws held-out samples.
        inputs: the statement that makes `inputs` of `processor` and `sample`.
        words: that `generate` may say.
        also: what else `inputs` takes from `tokenprune.reference`.
    """
    return f"""```python
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration
from tokenprune.reference import {", ".join(sorted((loads, draws, *also)))}

path = {loads}()
model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(path)
sample = {draws}(1)[0]
{inputs}
output = model.generate(**inputs, max_new_tokens={words})
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def card_command(
    text: str | None, made: Callable[[Record], str], record: Path, folder: Path
) -> None:
    """The command that writes a model's card.

    Args:
        text: what the command says of itself.
        made: the card, from the record.
        record: default place of the record.
        folder: of the model, where the card goes by default.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--record", type=Path, default=record)
    parser.add_argument("--card", type=Path, default=folder / "README.md")
    options = parser.parse_args()
    options.card.write_text(made(json.loads(options.record.read_text())))


def export_command(text: str | None, export: Callable[[Path, Path], None], folder: Path) -> None:
    """The command that turns a checkpoint into a folder for `from_pretrained`.

    Args:
        text: what the command says of itself.
        export: writes a checkpoint into a folder.
        folder: where it goes by default.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=folder)
    options = parser.parse_args()
    export(options.checkpoint, options.folder)
