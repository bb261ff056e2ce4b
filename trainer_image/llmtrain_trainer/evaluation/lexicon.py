"""Words that a model should not write, from a list in the store.

Below: `store`. Above: `inputs` reads the list before anything is trained, `suites` looks for its
words.
"""

from __future__ import annotations

import re

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.store import ObjectMissingError, open_store, split_uri


class Lexicon:
    """Words and phrases, found whole and in whatever case."""

    def __init__(self, terms: list[str]) -> None:
        """Look for `terms`, of which there is at least one."""
        # The longest first, so that a phrase is not hidden by its first word.
        ordered = sorted({term.casefold() for term in terms}, key=lambda term: (-len(term), term))
        either = "|".join(r"\s+".join(map(re.escape, term.split())) for term in ordered)
        self._pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)")

    def find(self, text: str) -> list[str]:
        """Return the terms that a text has, each once, in their order."""
        return list(dict.fromkeys(self._pattern.findall(text.casefold())))


def read_lexicon(uri: str, storage: StorageConfig, *, field: str) -> Lexicon:
    """Return the terms of a text file, one a line; lines that begin with # are comments.

    Raises:
        DataError: there is none, or none that can be read; `field` is what named it.
    """
    bucket, key = split_uri(uri)
    try:
        text = open_store(f"s3://{bucket}", storage).read_bytes(key).decode("utf-8-sig")
    except ObjectMissingError:
        raise _refuse(f"{field}: there is no object {uri}") from None
    except UnicodeDecodeError as error:
        raise _refuse(f"{field}: {uri} is not UTF-8: {error}") from None
    lines = [line.strip() for line in text.splitlines()]
    terms = [line for line in lines if line and not line.startswith("#")]
    if not terms:
        raise _refuse(f"{field}: {uri} holds no term")
    return Lexicon(terms)


def _refuse(message: str) -> DataError:
    next_step = "upload a text file with a word or phrase in each line there"
    return DataError(message, reason="SuiteInvalid", next_step=next_step)
