"""The parameters of methods that compare visual tokens with the question in CLIP's space."""

from __future__ import annotations

from pydantic import Field

from tokenprune.errors import PlanError
from tokenprune.interface.strategy import StrategyParams
from tokenprune.interface.text_tower import TowerChoice


class TowerParams(StrategyParams):
    """Which text tower reads the question, and how token ids become words."""

    text_tower: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or hub name of the CLIP model that the vision tower is a half of, for "
        "LLaVA-1.5 openai/clip-vit-large-patch14-336. Every plan has to name it.",
    )
    tokenizer: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or hub name of the multimodal LLM's own tokenizer; by default where "
        "the model was loaded from.",
    )

    def tower(self, strategy: str) -> TowerChoice:
        """What the plan says.

        Args:
            strategy: the strategy's name, for the message.

        Raises:
            PlanError: it names no text tower.
        """
        if self.text_tower is None:
            raise PlanError(
                f"'{strategy}' compares visual tokens with the question in the space of a CLIP "
                "text tower, which a multimodal LLM doesn't hold, and the plan names none.",
                where=f"params.text_tower ({strategy})",
                remedy="Write params: {text_tower: ...}, the folder or hub name of the CLIP model "
                "that the vision tower is a half of; for LLaVA-1.5 "
                "openai/clip-vit-large-patch14-336.",
            )
        return TowerChoice(self.text_tower, self.tokenizer)
