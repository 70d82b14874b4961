"""Pictures for dual encoders: whole ones, or the patches that SigLIP 2 (NaFlex) takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.errors import DataError
from tokenprune_adapters.loaders.checkpoints import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image


class SizedPictures:
    """Pictures of one size.

    Args:
        processor: the checkpoint's image processor.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def inputs(self, pictures: Sequence[Image]) -> dict[str, Tensor]:
        """`pixel_values` `[B, 3, H, W]`."""
        return {"pixel_values": self._processed(pictures)["pixel_values"]}

    def seen(self, picture: Image) -> Image:
        """The picture as it reaches the encoder."""
        return self._drawn(self.inputs([picture])["pixel_values"][0])

    def _processed(self, pictures: Sequence[Image]) -> Any:
        shown = [picture.convert("RGB") for picture in pictures]
        return self.processor(images=shown, return_tensors="pt")

    def _drawn(self, pixels: Tensor) -> Image:
        return to_picture(pixels, self.processor.image_mean, self.processor.image_std)


class PatchPictures(SizedPictures):
    """Pictures cut into patches, as many as their shape asks for, without padding."""

    def inputs(self, pictures: Sequence[Image]) -> dict[str, Tensor]:
        """`pixel_values` `[B, h * w, 3 * P * P]` and `spatial_shapes` `[B, 2]`.

        The padding that the processor adds is cut off again; the encoder masks it, so that
        changes nothing.

        Raises:
            DataError: the pictures come to different shapes.
        """
        found = self._processed(pictures)
        shapes = found["spatial_shapes"]
        if len(set(map(tuple, shapes.tolist()))) > 1:
            raise DataError(
                "the pictures of a batch have different shapes, which a pruned call can't hold.",
                where="pictures",
                remedy="Use a batch size of 1, or pictures of one shape.",
            )
        count = int(shapes[0].prod())
        return {"pixel_values": found["pixel_values"][:, :count], "spatial_shapes": shapes}

    def seen(self, picture: Image) -> Image:
        """The picture put together from its patches."""
        inputs = self.inputs([picture])
        height, width = inputs["spatial_shapes"][0].tolist()
        side = int(self.processor.patch_size)
        patches = inputs["pixel_values"][0].view(height, width, side, side, 3)
        return self._drawn(patches.permute(4, 0, 2, 1, 3).reshape(3, height * side, width * side))
