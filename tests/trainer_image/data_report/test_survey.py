"""What a survey keeps does not depend on order, and is bounded."""

from __future__ import annotations

import random

from llmtrain_api.data import DataSpec
from llmtrain_trainer.data_report import survey as survey_module
from llmtrain_trainer.data_report.survey import OTHER_LABELS, SAMPLE_CHARACTERS, Survey
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece
from llmtrain_trainer.tokenizer.marks import write_conversation

DATA = DataSpec.model_validate({"sources": [{"uri": "s3://bucket/a/"}, {"uri": "s3://bucket/b/"}]})


def make_piece(text: str, *, source: int = 0, part: Part = Part.TRAIN, label: str = "") -> Piece:
    document = Document(text, "place", source, facts=Facts(label=label))
    return Piece(text=text, part=part, document=document)


def test_sample_is_the_same_in_any_order() -> None:
    pieces = [make_piece(f"text {i}") for i in range(500)]
    samples = []
    for seed in (0, 1):
        survey = Survey(DATA, sample_documents=20)
        shuffled = random.Random(seed).sample(pieces, len(pieces))
        assert list(survey.watch(shuffled)) == shuffled
        samples.append([document.text for document in survey.sample])
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 20


def test_pieces_of_one_document_count_once() -> None:
    document = Document("0123456789", "place", 1)
    pieces = [
        Piece(text="01234567", part=Part.TRAIN, document=document),
        Piece(text="89", part=Part.VALIDATION, document=document),
    ]
    survey = Survey(DATA)
    assert len(list(survey.watch(pieces))) == 2
    assert (survey.documents[1], survey.characters[1]) == (1, 10)
    assert [document.text for document in survey.sample] == ["0123456789"]


def test_what_is_kept_of_a_document_is_short_and_shows_no_marks() -> None:
    long = make_piece("x" * 10 * SAMPLE_CHARACTERS)
    chat = make_piece(write_conversation([("user", "Hi"), ("assistant", "Hello")]))
    survey = Survey(DATA)
    list(survey.watch([long, chat]))
    texts = sorted(document.text for document in survey.sample)
    assert texts == ["user\nHi\nassistant\nHello\n", "x" * SAMPLE_CHARACTERS]


def test_labels_are_counted_by_part_up_to_a_bound() -> None:
    survey = Survey(DATA)
    pieces = [make_piece(f"t{i}", label=f"label {i}") for i in range(survey_module.MAX_LABELS + 5)]
    pieces += [make_piece("v", label="label 1", part=Part.VALIDATION)]
    list(survey.watch(pieces))
    assert survey.labels[Part.VALIDATION] == {"label 1": 1}
    assert survey.labels[Part.TRAIN][OTHER_LABELS] == 5
    assert len(survey.labels[Part.TRAIN]) == survey_module.MAX_LABELS + 1
