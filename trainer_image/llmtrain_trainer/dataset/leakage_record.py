"""How far held-out documents are known from training, as the manifest of a dataset keeps it.

Below: `step_record`, for where documents were read. Above: `preparation.leakage` counts, `shards`
has the manifest, `data_report` shows it.
"""

from __future__ import annotations

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_trainer.dataset.step_record import RuleExample

NOTABLE_SHARE = 0.01
"""Of the held-out documents: with more near copies in training, what is measured is memory, too."""


class LeakageRecord(Model):
    """Near copies between what is trained on and what is held out."""

    documents: int = Field(ge=0)
    """Held-out ones that were looked at."""

    near_copies: int = Field(ge=0)
    """Those of them of which a near copy is trained on."""

    examples: list[RuleExample] = Field(default_factory=list)
    """The first ones, and what they are copies of."""

    @property
    def is_notable(self) -> bool:
        """Whether it is worth doing something about."""
        return self.near_copies > NOTABLE_SHARE * self.documents
