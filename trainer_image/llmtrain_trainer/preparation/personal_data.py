"""The forms of personal data and secrets: for each kind where it may be, and whether it is one.

Below: the standard library. Above: `privacy`.

What has check digits is believed only where they are right: IBAN by ISO 13616 (mod 97), cards by
Luhn (ISO/IEC 7812), national ids by the rules of their countries. Kinds come in an order in which
none takes a part of another for its own.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api.recipe import PersonalData


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of one kind."""

    kind: PersonalData

    words: tuple[str, ...] = ()
    """One of them is in every text that the pattern is found in, once it is in lower case."""

    hint: re.Pattern[str] | None = None
    """Found, and faster, in every text that the pattern is found in."""

    pattern: re.Pattern[str]
    """Finds candidates; its group `value`, where it has one, is what is personal."""

    is_valid: Callable[[re.Match[str]], bool] = lambda match: True


MIN_SECRET_ENTROPY = 3.0
"""Bits for each character: words and placeholders have less, keys have more."""

DATE = re.compile(r"\d{1,2}[-./ ]\d{1,2}[-./ ](?:19|20)\d\d|(?:19|20)\d\d[-./ ]\d\d[-./ ]\d\d")

IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29CH21CR22CY28CZ24DE22DK18DO28EE20ES24FI18FO18FR27"
        "GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IS26IT27JO30KW30KZ20LB28LI21LT20LU20LV21MC27MD24"
        "ME22MK19MR27MT31MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SE24SI19SK24SM27TN24TR26UA29"
        "VG24XK20",
    )
}
"""Characters of an IBAN by country, from the SWIFT registry."""

CARD_PREFIX = re.compile(r"4|5[1-5]|2[2-7]|3[47]|35|30|36|38|6011|65|64[4-9]")

TAX_CODE_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        [
            *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21),
            *(2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        ],
        strict=True,
    )
)
"""Values of characters at odd places of an Italian tax code (DM 23/12/1976)."""

DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
"""Check letter of a Spanish DNI by its number mod 23."""


def is_iban(match: re.Match[str]) -> bool:
    """Return whether length and check digits are those of an IBAN."""
    text = match[0].replace(" ", "")
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def is_card(match: re.Match[str]) -> bool:
    """Return whether prefix, length and check digit are those of a payment card."""
    digits = _take_digits(match[0])
    if not 13 <= len(digits) <= 19 or not CARD_PREFIX.match(digits):
        return False
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_public_address(match: re.Match[str]) -> bool:
    """Return whether it is an address of the public internet."""
    try:
        return ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return False


def is_cpf(match: re.Match[str]) -> bool:
    """Return whether the check digits are those of a Brazilian CPF."""
    digits = [int(d) for d in _take_digits(match[0])]
    for length in (9, 10):
        total = sum(d * w for d, w in zip(digits, range(length + 1, 1, -1), strict=False))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return len(set(digits)) > 1


def is_nir(match: re.Match[str]) -> bool:
    """Return whether the key is that of a French social security number."""
    text = match[0].replace(" ", "").replace("2A", "19").replace("2B", "18")
    return 97 - int(text[:13]) % 97 == int(text[13:])


def is_dni(match: re.Match[str]) -> bool:
    """Return whether the letter is that of a Spanish DNI or NIE."""
    text = match[0].replace("-", "").upper()
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return DNI_LETTERS[int(number) % 23] == text[-1]


def is_tax_code(match: re.Match[str]) -> bool:
    """Return whether the last letter is that of an Italian tax code."""
    text = match[0]
    total = sum(TAX_CODE_ODD[c] for c in text[:15:2])
    total += sum(int(c, 36) - (10 if c.isalpha() else 0) for c in text[1:15:2])
    return ord("A") + total % 26 == ord(text[15])


def is_phone(match: re.Match[str]) -> bool:
    """Return whether there are as many digits as in a phone number, and it is no date."""
    return 7 <= len(_take_digits(match[0])) <= 15 and not DATE.fullmatch(match["value"].strip())


def is_secret(match: re.Match[str]) -> bool:
    """Return whether what stands beside a word as password looks random."""
    value = match["value"]
    counts = Counter(value).values()
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return entropy >= MIN_SECRET_ENTROPY and any(c.isdigit() for c in value)


def _take_digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


DIGITS = re.compile(r"\d(?:[ ./()-]{0,2}\d){6}")
"""Seven digits, as every phone number, card and most else has them."""

CAPITALS = re.compile(r"[A-Z]{2}\d\d")
"""Two capitals and two digits, as at the beginning of an IBAN and within a tax code."""

API_KEY_WORDS = (
    *("akia", "asia", "aiza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"),
    *("xox", "sk-", "sk_", "hf_", "npm_", "eyj", "pypi-"),
)

PHONE_WORDS = ("phone", "tel", "mobile", "cell", "call", "fax", "whatsapp")

