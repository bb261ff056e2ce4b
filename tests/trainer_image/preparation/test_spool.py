"""What was spooled comes back, all of it or chosen documents."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.spool import Spool

DOCUMENTS = [Document(f"täxt {i}\n" * i, f"s3://b/ä:{i}", i, f"kéy{i % 3}") for i in range(50)]


def test_documents_come_back(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "spool")) as spool:
        for document in DOCUMENTS:
            spool.append(document)
        assert len(spool) == 50
        assert list(spool.read()) == DOCUMENTS
        assert list(spool.read([40, 3, 3, 4])) == [DOCUMENTS[i] for i in (40, 3, 3, 4)]
        assert spool.read_text(40) == DOCUMENTS[40].text
        spool.append(DOCUMENTS[0])
        assert list(spool.read()) == [*DOCUMENTS, DOCUMENTS[0]]
    assert list(tmp_path.iterdir()) == []
