"""What the errors on training, validation and test documents say together.

Below: `intervals`. Above: `findings`.

After Ng (Machine Learning Yearning, chapters 20 to 24 and 40 to 43): the error on what was learned
is what the model cannot do at all (bias), the rise from there to validation is what it learned by
heart (variance), and the rise from validation to test is a sign that choices were made by the
validation part. What people reach is not known here, so how much of the bias could be avoided is
not, either. A rise counts where chance would hardly give it: by the z-test of two shares,
one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy.stats import norm

from llmtrain_api.findings import Part
from llmtrain_trainer.evaluation.classification.intervals import Interval, compute_wilson_interval

LEVEL = 0.01
LARGE = 0.02
"""A rise of error below two points is not worth a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartError:
    """How often a model errs on one part of the data."""

    part: Part
    documents: int
    """That were looked at."""

    errors: int

    @property
    def error_rate(self) -> float:
        """Share of the documents on which it errs."""
        return self.errors / self.documents

    @property
    def interval(self) -> Interval:
        """95 % interval of that."""
        return compute_wilson_interval(self.errors, self.documents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How much more often a model errs on one part than on the one before it."""

    before: PartError
    after: PartError
    p_value: float
    """Of such a rise or a greater one by chance."""

    @property
    def rise(self) -> float:
        """Of the error rate."""
        return self.after.error_rate - self.before.error_rate

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance, and large enough to matter."""
        return self.p_value <= LEVEL and self.rise >= LARGE


def order_parts(errors: Mapping[Part, tuple[int, int]]) -> list[PartError]:
    """Return the errors of the parts in the order train, validation, test.

    Args:
        errors: documents that were looked at, and on how many the model errs.
    """
    return [
        PartError(part=part, documents=errors[part][0], errors=errors[part][1])
        for part in Part
        if part in errors
    ]


def compare_in_order(parts: Sequence[PartError]) -> list[Gap]:
    """Return the gap between each part and the next."""
    return [
        Gap(before=before, after=after, p_value=compute_p_value(before, after))
        for before, after in pairwise(parts)
    ]


def compute_p_value(before: PartError, after: PartError) -> float:
    """Return how probable such a rise is by chance, with one share of errors in both parts."""
    share = (before.errors + after.errors) / (before.documents + after.documents)
    if share in (0.0, 1.0):
        return 1.0
    deviation = math.sqrt(share * (1 - share) * (1 / before.documents + 1 / after.documents))
    return float(norm.sf((after.error_rate - before.error_rate) / deviation))
