"""The steps of `spec.data` between reading and tokens: what is changed, and what is left out.

Below: `base`, `sources`. Above: `data`, which embeds these models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.sources import Source

LENGTHS_RULE = "maxCharacters must be at least minCharacters"

Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$", max_length=3)]


class UnicodeForm(StrEnum):
    """How characters that can be written in several ways are written."""

    NFC = "nfc"
    NFKC = "nfkc"
    KEEP = "keep"


class QualityRules(StrEnum):
    """A published set of heuristics for text of the web."""

    GOPHER = "gopher"
    GOPHER_REPETITION = "gopher-repetition"
    C4 = "c4"
    FINEWEB = "fineweb"


class PrivacyAction(StrEnum):
    """What becomes of personal data."""

    OFF = "off"
    REPORT = "report"
    REPLACE = "replace"
    DROP = "drop"


class PersonalData(StrEnum):
    """A kind of personal data or secret that can be told by its form."""

    EMAIL = "email"
    PHONE = "phone"
    IBAN = "iban"
    CARD = "card"
    IP_ADDRESS = "ip-address"
    NATIONAL_ID = "national-id"
    API_KEY = "api-key"
    PRIVATE_KEY = "private-key"


class NearMethod(StrEnum):
    """How near-duplicates are found."""

    NONE = "none"
    EDITED = "edited"
    FINEWEB = "fineweb"


class Clean(Model):
    """How text is normalised, and which documents are left out for what they are."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.maxCharacters) || self.maxCharacters >= self.minCharacters",
                    LENGTHS_RULE,
                    field="maxCharacters",
                )
            ]
        }
    )

    repair_encoding: bool = True
    """Mends text that was decoded wrongly, as "schÃ¶n" for "schön"."""

    unicode: UnicodeForm = UnicodeForm.NFC
    """nfc: accents joined with their letters; nfkc: ligatures, full-width letters and the like
    written plainly, too; keep: as it is."""

    remove_control_characters: bool = True
    """Removes what no reader sees: control characters but tab and line end, marks of byte order.
    Line ends become \\n."""

    collapse_whitespace: bool = False
    """Makes one space of several, one blank line of several, and none at the ends of lines."""

    min_characters: int = Field(default=1, ge=1, le=1_000_000)
    """Shorter documents are left out."""

    max_characters: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Longer documents are left out. Absent: none is too long."""

    languages: list[Language] = Field(default=[], max_length=32)
    """Only documents in these are kept, as en or de (ISO 639). Empty: all."""

    language_confidence: float = Field(default=0.65, ge=0.0, le=1.0)
    """For languages: the least probability of the language."""

    quality: list[QualityRules] = Field(default=[], max_length=4)
    """Heuristics that documents must pass, in this order. gopher: lengths of words and documents,
    symbols, bullets, stop words of English; gopher-repetition: repeated lines, paragraphs and
    word sequences; c4: keeps lines that are sentences of English; fineweb: line ends, repeated
    and short lines."""

    @model_validator(mode="after")
    def check_lengths(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(LENGTHS_RULE)
        return self


class Privacy(Model):
    """What becomes of personal data and secrets in documents. Values are never logged."""

    action: PrivacyAction = PrivacyAction.REPORT
    """report: counted, text stays; replace: a placeholder of its kind, as <EMAIL>, takes its place;
    drop: documents that hold some are left out; off: not looked for."""

    kinds: list[PersonalData] = Field(default=list(PersonalData), min_length=1, max_length=8)
    """What is looked for: email; phone; iban and card, whose check digits are right; public
    ip-address; national-id of Brazil, France, Italy and Spain, whose check digits are right;
    api-key of well-known services or beside a word as password; private-key in PEM."""

    erase: list[Source] = Field(default=[], max_length=16)
    """Lists of documents that must not be used: text files with the SHA-256 of a document's text,
    as it was read, or id: and its id (by sources[].fields.id) in each line."""


class Deduplicate(Model):
    """Which documents and paragraphs are left out because the same was there before."""

    exact: bool = True
    """Leaves out documents whose text, as cleaned, is that of an earlier one."""

    near: NearMethod = NearMethod.NONE
    """Leaves out documents that are nearly an earlier one. edited: finds copies of which a tenth
    of the words were changed, and compares each pair; fineweb: finds copies with few changes, by
    the settings of that dataset and without comparing. Not for data whose records are meant to be
    alike, as labelled sentences."""

    paragraphs: bool = False
    """Leaves out paragraphs that were there before, as licences and navigation."""

    paragraph_characters: int = Field(default=100, ge=1, le=1_000_000)
    """For paragraphs: shorter ones stay."""

    against: list[Source] = Field(default=[], max_length=16)
    """Sets to evaluate on. Documents that have thirteen words in a row in common with one of
    their documents, or that hold a shorter one of these at their end, are left out."""
