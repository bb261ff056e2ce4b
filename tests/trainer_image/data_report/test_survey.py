"""What a survey counts is bounded."""

from __future__ import annotations

from llmtrain_api.data import DataSpec
from llmtrain_trainer.data_report import survey as survey_module
from llmtrain_trainer.data_report.survey import OTHER_LABELS, Survey
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece

DATA = DataSpec.model_validate({"sources": [{"uri": "s3://bucket/a/"}, {"uri": "s3://bucket/b/"}]})


def make_piece(text: str, *, source: int = 0, part: Part = Part.TRAIN, label: str = "") -> Piece:
    document = Document(text, "place", source, facts=Facts(label=label))
    return Piece(text=text, part=part, document=document)


def test_pieces_of_one_document_count_once() -> None:
    document = Document("0123456789", "place", 1)
    pieces = [
        Piece(text="01234567", part=Part.TRAIN, document=document),
        Piece(text="89", part=Part.VALIDATION, document=document),
    ]
    survey = Survey(DATA)
    assert len(list(survey.watch(pieces))) == 2
    assert (survey.documents[1], survey.characters[1]) == (1, 10)


def test_labels_are_counted_by_part_up_to_a_bound() -> None:
    survey = Survey(DATA)
    pieces = [make_piece(f"t{i}", label=f"label {i}") for i in range(survey_module.MAX_LABELS + 5)]
    pieces += [make_piece("v", label="label 1", part=Part.VALIDATION)]
    list(survey.watch(pieces))
    assert survey.labels[Part.VALIDATION] == {"label 1": 1}
    assert survey.labels[Part.TRAIN][OTHER_LABELS] == 5
    assert len(survey.labels[Part.TRAIN]) == survey_module.MAX_LABELS + 1
