"""Train the video model: `python -m training.video_model.train --seed 0 --out DIR`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tokenprune.reference import CLIP_TYPES
from training.reference_model import choose
from training.reference_model.forward import logits
from training.reference_model.model import WIDTH
from training.reference_model.optimiser import Optimisers, Rates
from training.reference_model.vocab import EOS
from training.shared.running import SAVE_EVERY, Meter, arguments, begin, waiting
from training.video_model.data import ClipBatch, DataPlan, clip_batches
from training.video_model.forward import answer_clips
from training.video_model.model import build_model

Scores = dict[str, float]

#: How often a batch is used, each time with other tokens; looking at clips is what costs.
REPLAYS = 3
#: Batches among which replayed ones are drawn.
MEMORY = 48
EOS_WEIGHT = 0.2
#: Tokens kept of every frame, log-uniform between these.
FEWEST, MOST = 6, 40
BLIND_SHARE, SWAP_SHARE, MERGE_SHARE, COMPACT_SHARE = 0.1, 0.8, 0.25, 0.2
#: Blocks of the language model that must tell by then, at the tokens of an object, whether it
#: has just come, and how often it has come so far.
ENTRY_BLOCK, VISIT_BLOCK, VISITS = 2, 3, 3


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        name: also the name of its checkpoint.
        steps: optimiser steps of the rates' schedule.
        data: sizes and mix of the clips.
        rates: peak rates of projector and language model.
        visit_weight: weight of the loss on what visual tokens must tell about coming and going.
        stop: steps after which the stage ends, if before the end of its schedule.
    """

    name: str
    steps: int
    data: DataPlan
    rates: Rates
    visit_weight: float = 0.0
    stop: int | None = None

    @property
    def taken(self) -> int:
        """Steps that the stage takes."""
        return self.steps if self.stop is None else min(self.stop, self.steps)


STAGES = (
    Stage("clips", 3000, DataPlan(clips=24, questions=8), Rates(2e-3, 1.5e-3)),
    # counting how often something comes stays at chance without the dense loss
    Stage("visits", 1200, DataPlan(24, 8, 0.6), Rates(1.5e-3, 1e-3), visit_weight=0.7, stop=700),
    Stage("settle", 150, DataPlan(24, 8, redraw=0.5), Rates(5e-4, 3e-4)),
)


class Trainer:
    """The model and the random choices of training."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.model = build_model(seed)
        self.heads = nn.ModuleDict(
            {"entry": nn.Linear(WIDTH, 2), "visit": nn.Linear(WIDTH, 1 + VISITS)}
        )
        self.random = Generator()

    def weights(self) -> dict[str, Tensor]:
        """The parameters in bfloat16, still connected to their fp32 masters."""
        return {name: p.bfloat16() for name, p in self.model.named_parameters()}

    def chance(self, share: float) -> bool:
        """Whether an event of this probability happens."""
        return float(torch.rand((), generator=self.random)) < share

    def thinned(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Features `[B, 8, M, D]` for the language model, and where in the batch `[B, 8, M]`."""
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
        return kept.view(*shape, -1), keep.view(shape)

    def visit_loss(self, taps: list[Tensor], batch: ClipBatch, keep: Tensor) -> Tensor:
        """Loss of both heads on the kept tokens that belong to an object."""
        there = batch.owner.gather(2, keep) >= 0
        entry, visit = batch.entry.long().gather(2, keep), batch.visit.gather(2, keep)
        told = self.heads["entry"](_unit(taps[ENTRY_BLOCK][there]))
        counted = self.heads["visit"](_unit(taps[VISIT_BLOCK][there]))
        return F.cross_entropy(told, entry[there]) + F.cross_entropy(counted, visit[there])

    def step(self, stage: Stage, number: int, batch: ClipBatch, optimisers: Optimisers) -> Scores:
        """One update; the loss and accuracies by type."""
        w = self.weights()
        patches, keep = self.thinned(batch)
        index, taps = batch.index.gather(2, keep), list[Tensor]()
        hidden = answer_clips(w, patches, index, batch.words, self.chance(COMPACT_SHARE), taps)
        at = batch.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
        said = logits(w, hidden.gather(2, at).squeeze(2)).float()
        after = logits(w, hidden.gather(2, at + 1).squeeze(2)).float()
        loss = F.cross_entropy(said.flatten(0, 1), batch.answer.flatten())
        stop = torch.full_like(batch.answer, EOS)
        loss = loss + EOS_WEIGHT * F.cross_entropy(after.flatten(0, 1), stop.flatten())
        scores = {"loss": float(loss.detach())}
        if stage.visit_weight:
            dense = self.visit_loss(taps, batch, keep)
            loss, scores["visits"] = loss + stage.visit_weight * dense, float(dense.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        optimisers.step(number)
        right = (said.argmax(-1) == batch.answer).float()
        scores["all"] = float(right.mean())
        for kind, name in enumerate(CLIP_TYPES):
            asked = batch.type == kind
            if asked.any():
                scores[name] = float(right[asked].mean())
        return scores

    def optimisers(self, stage: Stage) -> Optimisers:
        """Fresh optimisers for a stage."""
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]
        return Optimisers(
            [([(n, p) for n, p in named if p.requires_grad], stage.rates)], stage.steps
        )

    def load(self, path: Path) -> None:
        """Take in the checkpoint of a finished stage."""
        self.model.load_state_dict(torch.load(path, weights_only=True))

    def run(self, stage: Stage, place: int, out: Path) -> None:
        """Train one stage; `out/partial.pt` holds a look at the model while it runs."""
        self.random.manual_seed(1000 * self.seed + place)
        memory: list[ClipBatch] = []
        meter = Meter(stage.name, stage.taken, stage.data.clips, "clips/s", digits=1)
        optimisers = self.optimisers(stage)
        fresh = -(-stage.taken // REPLAYS)
        frozen = {name: p.detach() for name, p in self.weights().items()}
        with clip_batches(frozen, self.seed, stage.data, fresh, place) as stream:
            for number in range(stage.taken):
                if number % REPLAYS == 0:
                    memory = [*memory[-MEMORY + 1 :], next(stream)]
                    batch = memory[-1]
                else:
                    pick = int(torch.randint(len(memory), (), generator=self.random))
                    batch = memory[pick]
                meter.add(number, self.step(stage, number, batch, optimisers))
                if (number + 1) % SAVE_EVERY == 0:
                    torch.save(self.model.state_dict(), out / "partial.pt")
        torch.save(self.model.state_dict(), out / f"{stage.name}.pt")


def scaled(stage: Stage, factor: float) -> Stage:
    """The same stage with fewer or more steps, for smoke runs."""
    stop = None if stage.stop is None else max(2, round(stage.stop * factor))
    return replace(stage, steps=max(2, round(stage.steps * factor)), stop=stop)


def _unit(hidden: Tensor) -> Tensor:
    """Hidden states `[..., D]` of mean square one, in fp32."""
    return F.rms_norm(hidden.float(), (WIDTH,))


def main() -> None:
    """Run all stages, resuming after the last one that left a checkpoint."""
    options = begin(arguments(__doc__))
    trainer = Trainer(options.seed)
    for place, stage, _ in waiting(STAGES, options.out, trainer.load):
        trainer.run(scaled(stage, options.scale), place, options.out)


if __name__ == "__main__":
    main()
