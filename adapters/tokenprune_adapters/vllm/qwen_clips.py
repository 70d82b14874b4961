"""Clips of Qwen2.5-VL and Qwen3-VL in vLLM with a plan; imported when an engine runs one.

Frames of Qwen2.5-VL stand one behind another, and positions count seconds. In front of each frame
of Qwen3-VL stands its time, in words. How many tokens each frame keeps is known behind the tower
only, and with it the places of the words: so these travel as embeddings among the tokens, in
vLLM's own way for pruned clips, and the prompt has placeholders in all places of the clip.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from vllm.model_executor.models.qwen3_vl import Qwen3VLMultiModalProcessor

from tokenprune.interface.sites import Grid
from tokenprune_adapters.vllm.axes import Words, moments, placed, written
from tokenprune_adapters.vllm.sharing import words_of


class TimedClips:
    """Clips whose positions count seconds; mixed into vLLM's Qwen2.5-VL."""

    config: Any

    def _clip(
        self, rows: Tensor, index: Tensor, grid: Grid, video_input: Any, number: int
    ) -> Tensor:
        """What stands in a clip's places, with positions behind it, `[K, d + CHANNELS]`.

        Args:
            rows: `[K, d]` what is left of the clip.
            index: `[K]` the places that they hold.
            grid: merged tokens (t, h, w).
            video_input: of all clips of a pass.
            number: of the clip among them.
        """
        seconds = video_input.get("second_per_grid_ts")
        starts = moments(grid[0], self._interval(seconds, number), rows.device)
        return torch.cat((rows, written(placed(index, grid, starts), rows, clip=True)), dim=-1)

    def _clip_extent(self, data: Any, grid: Grid, words: int) -> int:
        """Positions from a clip's first place to the text behind it.

        Args:
            data: of the clip, as vLLM's processor made it.
            grid: merged tokens (t, h, w).
            words: how many there are between the frames.
        """
        seconds = data.get("second_per_grid_ts")
        interval = self._interval(None if seconds is None else seconds.data[None], 0)
        return max(int(moments(grid[0], interval)[-1, 0]) + 1, *grid[1:])

    def _interval(self, seconds: Any, number: int) -> float:
        """Positions from one frame to the next."""
        told = 1.0 if seconds is None else float(seconds[number])
        # Qwen2-VL counts frames
        return told * float(getattr(self.config.vision_config, "tokens_per_second", 1))


class WordedClips:
    """Clips with times between the frames, in words; mixed into vLLM's Qwen3-VL."""

    config: Any

    def _clip(
        self, rows: Tensor, index: Tensor, grid: Grid, video_input: Any, number: int
    ) -> Tensor:
        """As of `TimedClips`, with rows of words among the frames."""
        model: Any = self
        frames = [self._words(moment) for moment in video_input["timestamps"][number]]
        ids = torch.tensor([one for frame in frames for one in frame], device=rows.device)
        words = Words.around([len(frame) for frame in frames], max(grid[1:]), rows.device)
        said = words_of(model.get_language_model())(ids).to(rows)
        # nothing is added to words at other depths
        said = pad(said, (0, rows.shape[1] - said.shape[1]))
        offsets = torch.cat((placed(index, grid, words.starts), words.offsets))
        order = words.order(index, grid)
        standing = torch.cat((rows, said))[order]
        return torch.cat((standing, written(offsets[order], rows, clip=True)), dim=-1)

    def _clip_extent(self, data: Any, grid: Grid, words: int) -> int:
        """As of `TimedClips`."""
        return words + grid[0] * max(grid[1:])

    def _words(self, moment: float) -> list[int]:
        """Ids of the words in front of a frame, and of the one behind it."""
        model: Any = self
        made = Qwen3VLMultiModalProcessor.get_video_repl(
            tokens_per_frame=[0],
            timestamps=[moment],
            tokenizer=model._tokenizer,
            vision_start_token_id=self.config.vision_start_token_id,
            vision_end_token_id=self.config.vision_end_token_id,
            video_token_id=self.config.video_token_id,
        )
        return list(made.full)
