"""At most so much text of a source, chosen by the hash of its documents.

Below: `spool`. Above: `corpus`.

The choice follows from each document and the cap, not from the order of the documents; with a
higher cap all documents of a lower one stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.words import mix_bits


def drop_surplus(
    spool: Spool, numbers: NDArray[np.int64], caps: Sequence[int | None]
) -> tuple[NDArray[np.int64], Tally]:
    """Return the documents that stay within the caps of their sources.

    Args:
        spool: where the documents are.
        numbers: the documents to look at, ascending.
        caps: characters of each source; None: all of it.
    """
    lengths, sources = spool.lengths[numbers], spool.sources[numbers]
    # Mixed, since a digest itself decides which side of the split a document is on.
    draws = mix_bits(spool.digests[numbers].view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64))
    stays = np.ones(len(numbers), dtype=np.bool_)
    for source, cap in enumerate(caps):
        if cap is not None:
            members = np.flatnonzero(sources == source)
            ordered = members[np.argsort(draws[members], kind="stable")]
            stays[ordered[np.cumsum(lengths[ordered]) > cap]] = False
    tally = Tally("reduce")
    tally.documents_in, tally.documents_out = len(numbers), int(stays.sum())
    tally.characters_in, tally.characters_out = int(lengths.sum()), int(lengths[stays].sum())
    if not stays.all():
        tally.counts["above the source's maxCharacters"] = int((~stays).sum())
        tally.examples["above the source's maxCharacters"] = []
    return numbers[stays], tally