FORMS = (
    Form(
        kind=PersonalData.PRIVATE_KEY,
        words=("private key",),
        pattern=re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
            r"[\s\S]{1,16384}?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        ),
    ),
    Form(
        kind=PersonalData.API_KEY,
        words=API_KEY_WORDS,
        pattern=re.compile(
            r"(?<![A-Za-z0-9_-])(?P<value>A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}|gh[pousr]_\w{36}"
            r"|github_pat_\w{60,90}|glpat-[\w-]{20}|xox[abeoprs]-[\w-]{10,100}|hf_[A-Za-z]{34}"
            r"|sk-[\w-]{20,200}|sk_(?:live|test)_\w{20,100}|npm_\w{36}|pypi-[\w-]{50,250}"
            r"|eyJ[\w-]{10,1000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000})(?![A-Za-z0-9_-])"
        ),
    ),
    Form(
        kind=PersonalData.API_KEY,
        words=("key", "secret", "token", "passw"),
        hint=re.compile(r"[:=][\s\"']{0,5}[A-Za-z0-9_+/=.!$%#-]{12}"),
        pattern=re.compile(
            r"(?i)(?:api[_-]?key|access[_-]?key|secret(?:[_-]?key)?|auth[_-]?token|token|password"
            r"|passwd)[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?(?P<value>[A-Za-z0-9_+/=.!$%#-]{12,128})"
        ),
        is_valid=is_secret,
    ),
    Form(
        kind=PersonalData.EMAIL,
        words=("@",),
        pattern=re.compile(
            r"(?<![\w.%+-])[\w%+-](?:[\w.%+-]{0,62}[\w%+-])?@"
            r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}[^\W\d_]{2,24}(?![\w@-])"
        ),
    ),
    Form(
        kind=PersonalData.IBAN,
        hint=CAPITALS,
        pattern=re.compile(
            r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
            r"(?![A-Za-z0-9])"
        ),
        is_valid=is_iban,
    ),
    Form(
        kind=PersonalData.NATIONAL_ID,
        hint=DIGITS,
        pattern=re.compile(r"(?<![\d.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)"),
        is_valid=is_cpf,
    ),
    Form(
        kind=PersonalData.NATIONAL_ID,
        hint=DIGITS,
        pattern=re.compile(
            r"(?<![\d.])[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\d)"
        ),
        is_valid=is_nir,
    ),
    Form(
        kind=PersonalData.NATIONAL_ID,
        hint=DIGITS,
        pattern=re.compile(r"(?<![A-Za-z0-9])(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z](?![A-Za-z0-9])"),
        is_valid=is_dni,
    ),
    Form(
        kind=PersonalData.NATIONAL_ID,
        hint=CAPITALS,
        pattern=re.compile(
            r"(?<![A-Za-z0-9])[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z](?![A-Za-z0-9])"
        ),
        is_valid=is_tax_code,
    ),
    Form(
        kind=PersonalData.CARD,
        hint=DIGITS,
        pattern=re.compile(r"(?<![\d.,+-])(?<![\d][ -])\d(?:[ -]?\d){12,18}(?![ -]?\d)(?![.,]\d)"),
        is_valid=is_card,
    ),
    Form(
        kind=PersonalData.IP_ADDRESS,
        hint=re.compile(r"\.\d{1,3}\.\d"),
        pattern=re.compile(
            r"(?<![\w.])(?<![vV]ersion )(?<!release )(?:\d{1,3}\.){3}\d{1,3}(?![\w-])(?!\.\d)"
        ),
        is_valid=is_public_address,
    ),
    Form(
        kind=PersonalData.IP_ADDRESS,
        hint=re.compile(r":[0-9a-fA-F:]{2}"),
        pattern=re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,34}(?![\w:])"),
        is_valid=is_public_address,
    ),
    Form(
        kind=PersonalData.PHONE,
        hint=DIGITS,
        pattern=re.compile(
            r"(?<![\w.+-])(?<!\d )(?P<value>"
            # International, as +49 (0)30 123-456.
            r"\+[1-9]\d{0,2}[ ./-]{0,2}(?:\(\d{1,4}\)[ ./-]{0,2})?"
            r"\d{1,5}(?:[ ./-]{0,2}\d{1,5}){1,5}"
            # North American, as (212) 555-0134 or 212-555-0134.
            r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[ .-]\d{4}"
            # With a trunk prefix, as 030/1234567, 0171 234 5678 or (020) 7946 0123.
            r"|\(?0[1-9]\d{0,4}\)?[ /-]{1,3}\d{3,8}(?:[ -]\d{2,6}){0,3}"
            r"|0[1-9](?:[ .]\d{2}){4}"
            r")(?![\w-])(?!\.\d)"
        ),
        is_valid=is_phone,
    ),
    Form(
        kind=PersonalData.PHONE,
        words=PHONE_WORDS,
        hint=DIGITS,
        pattern=re.compile(
            r"(?i)\b(?:phone|telephone|tel|mobile|cell|call|fax|whatsapp)"
            r"(?: (?:number|no|me at|us at))?"
            r"[.:]{0,2}\s{0,2}(?P<value>\(?\d[\d ()./-]{5,18}\d)(?![\w-])(?!\.\d)"
        ),
        is_valid=is_phone,
    ),
)
