"""Qwen2.5-VL and Qwen3-VL in vLLM with a plan in the tower or behind; imported when one runs.

vLLM numbers the tokens of a prompt before it has run anything. Where survivors stand on their grid
is known afterwards, so their positions travel behind their features, in vLLM's own way for
pruned clips (`recompute_mrope_positions`). Positions of the text follow from the grids alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.model_executor.models.vision import run_dp_sharded_mrope_vision_model
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import PromptReplacement
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from tokenprune.errors import BudgetError
from tokenprune.interface.sites import Grid
from tokenprune_adapters.vllm.axes import CHANNELS, moments, placed, read, written
from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.packed_towers import VllmPackedAdapter
from tokenprune_adapters.vllm.planned_tower import PlannedTower, taken
from tokenprune_adapters.vllm.qwen_clips import TimedClips, WordedClips
from tokenprune_adapters.vllm.seen import PIXELS, SeenItems
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.sharing import require_pixels

#: In axes of positions that aren't known yet.
PENDING = -1


class PlannedGrids:
    """How many places the largest picture and clip get; mixed into vLLM's own counting."""

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model."""
        info: Any = self
        return served_grids(info.get_hf_config())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, and clips where they are served."""
        limits: Any = super()
        clips = {} if self.served.frames else {"video": 0}
        return {**limits.get_supported_mm_limits(), **clips}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """What is left of the largest picture, and of the clip of which most is left."""
        info: Any = self
        size = info.get_image_size_with_most_features()
        patch = self.served.unit // self.served.merge
        most = {"image": self.served.left((1, size.height // patch, size.width // patch))}
        if mm_counts.get("video"):
            frames = info.get_hf_processor().video_processor.max_frames
            frames //= info.get_hf_config().vision_config.temporal_patch_size
            most["video"] = self.served.most(
                info.get_max_video_tokens(seq_len, mm_counts), frames, self.words()
            )
        return most

    def words(self) -> int:
        """How many words stand around a frame of a clip at most."""
        return 0


class PlannedQwen25Info(PlannedGrids, Qwen2_5_VLProcessingInfo):
    """Qwen2.5-VL's counts."""


class PlannedFrames(PlannedGrids):
    """Counts of families with words between the frames of a clip."""

    def words(self) -> int:
        """Those of a late moment, and the marks of the frame."""
        info: Any = self
        return len(info.get_tokenizer().encode("<99999.9 seconds>", add_special_tokens=False)) + 2


class PlannedQwen3Info(PlannedFrames, Qwen3VLProcessingInfo):
    """Qwen3-VL's counts."""


class PlannedPrompt(SeenItems):
    """As many placeholders as a plan leaves; mixed into vLLM's own processors."""

    def fits(self, kind: str, seen: Mapping[str, Tensor]) -> bool:
        """Whether pixels `[R, ...]` are those of whole tokens."""
        info: Any = self
        served: ServedGrids = info.info.served
        return served.fits(seen[f"{kind}_grid_thw"].tolist(), seen[PIXELS[kind]].shape)

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        processor: Any = super()
        updates = processor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [
            PromptReplacement(
                modality=whole.modality,
                target=whole.target,
                replacement=partial(self._left, whole, out_mm_kwargs),
            )
            if whole.modality in PIXELS
            else whole
            for whole in updates
        ]

    def _left(self, whole: Any, kwargs: Any, item: int) -> list[int]:
        """The places of what is left of a picture or clip, and of words inside a clip."""
        info: Any = self
        served: ServedGrids = info.info.served
        config, modality = info.info.get_hf_config(), whole.modality
        placeholder = {"image": config.image_token_id, "video": config.video_token_id}[modality]
        try:
            count = served.left(kwargs[modality][item][f"{modality}_grid_thw"].data.tolist())
        except BudgetError as error:  # the server answers the request with it
            raise ValueError(str(error)) from error
        made = whole.replacement(item)
        ids = made if isinstance(made, list) else made.full
        return [placeholder] * (count + sum(one != placeholder for one in ids))


class PlannedQwen25Processor(PlannedPrompt, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's prompts."""


class PlannedQwen3Processor(PlannedPrompt, Qwen3VLMultiModalProcessor):
    """Qwen3-VL's prompts."""


class PlannedItems:
    """Features and positions of what a plan leaves; mixed into vLLM's own models.

    Class attributes:
        tower_adapter: what knows the tower.
    """

    tower_adapter: ClassVar[type[VllmPackedAdapter]] = VllmPackedAdapter
    config: Any
    _planned: Any = None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Build the model, and put a plan that acts inside the tower into it.

        Raises:
            TokenpruneError: the plan can't be served.
        """
        model: Any = super()
        model.__init__(vllm_config=vllm_config, prefix=prefix)
        built: Any = self
        # vLLM builds no tower where no prompt may have pictures or clips
        if self.served.inside is not None and not isinstance(built.visual, StageMissingLayer):
            self._planned = self._with_plan()

    def _with_plan(self) -> Any:
        """The tower with the plan in it, as `_rows` calls it."""
        built: Any = self
        return PlannedTower(built.visual, self.served.plan, self.tower_adapter)

    @cached_property
    def served(self) -> ServedGrids:
        """The plan on this model."""
        return served_grids(self.config)

    def _process_image_input(self, image_input: Any) -> tuple[Tensor, ...]:
        """Rows of all tokens `[N, d]` of every picture, behind a plan in the tower as `laid`."""
        model: Any = super()
        if self._planned is None:
            features: tuple[Tensor, ...] = model._process_image_input(image_input)
            return features
        return self._rows(image_input, "pixel_values", "image_grid_thw")

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        """The same of every clip."""
        model: Any = super()
        if self._planned is None:
            features: tuple[Tensor, ...] = model._process_video_input(video_input)
            return features
        return self._rows(video_input, "pixel_values_videos", "video_grid_thw")

    def _rows(self, given: Any, pixels: str, grids: str) -> tuple[Tensor, ...]:
        require_pixels(given)
        with gpu_sync_allowed():
            # one rank is a case of it, and all ranks get the rows of all items
            rows: tuple[Tensor, ...] = run_dp_sharded_mrope_vision_model(
                self._planned, given[pixels], given[grids].tolist(), rope_type="rope_3d"
            )
        return rows

    def _postprocess_image_embeds_evs(
        self, image_embeds_split: Sequence[Tensor], image_input: Any
    ) -> tuple[Tensor, ...]:
        """What is left of the features `[N, d]` of every picture, its positions behind them."""
        made = []
        for rows, index, grid in self._kept(image_embeds_split, image_input, "image_grid_thw"):
            offsets = placed(index, grid, moments(1, 0, rows.device))
            made.append(torch.cat((rows, written(offsets, rows, clip=False)), dim=-1))
        return tuple(made)

    def _postprocess_video_embeds_evs(
        self, video_embeds_split: Sequence[Tensor], video_input: Any
    ) -> tuple[Tensor, ...]:
        """What stands in the places of every clip, its positions behind it."""
        model: Any = self
        left = self._kept(video_embeds_split, video_input, "video_grid_thw")
        with gpu_sync_allowed():
            return tuple(model._clip(*one, video_input, at) for at, one in enumerate(left))

    def _kept(
        self, split: Sequence[Tensor], given: Any, key: str
    ) -> list[tuple[Tensor, Tensor, Grid]]:
        """Rows that are left of each item, their places, and the grid."""
        require_pixels(given)
        width = self.config.text_config.hidden_size
        grids = given[key].tolist()
        with gpu_sync_allowed():
            left = [
                self.served.kept(rows, grid, width)
                if self._planned is None
                else taken(rows, self.served.left(grid))
                for rows, grid in zip(split, grids, strict=True)
            ]
        return [(*one, self.served.merged(grid)) for one, grid in zip(left, grids, strict=True)]

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[Tensor, int]:
        """Positions `[3, T]` as of whole pictures, and what to add to the number of a new token.

        In places of a picture or clip stand its first position and twice `PENDING`, until what is
        left of it brings its own.
        """
        model: Any = self
        parts, first, done = [], 0, 0
        for one in sorted(mm_features, key=lambda one: one.mm_position.offset):
            start, length = one.mm_position.offset, one.mm_position.length
            patches = one.data[f"{one.modality}_grid_thw"].data.tolist()
            grid = self.served.merged(patches)
            parts.append(torch.arange(first, first + start - done).expand(3, -1))
            first, done = first + start - done, start + length
            marks = torch.tensor([first, PENDING, PENDING])
            parts.append(marks[:, None].expand(-1, length))
            if one.modality == "video":
                first += model._clip_extent(one.data, grid, length - self.served.left(patches))
            else:
                first += max(grid[1:])
        rest = len(input_tokens) - done
        parts.append(torch.arange(first, first + rest).expand(3, -1))
        return torch.cat(parts, dim=1), first + rest - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: Sequence[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """Features alone, and positions `[3, T]` with those that came behind them.

        Args:
            input_ids: `[T]` the whole prompt, which ends with text, as chat templates have it.
            multimodal_embeddings: of what is at hand in this step, or of parts of it.
            mrope_positions: as they were.
            num_computed_tokens: tokens of the prompt in front of this step.
        """
        positions = mrope_positions.clone()
        if not multimodal_embeddings:  # as in every step that decodes
            return [], positions, int(positions.max()) + 1 - len(input_ids)
        with gpu_sync_allowed():
            ids = torch.as_tensor(input_ids, device=positions.device)
            behind = ids[num_computed_tokens:]
            kinds = (self.config.image_token_id, self.config.video_token_id)
            places = [(behind == kind).nonzero()[:, 0] + num_computed_tokens for kind in kinds]
            for features in multimodal_embeddings:
                offsets, clip = read(features[:, -CHANNELS:].to(positions.device))
                mine, places[clip] = places[clip].tensor_split([len(features)])
                # an engine that starts a prompt again gives what has its positions already
                new = positions[-1, mine] == PENDING
                found = positions[0, mine[new]] + offsets[:, new]
                positions[:, mine[new]] = found.to(positions.dtype)
            delta = int(positions.max()) + 1 - len(ids)
        return [features[:, :-CHANNELS] for features in multimodal_embeddings], positions, delta


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen25Processor, info=PlannedQwen25Info, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class TokenpruneQwen2_5_VLForConditionalGeneration(
    TimedClips, PlannedItems, Qwen2_5_VLForConditionalGeneration
):
    """vLLM's Qwen2.5-VL, whose features are what the plan leaves."""


@MULTIMODAL_REGISTRY.register_processor(
    PlannedQwen3Processor, info=PlannedQwen3Info, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class TokenpruneQwen3VLForConditionalGeneration(
    WordedClips, PlannedItems, Qwen3VLForConditionalGeneration
):
    """vLLM's Qwen3-VL, whose features are what the plan leaves, at every depth."""


def served_grids(config: Any) -> ServedGrids:
    """The plan of a config whose pictures are grids of tokens."""
    served = served_plan(config)
    assert isinstance(served, ServedGrids)
    return served
