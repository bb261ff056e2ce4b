"""Counts of parts add up to those of the whole, with its first examples."""

from __future__ import annotations

from llmtrain_trainer.preparation.tally import MAX_EXAMPLES, Tally


def count(texts: list[tuple[str, str | None]], start: int) -> Tally:
    tally = Tally("step")
    for i, (before, after) in enumerate(texts, start):
        tally.count_text(before, after)
        if after is None:
            tally.count_rule(f"file:{i}", "short", f"{len(before)} characters")
    return tally


def test_parts_add_up_to_the_whole() -> None:
    texts = [("aaa", None), ("bb", "bb"), ("c ", "c"), *[("d", None)] * 9]
    whole = count(texts, 0).record()
    assert (whole.documents_in, whole.documents_out, whole.documents_changed) == (12, 2, 1)
    assert (whole.characters_in, whole.characters_out) == (16, 3)
    assert whole.rules["short"].count == 10
    assert [e.place for e in whole.rules["short"].examples] == ["file:0", "file:3", "file:4"]
    assert len(whole.rules["short"].examples) == MAX_EXAMPLES
    for cut in range(len(texts)):
        parts = count(texts[:cut], 0)
        parts.add(count(texts[cut:], cut))
        assert parts.record() == whole
