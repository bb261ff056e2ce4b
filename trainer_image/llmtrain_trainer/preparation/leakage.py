"""Leakage between the parts of a split: held-out documents that are nearly one of training.

Below: `minhash`, `spool`. Above: `corpus`, for what was put into which part.

Where near-duplicates are left out none are left to leak. Elsewhere documents get few keys, which
find four pairs of five of a similarity of one half and nearly all from 0.7 on, and each pair is
compared: the count is a lower bound without false alarms. All is done from the side of the held-out
documents, of which there are few.
"""

from __future__ import annotations

import numpy as np

from llmtrain_trainer.dataset.leakage_record import LeakageRecord
from llmtrain_trainer.dataset.step_record import RuleExample
from llmtrain_trainer.preparation.duplicates import Numbers, make_comparison
from llmtrain_trainer.preparation.minhash import LEAKAGE_SCHEME
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import MAX_EXAMPLES
from llmtrain_trainer.preparation.words import Hashes

MOST_CHECKED = 10_000
"""Held-out documents, spread evenly over all of them: a share of one in a hundred is known to a
tenth of it then."""


def find_leaks(spool: Spool, keys: Hashes, trained: Numbers, held_out: Numbers) -> LeakageRecord:
    """Return how many held-out documents have a near copy among those that are trained on.

    Args:
        spool: where the documents are.
        keys: of all spooled documents, by `LEAKAGE_SCHEME` [documents, bands].
        trained: numbers of the documents that are trained on.
        held_out: numbers of those that are not.
    """
    step = -(-len(held_out) // MOST_CHECKED) or 1
    checked = held_out[::step]
    measure = make_comparison(spool.read_text, LEAKAGE_SCHEME)
    examples: list[RuleExample] = []
    near_copies = 0
    for number, candidates in zip(checked, list_candidates(keys, trained, checked), strict=True):
        for candidate in candidates:
            if measure(int(candidate), int(number)) >= LEAKAGE_SCHEME.similarity:
                near_copies += 1
                if len(examples) < MAX_EXAMPLES:
                    copy, original = (d.place for d in spool.read([int(number), int(candidate)]))
                    examples.append(RuleExample(place=copy, measure=f"nearly {original}"))
                break
    return LeakageRecord(documents=len(checked), near_copies=near_copies, examples=examples)


def list_candidates(keys: Hashes, trained: Numbers, checked: Numbers) -> list[Numbers]:
    """Return, for each held-out document, those of training with an equal key, one of a band."""
    found: list[set[int]] = [set() for _ in checked]
    for band in range(keys.shape[1]):
        column = np.ascontiguousarray(keys[:, band])
        order = trained[np.argsort(column[trained], kind="stable")]
        sought = column[checked]
        places = np.searchsorted(column[order], sought)
        within = np.minimum(places, len(order) - 1)
        for index in np.flatnonzero((column[order[within]] == sought) & (sought != 0)):
            found[index].add(int(order[within[index]]))
    return [np.array(sorted(candidates), dtype=np.int64) for candidates in found]
