"""What each step did: how much went in and came out, and which rules changed or removed what.

Below: the contract's base model. Above: every step counts here, the dataset's manifest keeps it.

An example names where a document was read and the measure that decided, never its text: records
of a run are read by more people than its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from llmtrain_trainer.dataset.step_record import RuleCount, RuleExample, StepRecord

MAX_EXAMPLES = 3
"""Kept of each rule: the first ones."""


@dataclass(slots=True)
class Tally:
    """Counts of one step, while it works. Tallies of parts add up to that of the whole."""

    step: str
    documents_in: int = 0
    documents_out: int = 0
    documents_changed: int = 0
    characters_in: int = 0
    characters_out: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[RuleExample]] = field(default_factory=dict)

    def count_text(self, before: str, after: str | None) -> None:
        """Count a document by its text before the step and after it; None: it was removed."""
        self.documents_in += 1
        self.characters_in += len(before)
        if after is not None:
            self.documents_out += 1
            self.documents_changed += after is not before and after != before
            self.characters_out += len(after)

    def count_rule(self, place: str, rule: str, measure: str = "", *, times: int = 1) -> None:
        """Count that a rule applied, `times`, to the document that was read at `place`."""
        self.counts[rule] = self.counts.get(rule, 0) + times
        examples = self.examples.setdefault(rule, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(RuleExample(place=place, measure=measure))

    def tell_loss(self) -> str:
        """Say how many documents were left out, and what each rule counted, the first place too."""
        lost = f"{self.step} leaves out {self.documents_in - self.documents_out}"
        rules = [
            f"{rule}: {count}, first {first.place}"
            + (f": {first.measure}" if first.measure else "")
            for rule, count in sorted(self.counts.items())
            for first in self.examples[rule][:1]
        ]
        return f"{lost} of {self.documents_in}" + (f" ({'; '.join(rules)})" if rules else "")

    def add(self, part: Self) -> None:
        """Add the counts of the documents that come behind those counted here."""
        for name in (
            "documents_in",
            "documents_out",
            "documents_changed",
            "characters_in",
            "characters_out",
        ):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        for rule, count in part.counts.items():
            self.counts[rule] = self.counts.get(rule, 0) + count
            examples = self.examples.setdefault(rule, [])
            examples.extend(part.examples[rule][: MAX_EXAMPLES - len(examples)])

    def shift_places(self, shift: Callable[[str], str]) -> None:
        """Put what `shift` makes of the place of each example in its place."""
        for rule, examples in self.examples.items():
            self.examples[rule] = [
                example.model_copy(update={"place": shift(example.place)}) for example in examples
            ]

    @classmethod
    def restore(cls, record: StepRecord) -> Self:
        """Return the tally that `record` was made of."""
        facts = record.model_dump(exclude={"rules"})
        return cls(
            **facts,
            counts={rule: found.count for rule, found in record.rules.items()},
            examples={rule: list(found.examples) for rule, found in record.rules.items()},
        )

    def record(self) -> StepRecord:
        """Return what the manifest says of the step."""
        return StepRecord(
            step=self.step,
            documents_in=self.documents_in,
            documents_out=self.documents_out,
            documents_changed=self.documents_changed,
            characters_in=self.characters_in,
            characters_out=self.characters_out,
            rules={
                rule: RuleCount(count=count, examples=self.examples[rule])
                for rule, count in sorted(self.counts.items())
            },
        )
