"""Texts with personal data in known places, and with what only looks like it.

Below: a random number generator. Above: the tests and the benchmark of `privacy`.

Values are made by the rules of who issues them, not by the patterns that are to find them. Decoys
are numbers that documents are full of: dates, versions, measurements, ISBNs, hashes, IBANs and
cards with a wrong check digit.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits

Make = Callable[[Random], str]

HEX = digits + "abcdef"
SURROUNDINGS = (
    "Please contact {} about it.",
    "It is {}, as far as we know",
    "({})",
    "Customer record: {}; checked twice.",
    "See also\n{}\nfor more",
    "she wrote '{}' on the form.",
    '{{"value": "{}"}}',
    "{}",
    "We have {} on file, and {} too, I think",
)


@dataclass(frozen=True, slots=True)
class PersonalText:
    """A text and what is in it."""

    text: str
    kind: str
    """`none` for decoys."""
    values: tuple[str, ...]


def make_texts(random: Random, count: int) -> list[PersonalText]:
    """Make `count` texts of each kind, and four times as many with decoys."""
    kinds = {**KINDS, "none": DECOYS}
    return [
        make_text(random, kind, makers[i % len(makers)])
        for kind, makers in kinds.items()
        for i in range(count * (4 if kind == "none" else 1))
    ]


def make_text(random: Random, kind: str, make: Make) -> PersonalText:
    """Make a text around one or two values of one kind."""
    surrounding = random.choice(SURROUNDINGS)
    values = [make(random) for _ in range(surrounding.count("{}"))]
    return PersonalText(surrounding.format(*values), kind, tuple(values) if kind != "none" else ())


def pick(random: Random, alphabet: str, count: int) -> str:
    """Draw characters."""
    return "".join(random.choices(alphabet, k=count))


def make_name(random: Random) -> str:
    """Make a word that could be a name."""
    return pick(random, "bdfgklmnprst", 1) + "".join(
        pick(random, "aeiou", 1) + pick(random, "bdklmnrst", 1) for _ in range(random.randint(1, 3))
    )


def make_email(random: Random) -> str:
    """Make a mail address."""
    local = random.choice(["{}.{}", "{}{}", "{}_{}", "{}+{}", "{}-{}"])
    host = random.choice(["{}.com", "mail.{}.org", "{}.co.uk", "{}-web.de", "{}.museum", "x.{}.io"])
    address = local.format(make_name(random), make_name(random)) + "@"
    address += host.format(make_name(random))
    return address.title() if random.random() < 0.2 else address


def make_international_phone(random: Random) -> str:
    """Make a phone number with a country code."""
    form = random.choice(
        [
            *("+49 30 #######", "+49 (0)171 ### ####", "+44 20 #### ####", "+33 1 ## ## ## ##"),
            *("+1-212-555-####", "+1 (415) 555 ####", "+8190########", "+351 9## ### ###"),
            *("+55 11 9####-####", "+61 4## ### ###", "+919#########", "+41 44 ### ## ##"),
        ]
    )
    return fill(random, form)


def make_national_phone(random: Random) -> str:
    """Make a phone number as it is written at home."""
    form = random.choice(
        [
            *("(212) 555-####", "415-555-####", "415.555.####", "1-800-555-####", "030/#######"),
            *("0171 ### ####", "020 7946 ####", "06 ## ## ## ##", "01.##.##.##.##"),
            *("(020) 7946 ####", "0711-######", "089 / ########"),
        ]
    )
    return fill(random, form)


def make_named_phone(random: Random) -> str:
    """Make a phone number that only a word tells from another number."""
    return random.choice(["Tel. ", "phone: ", "call ", "Fax: "]) + fill(random, "### ## ##2")


def fill(random: Random, form: str) -> str:
    """Put digits in the place of #, none of them zero."""
    return "".join(random.choice("123456789") if c == "#" else c for c in form)


