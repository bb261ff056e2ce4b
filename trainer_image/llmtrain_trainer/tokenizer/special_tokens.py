"""The special tokens that objectives need beside the end of text.

Below: the contract, the `tokenizers` library. Above: `tokenization` adds them while data is
prepared, `shards` keeps their numbers with the dataset, `objective` uses them.

They are added only where the job's objective needs them: a vocabulary is a layer of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from tokenizers import AddedToken, Tokenizer

from llmtrain_api.base import Model
from llmtrain_api.objective import MAX_SPANS, Objective
from llmtrain_trainer.tokenizer.marks import TURN_END

MASK = "<|mask|>"
PADDING = "<|pad|>"
START = "<|start|>"
"""Before each text that is classified."""

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(MAX_SPANS))
"""Stand for spans that were cut out; the names are T5's."""

OTHER_NAMES = {
    MASK: ("[MASK]", "<mask>"),
    PADDING: ("[PAD]", "<pad>"),
    START: ("[CLS]", "<s>"),
}
"""What other tokenizers call them."""

OBJECTIVE_TOKENS = {
    Objective.CAUSAL: (),
    Objective.MASKED: (PADDING, MASK),
    Objective.SPAN_CORRUPTION: (PADDING, *SENTINELS),
    Objective.CLASSIFICATION: (PADDING, START),
    Objective.SEQUENCE_TO_SEQUENCE: (PADDING,),
}


class SpecialTokens(Model):
    """The numbers of special tokens, of those that a tokenizer has."""

    mask: int | None = None
    padding: int | None = None
    start: int | None = None
    sentinels: list[int] = Field(default_factory=list)
    """All that there are, in order, or none."""

    turn_end: int | None = None
    """What ends a turn of a conversation."""


def add_lacking_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Add those of `names` that the tokenizer has under no name, behind its vocabulary."""
    lacking = [name for name in names if find_name(tokenizer, name) is None]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in lacking]
    )


def find_name(tokenizer: Tokenizer, name: str) -> str | None:
    """Return what the tokenizer calls a special token; None where it has none such."""
    names = (name, *OTHER_NAMES.get(name, ()))
    return next((each for each in names if tokenizer.token_to_id(each) is not None), None)


def find_special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Return the numbers of those that the tokenizer has."""

    def find(name: str) -> int | None:
        found = find_name(tokenizer, name)
        return None if found is None else tokenizer.token_to_id(found)

    sentinels = [number for name in SENTINELS if (number := find(name)) is not None]
    return SpecialTokens(
        mask=find(MASK),
        padding=find(PADDING),
        start=find(START),
        turn_end=find(TURN_END),
        sentinels=sentinels if len(sentinels) == len(SENTINELS) else [],
    )
