"""Train the video model: `python -m training.video_model.train --seed 0 --out DIR`."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tokenprune.reference import CLIP_TYPES
from training.reference_model import choose
from training.reference_model.forward import logits
from training.reference_model.optimiser import Optimisers, Rates
from training.reference_model.vocab import EOS
from training.video_model.data import ClipBatch, clip_batches
from training.video_model.forward import answer_clips
from training.video_model.model import build_model

log = logging.getLogger("video_model")

STEPS, CLIPS, QUESTIONS = 3000, 24, 8
#: How often a batch is used, each time with other tokens; looking at clips is what costs.
REPLAYS = 3
#: Batches among which replayed ones are drawn.
MEMORY = 48
RATES = Rates(2e-3, 1.5e-3)
EOS_WEIGHT = 0.2
#: Tokens kept of every frame, log-uniform between these.
FEWEST, MOST = 6, 40
BLIND_SHARE, SWAP_SHARE, MERGE_SHARE, COMPACT_SHARE = 0.1, 0.8, 0.25, 0.2
LOG_EVERY, SAVE_EVERY = 25, 100


class Trainer:
    """The model and the random choices of training."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps
        self.model = build_model(seed)
        self.random = Generator().manual_seed(seed)
        learned = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.optimisers = Optimisers([(learned, RATES)], steps)

    def weights(self) -> dict[str, Tensor]:
        """The parameters in bfloat16, still connected to their fp32 masters."""
        return {name: p.bfloat16() for name, p in self.model.named_parameters()}

    def chance(self, share: float) -> bool:
        """Whether an event of this probability happens."""
        return float(torch.rand((), generator=self.random)) < share

    def thinned(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Features `[B, 8, M, D]` and patch numbers `[B, 8, M]` that the language model gets."""
        clips, frames, have = batch.index.shape
        patches, index = batch.patches.flatten(0, 1), batch.index.flatten(0, 1)
        owner, ground = batch.owner.flatten(0, 1), ~batch.touched.flatten(0, 1)
        blind = self.chance(BLIND_SHARE)
        if blind or self.chance(SWAP_SHARE):
            # whole clips further, so that no frame of the same clip is looked at
            order = torch.arange(clips).roll(
                1 + int(torch.randint(clips - 1, (), generator=self.random))
            )
            other = batch.patches[order].flatten(0, 1)
            fits = ground & ground.view(clips, frames, have)[order].flatten(0, 1)
            patches = torch.where(fits.unsqueeze(-1), other, patches)
        count = choose.log_uniform(FEWEST, MOST, self.random)
        if blind:
            keep = choose.top_sorted(torch.rand(index.shape, generator=self.random), count)
        else:
            keep = choose.informed(owner, count, self.random)
        merge = self.chance(MERGE_SHARE)
        kept = choose.average_into(patches, keep) if merge else choose.gather_tokens(patches, keep)
        shape = (clips, frames, count)
        return kept.view(*shape, -1), index.gather(1, keep).view(shape)

    def step(self, number: int, batch: ClipBatch) -> dict[str, float]:
        """One update; the loss and accuracies by type."""
        w = self.weights()
        patches, index = self.thinned(batch)
        hidden = answer_clips(w, patches, index, batch.words, self.chance(COMPACT_SHARE))
        at = batch.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
        said = logits(w, hidden.gather(2, at).squeeze(2)).float()
        after = logits(w, hidden.gather(2, at + 1).squeeze(2)).float()
        loss = F.cross_entropy(said.flatten(0, 1), batch.answer.flatten())
        stop = torch.full_like(batch.answer, EOS)
        loss = loss + EOS_WEIGHT * F.cross_entropy(after.flatten(0, 1), stop.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers.step(number)
        right = (said.argmax(-1) == batch.answer).float()
        scores = {"loss": float(loss.detach()), "all": float(right.mean())}
        for kind, name in enumerate(CLIP_TYPES):
            asked = batch.type == kind
            if asked.any():
                scores[name] = float(right[asked].mean())
        return scores

    def run(self, out: Path) -> None:
        """All steps; `out/partial.pt` holds a look at the model while it runs."""
        memory: list[ClipBatch] = []
        meter = Meter(self.steps)
        fresh = -(-self.steps // REPLAYS)
        frozen = {name: p.detach() for name, p in self.weights().items()}
        with clip_batches(frozen, self.seed, CLIPS, QUESTIONS, fresh) as stream:
            for number in range(self.steps):
                if number % REPLAYS == 0:
                    memory = [*memory[-MEMORY + 1 :], next(stream)]
                    batch = memory[-1]
                else:
                    pick = int(torch.randint(len(memory), (), generator=self.random))
                    batch = memory[pick]
                meter.add(number, self.step(number, batch))
                if (number + 1) % SAVE_EVERY == 0:
                    torch.save(self.model.state_dict(), out / "partial.pt")
        torch.save(self.model.state_dict(), out / "video.pt")


class Meter:
    """Running means, written to the log now and then."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begin = steps, time.perf_counter()
        self.sums: dict[str, list[float]] = {}

    def add(self, step: int, scores: dict[str, float]) -> None:
        """Take in one step."""
        for name, value in scores.items():
            self.sums.setdefault(name, []).append(value)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == self.steps:
            means = " ".join(f"{n} {sum(v) / len(v):.3f}" for n, v in self.sums.items())
            rate = (step + 1) * CLIPS / (time.perf_counter() - self.begin)
            log.info("%d/%d %.1f clips/s %s", step + 1, self.steps, rate, means)
            self.sums.clear()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    Trainer(options.seed, max(2, round(STEPS * options.scale))).run(options.out)


if __name__ == "__main__":
    main()
