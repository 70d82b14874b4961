"""Train the video model: `python -m training.video_model.train --seed 0 --out DIR`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.reference import CLIP_TYPES
from training.reference_model import choose
from training.reference_model.model import WIDTH
from training.reference_model.optimiser import Optimisers, Rates
from training.reference_model.trainer import Losses, ModelTrainer, Scores, answer_loss, by_type
from training.shared.recipe import Schedule
from training.shared.running import Meter, arguments, train
from training.video_model.data import ClipBatch, DataPlan, clip_batches
from training.video_model.forward import answer_clips
from training.video_model.model import build_model

#: How often a batch is used, each time with other tokens; looking at clips is what costs.
REPLAYS = 3
#: Batches among which replayed ones are drawn.
MEMORY = 48
#: Tokens kept of every frame, log-uniform between these.
FEWEST, MOST = 6, 40
BLIND_SHARE, SWAP_SHARE, MERGE_SHARE, COMPACT_SHARE = 0.1, 0.8, 0.25, 0.2
#: Blocks of the language model that must tell by then, at the tokens of an object, whether it
#: has just come, and how often it has come so far.
ENTRY_BLOCK, VISIT_BLOCK, VISITS = 2, 3, 3


@dataclass(frozen=True, kw_only=True)
class Stage(Schedule):
    """One training stage.

    Attributes:
        data: sizes and mix of the clips.
        rates: peak rates of projector and language model.
        visit_weight: weight of the loss on what visual tokens must tell about coming and going.
    """

    data: DataPlan
    rates: Rates
    visit_weight: float = 0.0


STAGES = (
    Stage(name="clips", steps=3000, data=DataPlan(24, 8), rates=Rates(2e-3, 1.5e-3)),
    # counting how often something comes stays at chance without the dense loss
    Stage(
        name="visits",
        steps=1200,
        data=DataPlan(24, 8, redraw=0.6),
        rates=Rates(1.5e-3, 1e-3),
        visit_weight=0.7,
        stop=700,
    ),
    Stage(name="settle", steps=150, data=DataPlan(24, 8, redraw=0.5), rates=Rates(5e-4, 3e-4)),
)


class Trainer(ModelTrainer[nn.ModuleDict, Stage]):
    """The model and the random choices of training."""

    def __init__(self, seed: int) -> None:
        model = build_model(seed)  # seeds the heads, too
        heads = {"entry": nn.Linear(WIDTH, 2), "visit": nn.Linear(WIDTH, 1 + VISITS)}
        super().__init__(seed, model, nn.ModuleDict(heads))

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

    def step(self, stage: Stage, batch: ClipBatch) -> tuple[Tensor, Scores]:
        """Loss and scores of one step."""
        w = self.weights()
        patches, keep = self.thinned(batch)
        index, taps = batch.index.gather(2, keep), list[Tensor]()
        hidden = answer_clips(w, patches, index, batch.words, self.chance(COMPACT_SHARE), taps)
        loss, right = answer_loss(w, hidden, batch.answer_at, batch.answer)
        scores = {"loss": float(loss.detach())}  # the log tells the loss of answers alone
        if stage.visit_weight:
            dense = self.visit_loss(taps, batch, keep)
            loss, scores["visits"] = loss + stage.visit_weight * dense, float(dense.detach())
        return loss, scores | by_type(right, batch.type, CLIP_TYPES)

    def optimisers(self, stage: Stage) -> Optimisers:
        """Fresh optimisers for a stage."""
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]
        return Optimisers(
            [([(n, p) for n, p in named if p.requires_grad], stage.rates)], stage.steps
        )

    def meter(self, stage: Stage) -> Meter:
        """What writes the stage's log, in clips a second."""
        return Meter(stage.name, stage.taken, stage.data.clips, "clips/s", digits=1)

    def losses(self, stage: Stage, number: int, options: Namespace) -> Losses:
        """The forwards of a stage; most are on clips that an earlier one has seen."""
        memory: list[ClipBatch] = []
        fresh = -(-stage.taken // REPLAYS)
        frozen = {name: p.detach() for name, p in self.weights().items()}
        with clip_batches(frozen, self.seed, stage.data, fresh, number) as stream:
            for step in range(stage.taken):
                if step % REPLAYS == 0:
                    memory = [*memory[-MEMORY + 1 :], next(stream)]
                    batch = memory[-1]
                else:
                    pick = int(torch.randint(len(memory), (), generator=self.random))
                    batch = memory[pick]
                yield self.step(stage, batch)


def _unit(hidden: Tensor) -> Tensor:
    """Hidden states `[..., D]` of mean square one, in fp32."""
    return F.rms_norm(hidden.float(), (WIDTH,))


def main() -> None:
    """Run all stages, resuming after the last one that left a checkpoint."""
    train(arguments(__doc__), Trainer, STAGES)


if __name__ == "__main__":
    main()
