"""timm's VisionTransformer and Eva: ViT, DeiT, DINO, SigLIP, EVA-02 and PE shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.calls import Arguments, Given
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import EncoderSpec
from tokenprune_adapters.shared.pooling import PoolWeights, scaled_for_mean
from tokenprune_adapters.shared.refusals import refuse_dropout, refuse_unrun, require_exact
from tokenprune_adapters.shared.rotary import rotated, rotated_pairs
from tokenprune_adapters.shared.signatures import check_library
from tokenprune_adapters.timm import vit_names
from tokenprune_adapters.timm.parts import Parts

_PARALLEL = "its MLP runs beside its attention, so there is no place between the two"
_DIFFERENTIAL = "its attention is the difference of two softmaxes, so scores mean something else"
_REASONS = {
    "ParallelScalingBlock": _PARALLEL,
    "DiffParallelScalingBlock": _PARALLEL,
    "DiffAttention": _DIFFERENTIAL,
}


class TimmVitAdapter(EncoderAdapter):
    """Every timm model that is a VisionTransformer or an Eva with blocks this adapter knows.

    Supported blocks: Block (also with layer scale, query-key norm, scale norm, output gate, any
    MLP), ResPostBlock, ParallelThingsBlock (the heads of its attentions are joined), EvaBlock and
    EvaBlockPostNorm (a token is rotated by the place that it holds: a merged one by its anchor's).
    Average pooling is weighted by size; attention pooling reads the tokens that are left.
    transformers' wrappers around such a model are served as the model inside.
    """

    name: ClassVar[str] = "timm"
    claims: ClassVar[tuple[str, ...]] = vit_names.MODELS

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model, or the one inside of a wrapper, is one this adapter serves."""
        return super().fits(vit_names.unwrapped(model))

    def __init__(self, model: nn.Module) -> None:
        """Check the blocks.

        Raises:
            UnsupportedModelError: a block, an attention or a subclass whose forward is unknown.
        """
        vit: Any = vit_names.unwrapped(model)
        super().__init__(vit)
        foreign = vit_names.foreign_forward(vit)
        if foreign is not None:
            raise UnsupportedModelError(
                f"'{foreign}' replaces the forward of VisionTransformer.",
                where=type(vit).__name__,
                remedy="Supported: timm's VisionTransformer, VisionTransformerDistilled and Eva.",
            )
        self._blocks: list[nn.Module] = list(vit.blocks)
        for number, block in enumerate(self._blocks):
            where = f"{type(vit).__name__}, block {number}"
            require_exact(block, where, vit_names.BLOCKS, _REASONS)
            for branch in vit_names.branches(block):
                require_exact(
                    branch.attention, f"{where}, attention", vit_names.ATTENTIONS, _REASONS
                )
        check_library("timm", vit_names.relied_on(vit))
        self._weights, self._run = PoolWeights(), Parts()
        self._spec = self._describe(vit, None if vit is model else model)

    def _describe(self, vit: Any, wrapper: nn.Module | None) -> EncoderSpec:
        class_token = vit.cls_token is not None
        return EncoderSpec(
            entry=vit,
            blocks=self._blocks,
            used=len(self._blocks),
            prefix=int(vit.num_prefix_tokens),
            class_token=class_token,
            grid=(1, *(vit_names.default_grid(vit) or (1, 1))),
            width=int(vit.embed_dim),
            passes=vit_names.PASSES,
            refused=vit_names.without_place(vit),
            caller=wrapper,
        )

    def spec(self) -> EncoderSpec:
        """The encoder as data; entry is the whole model, whose pooling belongs to the call."""
        return self._spec

    def call_grid(self, args: tuple[Any, ...], kwargs: Arguments) -> Grid:
        """The grid of the given pictures.

        Raises:
            UnsupportedCallError: an attention mask, causal attention, random patch dropping or
                gradient checkpointing.
        """
        problem = self._problem(args, kwargs)
        if problem:
            raise UnsupportedCallError(
                f"a pruned encoder can't run with {problem}.",
                where=type(self.model).__name__,
                remedy="Switch it off, or detach the plan for this call.",
            )
        pixels = args[0] if args else kwargs["x"]
        return (1, *vit_names.grid_of(self.model, pixels.shape[-2], pixels.shape[-1]))

    def _problem(self, args: tuple[Any, ...], kwargs: Arguments) -> str:
        given = {**dict(zip(("x", "attn_mask", "is_causal"), args, strict=False)), **kwargs}
        if given.get("attn_mask") is not None:
            return "an attention mask"
        if given.get("is_causal"):
            return "causal attention"
        if vit_names.drops_patches(self.model):
            return "random patch dropping (patch_drop_rate) in training mode"
        return "gradient checkpointing" if vit_names.recomputes(self.model) else ""

    def heads(self, block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of all attentions of the block, `[B, T, D]` -> three `[B, H, T, d]`.

        Raises:
            UnsupportedCallError: training with dropout on attention weights, or something hangs on
                the attention, which isn't called.
        """
        branches = vit_names.branches(block)
        for branch in branches:
            refuse_unrun(branch.attention, block)
        if block.training:
            active = vit_names.attention_dropout(block)
            refuse_dropout(active, self.model, "Build the model with attn_drop_rate=0")
        if len(branches) == 1:
            return vit_names.qkv(branches[0], hidden, self._run)
        parts = [vit_names.qkv(branch, hidden, self._run) for branch in branches]
        query, key, value = (torch.cat(same, dim=1) for same in zip(*parts, strict=True))
        return query, key, value

    def arguments(self, args: tuple[Any, ...], kwargs: Arguments, index: Tensor) -> Given:
        """Rotary rows of all patches become those of the ones left."""
        rope = kwargs.get(vit_names.ROTARY)
        if rope is None:
            return args, kwargs
        return args, {**kwargs, vit_names.ROTARY: vit_names.cut(rope, index)}

    def rotate(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        """Rotate the patches of query and key `[B, H, P + K, d]`; the tokens in front stay."""
        rope = kwargs.get(vit_names.ROTARY)
        if rope is None:
            return query, key
        sin, cos = rope.tensor_split(2, dim=-1)
        turn = rotated if vit_names.by_halves(self.model) else rotated_pairs
        front = self.spec().prefix
        made = [
            torch.cat((states[:, :, :front], turn(states[:, :, front:], cos, sin)), dim=2)
            for states in (query, key)
        ]
        return made[0].to(query.dtype), made[1].to(key.dtype)

    def join(self, block: nn.Module, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projections, layer scale, drop path, residual: `[B, T, D]` -> `[B, T, D]`."""
        branches = vit_names.branches(block)
        if len(branches) == 1:
            return hidden + vit_names.project(branches[0], hidden, attended, self._run)
        pairs = zip(branches, attended.chunk(len(branches), dim=1), strict=True)
        return hidden + vit_names.added(
            [vit_names.project(b, hidden, part, self._run) for b, part in pairs]
        )

    def feed_forward(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The MLP half, residual included: `[B, T, D]` -> `[B, T, D]`."""
        chains = vit_names.feed_forward_chains(block)
        if len(chains) == 1:
            return hidden + self._run(chains[0], hidden)
        return hidden + vit_names.added([self._run(chain, hidden) for chain in chains])

    def overrides(self) -> Mapping[tuple[nn.Module, str], Callable[..., Any]]:
        """The sizes' scope, and the pooling where it averages."""
        overrides: dict[tuple[nn.Module, str], Callable[..., Any]] = {
            (self.model, "forward"): self._weights.scoped,
            (self.model, "forward_features"): self._weights.handing_out,
            (self.model, "pool"): self._pool,
        }
        norm = vit_names.averaging_norm(self.model)
        if norm is not None:
            overrides[(norm, "forward")] = self._scaled_output
        return overrides

    def weighted_pool(self, weight: Tensor) -> None:
        """Keep the sizes `[B, T]` until the model pools."""
        self._weights.set(weight)

    def _pool(
        self, original: Callable[..., Tensor], x: Tensor, pool_type: str | None = None
    ) -> Tensor:
        if not self._weights.running():
            self._refuse_unknown(x, pool_type)
            pooled: Tensor = self._weights.taking_back(
                x, partial(self._pool, original), pool_type=pool_type
            )
            return pooled
        weight, vit = self._weights.get(), self.model
        chosen = vit.global_pool if pool_type is None else pool_type
        if weight is None or vit.attn_pool is not None or chosen not in ("avg", "avgmax"):
            return original(x, pool_type=pool_type)
        mean = original(scaled_for_mean(x, weight, vit_names.mean_skip(vit)), pool_type="avg")
        return mean if chosen == "avg" else 0.5 * (original(x, pool_type="max") + mean)

    def _refuse_unknown(self, x: Tensor, pool_type: str | None) -> None:
        """Refuse a mean of tokens whose sizes nobody knows; unpruned ones have size 1."""
        vit, spec = self.model, self._spec
        # a model that takes any size may have left as many of a larger picture
        fixed = not vit_names.takes_any_size(vit)
        whole = spec.prefix + spec.grid[1] * spec.grid[2] if fixed else None
        chosen = vit.global_pool if pool_type is None else pool_type
        plain = vit.attn_pool is None and chosen not in ("avg", "avgmax")
        averages = vit_names.averaging_norm(vit) is not None or not (plain or vit.attn_pool)
        if averages and x.shape[1] != whole and not self._weights.handed_out(x):
            raise UnsupportedCallError(
                f"the mean over these {x.shape[1]} tokens can't be weighted: they aren't what "
                "'forward_features' gave.",
                where=type(vit).__name__,
                remedy="Hand on its very output, call the model, or detach the plan.",
            )

    def _scaled_output(self, original: Callable[..., Tensor], x: Tensor) -> Tensor:
        output, weight = original(x), self._weights.get()
        if weight is None:
            return output
        return scaled_for_mean(output, weight, vit_names.mean_skip(self.model))