def make_card(random: Random) -> str:
    """Make a payment card's number (ISO/IEC 7812)."""
    prefix, length = random.choice([("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16)])
    number = prefix + pick(random, digits, length - len(prefix) - 1)
    total = 0
    for i, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if i % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    number += str(-total % 10)
    separator = random.choice(["", " ", "-"])
    return separator.join(number[i : i + 4] for i in range(0, len(number), 4))


def make_iban(random: Random) -> str:
    """Make an IBAN (ISO 13616)."""
    country, form = random.choice(
        [
            *(("DE", "n" * 18), ("GB", "aaaa" + "n" * 14), ("FR", "n" * 10 + "c" * 11 + "nn")),
            *(("NL", "aaaa" + "n" * 10), ("ES", "n" * 20), ("NO", "n" * 11)),
            *(("IT", "a" + "n" * 22), ("PL", "n" * 24), ("CH", "n" * 5 + "c" * 12)),
            ("MT", "aaaa" + "n" * 5 + "c" * 18),
        ]
    )
    alphabets = {"n": digits, "a": ascii_uppercase, "c": digits + ascii_uppercase}
    account = "".join(random.choice(alphabets[c]) for c in form)
    number = "".join(str(int(c, 36)) for c in f"{account}{country}00")
    text = f"{country}{98 - int(number) % 97:02d}{account}"
    if random.random() < 0.5:
        return text
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def make_address(random: Random) -> str:
    """Make a public IP address."""
    if random.random() < 0.7:
        return ".".join(
            [
                str(random.choice([8, 34, 52, 81, 91, 185])),
                *(str(random.randint(0, 255)) for _ in "123"),
            ]
        )
    groups = ["2a01", *(f"{random.randint(0, 65535):x}" for _ in range(7))]
    return ":".join(groups) if random.random() < 0.5 else ":".join(groups[:4]) + "::1"


def make_national_id(random: Random) -> str:
    """Make a national id of Brazil, France, Spain or Italy."""
    return random.choice([make_cpf, make_nir, make_dni, make_tax_code])(random)


def make_cpf(random: Random) -> str:
    """Make a Brazilian CPF."""
    number = [random.randint(0, 9) for _ in range(9)]
    for _ in range(2):
        weight = range(len(number) + 1, 1, -1)
        rest = sum(n * w for n, w in zip(number, weight, strict=True)) % 11
        number.append(0 if rest < 2 else 11 - rest)
    text = "".join(map(str, number))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def make_nir(random: Random) -> str:
    """Make a French social security number."""
    birth = f"{random.randint(0, 99):02d}{random.randint(1, 12):02d}"
    number = random.choice("12") + birth + fill(random, "########")
    text = f"{number}{97 - int(number) % 97:02d}"
    parts = (text[0], text[1:3], text[3:5], text[5:7], text[7:10], text[10:13], text[13:])
    return random.choice(["", " "]).join(parts)


def make_dni(random: Random) -> str:
    """Make a Spanish DNI or NIE."""
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    if random.random() < 0.5:
        number = pick(random, digits, 8)
        return number + letters[int(number) % 23]
    start, number = random.choice("XYZ"), pick(random, digits, 7)
    return f"{start}{number}-{letters[int(str('XYZ'.index(start)) + number) % 23]}"


def make_tax_code(random: Random) -> str:
    """Make an Italian tax code."""
    text = pick(random, ascii_uppercase, 6) + pick(random, digits, 2) + pick(random, "ABCDEHLM", 1)
    text += f"{random.randint(1, 71):02d}" + pick(random, "ABCDEFGHIL", 1) + pick(random, digits, 3)
    odd = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21]
    odd_letters = [*odd, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
    total = 0
    for i, c in enumerate(text):
        value = ascii_uppercase.index(c) if c.isalpha() else int(c)
        total += (odd_letters[value] if c.isalpha() else odd[value]) if i % 2 == 0 else value
    return text + ascii_uppercase[total % 26]


def make_api_key(random: Random) -> str:
    """Make a key of a well-known service."""
    word = ascii_letters + digits
    return random.choice(
        [
            "AKIA" + pick(random, ascii_uppercase + digits, 16),
            "ghp_" + pick(random, word, 36),
            "glpat-" + pick(random, word, 20),
            "xoxb-" + pick(random, digits, 12) + "-" + pick(random, word, 24),
            "sk-" + pick(random, word, 48),
            "AIza" + pick(random, word + "_-", 34) + "x",
            "hf_" + pick(random, ascii_letters, 34),
        ]
    )


def make_named_secret(random: Random) -> str:
    """Make a secret that only a word tells from another string."""
    name = random.choice(['api_key = "', "password: ", "SECRET_KEY='", "auth_token=", '"token": "'])
    return name + pick(random, ascii_letters + digits, 24) + "7"


def make_private_key(random: Random) -> str:
    """Make what looks like a private key in PEM."""
    kind = random.choice(["", "RSA ", "EC ", "OPENSSH "])
    body = base64.b64encode(random.randbytes(240)).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def spoil(make: Make) -> Make:
    """Make a value with a wrong last digit or letter."""

    def make_spoilt(random: Random) -> str:
        value = make(random)
        last = value[-1]
        if last.isdigit():
            return value[:-1] + str((int(last) + random.choice([1, 3, 7])) % 10)
        return value[:-1] + ascii_uppercase[(ascii_uppercase.index(last) + 1) % 26]

    return make_spoilt


KINDS: dict[str, tuple[Make, ...]] = {
    "email": (make_email,),
    "phone": (make_international_phone, make_national_phone, make_named_phone),
    "iban": (make_iban,),
    "card": (make_card,),
    "ip-address": (make_address,),
    "national-id": (make_national_id,),
    "api-key": (make_api_key, make_named_secret),
    "private-key": (make_private_key,),
}

DECOYS: tuple[Make, ...] = (
    lambda random: f"20{fill(random, '##')}-0{fill(random, '#')}-1{fill(random, '#')}",
    lambda random: f"0{fill(random, '#')}.1{random.randint(0, 2)}.19{fill(random, '##')}",
    lambda random: f"0{fill(random, '#')}/1{random.randint(0, 2)}/20{fill(random, '##')}",
    lambda random: f"2024-03-1{fill(random, '#')}T1{fill(random, '#')}:2{fill(random, '#')}:30Z",
    lambda random: f"version {fill(random, '#.#.#')}.{fill(random, '#')}",
    lambda random: f"v{fill(random, '#.##.#')}",
    lambda random: f"package-{fill(random, '#.#.#')}-py3",
    lambda random: f"{fill(random, '#.########')}e-{fill(random, '#')}",
    lambda random: fill(random, "###,###,###"),
    lambda random: fill(random, "### ###.##"),
    lambda random: f"ISBN 978-{fill(random, '#-###-#####-#')}",
    lambda random: pick(random, HEX, 40),
    lambda random: "-".join(pick(random, HEX, n) for n in (8, 4, 4, 4, 12)),
    lambda random: f"sha256:{pick(random, HEX, 64)}",
    lambda random: f"order {fill(random, '########')}",
    lambda random: f"17{fill(random, '########')}",
    lambda random: f"192.168.{random.randint(0, 255)}.{random.randint(0, 255)}",
    lambda random: f"127.0.0.{fill(random, '#')}",
    lambda random: f"1{fill(random, '#')}:{fill(random, '##')}:{fill(random, '##')}",
    lambda random: f"std::{make_name(random)}::{make_name(random)}",
    lambda random: f"@{make_name(random)}.{make_name(random)}",
    lambda random: f"pages {fill(random, '###')}-{fill(random, '###')}",
    lambda random: f"x = [{fill(random, '#, ##, ###, ####')}]",
    lambda random: f"token = get_{make_name(random)}_{make_name(random)}()",
    lambda random: f"password: {'*' * 16}",
    lambda random: f"{fill(random, '#.##')} {fill(random, '#.##')} {fill(random, '##.##')}",
    lambda random: f"phone {fill(random, '##')} of {fill(random, '##')}",
    spoil(make_card),
    spoil(make_iban),
    spoil(make_tax_code),
    lambda random: f"-----BEGIN CERTIFICATE-----\n{pick(random, ascii_lowercase, 64)}",
)
