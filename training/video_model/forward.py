"""The language model over clips: frame words between frames, questions that share one clip."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.reference import FRAMES
from training.reference_model.forward import LM, Weights, lm_forward, project, question_bias
from training.reference_model.model import PATCHES
from training.reference_model.vocab import BOS
from training.video_model.vocab import WORD_ID

#: Places of one frame in the prompt: its number and its patches.
STRIDE = 1 + PATCHES
#: Position id of the question's first word in the full prompt.
QUESTION_START = 1 + FRAMES * STRIDE


def answer_clips(
    w: Weights,
    patches: Tensor,
    index: Tensor,
    words: Tensor,
    compact: bool,
    taps: list[Tensor] | None = None,
) -> Tensor:
    """Hidden states `[B, Q, L, D]` of questions that share one clip.

    Args:
        w: weights.
        patches: `[B, 8, M, D]` tower features of the kept patches.
        index: `[B, 8, M]` their numbers.
        words: `[B, Q, L]` word ids, right-padded.
        compact: number the tokens without gaps, instead of by their places in the full prompt.
        taps: gets the output `[B, 8, M, D]` of every block at the visual tokens, if given.
    """
    batch, frames, kept, _ = patches.shape
    questions, length = words.shape[1:]
    table = w[LM + "embed_tokens.weight"]
    visual = project(w, patches.flatten(0, 2)).view(batch, frames, kept, -1)
    numbers = table[torch.tensor([WORD_ID[str(t)] for t in range(frames)])]
    numbers = numbers.expand(batch, -1, -1).unsqueeze(2)
    prefix = torch.cat([numbers, visual], 2).flatten(1, 2)
    bos = table[torch.tensor([BOS])].expand(batch, 1, -1)
    inputs = torch.cat([bos, prefix, table[words].flatten(1, 2)], 1)
    position = _prefix_positions(index, compact)
    start = position.shape[1] if compact else QUESTION_START
    asked = (start + torch.arange(length)).repeat(questions).expand(batch, -1)
    bias = question_bias(position.shape[1], questions, length, inputs.dtype)
    blocks: list[Tensor] = []
    hidden = lm_forward(w, inputs, torch.cat([position, asked], 1), bias, blocks)
    if taps is not None:
        begin, end = 1, position.shape[1]
        taps += [x[:, begin:end].view(batch, frames, 1 + kept, -1)[:, :, 1:] for x in blocks]
    return hidden[:, position.shape[1] :].reshape(batch, questions, length, -1)


def _prefix_positions(index: Tensor, compact: bool) -> Tensor:
    """Position ids `[B, 1 + 8 * (1 + M)]` of `<bos>` and the frames."""
    batch, frames, kept = index.shape
    if compact:
        return torch.arange(1 + frames * (1 + kept)).expand(batch, -1)
    begin = (1 + STRIDE * torch.arange(frames)).view(1, -1, 1).expand(batch, -1, 1)
    places = torch.cat([begin, begin + 1 + index], 2).flatten(1)
    return torch.cat([torch.zeros(batch, 1, dtype=torch.long), places], 1)
