"""Write a training checkpoint as an ordinary transformers folder.

`python -m training.detail_model.export CHECKPOINT [DIR]`
"""

from __future__ import annotations

from pathlib import Path

import torch

from tokenprune.reference import detail_model_path
from tokenprune.reference.detail_scene import DETAIL_CANVAS
from training.detail_model.model import MAX_POSITIONS, build_model
from training.detail_model.vocab import WORD_ID
from training.reference_model.export import build_processor, write
from training.reference_model.vocab import build_tokenizer
from training.shared.writing import export_command


def export(checkpoint: Path, folder: Path) -> None:
    """Convert one checkpoint of `train` into a folder for `from_pretrained`."""
    model = build_model(0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    tokenizer = build_tokenizer(WORD_ID, MAX_POSITIONS)
    write(model, build_processor(tokenizer, canvas=DETAIL_CANVAS), folder)


def main() -> None:
    """Command line."""
    export_command(__doc__, export, detail_model_path())


if __name__ == "__main__":
    main()
