"""How well facts of an answer that its source does not have are found.

    PYTHONPATH=tests/cluster python tests/bench/bench_consistency.py --output consistency.json

Sources and answers are made from parts by a seed: reports of a few sentences, and answers that
state some of their facts in other forms, as 1,234 for "1234", 12 March 2020 for 2020-03-12, a last
name for a full one, the letters of an organisation for its name. Half of the answers then get one
error of a known kind. An answer counts as found where any of its facts is reported. Kinds that the
detectors cannot know (two names of the source in each other's place, a negation, a wrong verb) are
in the table, too.

Besides, sentences of Python's own documentation are held against their topic: as they are, which
must be silent, and with one of their numbers changed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

import click

from llmtrain_trainer.evaluation.consistency import find_unsupported
from llmtrain_trainer.evaluation.facts import MONTHS

FIRST = ["Anna", "Bogdan", "Chiara", "Dmitri", "Elif", "Farid", "Grace", "Hiroshi", "Ines", "Jonas"]
LAST = ["Abbott", "Brandt", "Costa", "Dubois", "Eriksen", "Fischer", "Greco", "Hassan", "Ito"]
CITIES = ["Lisbon", "New Haven", "Oslo", "Porto Alegre", "Quito", "San José", "Turin", "Utrecht"]
BODIES = ["Northern Water Board", "Institute of Marine Biology", "Harbour Trust", "Royal Society"]
SUBJECTS = ["otters", "bridges", "tides", "wheat", "glaciers", "looms", "lichens", "turbines"]
NUMBER_WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]


@dataclass(frozen=True)
class Report:
    """The facts of a source."""

    first: str
    last: str
    other: str
    city: str
    body: str
    subject: str
    day: date
    count: int
    teams: int
    cost: int

    def write(self) -> str:
        """Return the source."""
        return (
            f"{self.first} {self.last} of the {self.body} presented a study of {self.subject} in "
            f"{self.city} on {_write_day(self.day)}. Over two years, "
            f"{NUMBER_WORDS[self.teams - 2]} teams counted {self.count:,} of them. The work cost "
            f"{self.cost:,} euros. "
            f"{self.other}, who reviewed the study, did not call it complete."
        )


def draw_report(draw: Random) -> Report:
    """Return facts by chance; no number occurs twice."""
    first, other = draw.sample(FIRST, 2)
    last, last_of_other = draw.sample(LAST, 2)
    return Report(
        first=first,
        last=last,
        other=f"{other} {last_of_other}",
        city=draw.choice(CITIES),
        body=draw.choice(BODIES),
        subject=draw.choice(SUBJECTS),
        day=date(1990, 1, 1) + timedelta(days=draw.randrange(12_000)),
        count=draw.randrange(2_100, 98_000),
        teams=draw.randrange(2, 10),
        cost=draw.randrange(1_100_000, 9_900_000),
    )


def write_answer(report: Report, draw: Random) -> str:
    """Return a true answer, in other forms than the source."""
    name = draw.choice([f"{report.first} {report.last}", report.last, f"Dr. {report.last}"])
    day = draw.choice(
        [
            report.day.isoformat(),
            _write_day(report.day),
            f"{report.day.day} {MONTHS[report.day.month - 1]} {report.day.year}".title(),
            f"{MONTHS[report.day.month - 1].title()} {report.day.year}",
            str(report.day.year),
        ]
    )
    count = draw.choice([str(report.count), f"{report.count:,}"])
    teams = draw.choice([str(report.teams), NUMBER_WORDS[report.teams - 2]])
    cost = draw.choice([f"{report.cost / 1e6:.1f} million", f"{report.cost:,}"])
    initials = "".join(word[0] for word in report.body.split() if word[0].isupper())
    body = draw.choice([f"the {report.body}", f"the {initials}"])
    subject = report.subject
    sentences = [
        f"In {report.city}, {name} of {body} presented a study of {subject} ({day}).",
        f"Researchers in {teams} teams counted {count} {subject}.",
        f"Its cost was {cost} euros.",
        f"{report.other} reviewed it.",
    ]
    return " ".join(draw.sample(sentences, draw.randrange(2, 5)))


def _write_day(day: date) -> str:
    return f"{MONTHS[day.month - 1].title()} {day.day}, {day.year}"


def _add_number(report: Report, answer: str, draw: Random) -> str:
    wrong = report.count + draw.choice([-1, 1]) * draw.randrange(1, 900)
    return f"{answer} In all there were {wrong:,}."


def _add_small_number(report: Report, answer: str, draw: Random) -> str:
    taken = {report.teams, 2, report.day.day}
    wrong = draw.choice([n for n in range(3, 10) if n not in taken])
    return f"{answer} There were {NUMBER_WORDS[wrong - 2]} teams."


def _add_date(report: Report, answer: str, draw: Random) -> str:
    wrong = report.day + timedelta(days=draw.choice([-1, 1]) * draw.randrange(1, 300))
    return f"{answer} This was on {_write_day(wrong)}."


def _add_name(report: Report, answer: str, draw: Random) -> str:
    others = [name for name in LAST if name != report.last and name not in report.other]
    return f"{answer} Earlier work by {draw.choice(others)} found the same."


def _add_city_first(report: Report, answer: str, draw: Random) -> str:
    others = [city for city in CITIES if city != report.city]
    return f"{answer} {draw.choice(others)} was the place of the study."


def _swap_names(report: Report, answer: str, draw: Random) -> str:
    return f"{answer} The study was presented by {report.other}."


def _negate(report: Report, answer: str, draw: Random) -> str:
    return f"{answer} The study was never reviewed."


def _change_verb(report: Report, answer: str, draw: Random) -> str:
    return f"{answer} {report.last} withdrew the study."


SOURCE_CHARACTERS = 3000
"""Of a topic; each sentence is held against all of it."""

ERRORS: dict[str, Callable[[Report, str, Random], str]] = {
    "a number that is near": _add_number,
    "a small number in words": _add_small_number,
    "another day": _add_date,
    "another person": _add_name,
    "another city, first in its sentence": _add_city_first,
    "names of the source in each other's place": _swap_names,
    "a negation": _negate,
    "another verb": _change_verb,
}


def measure(num_answers: int, seed: int) -> dict[str, object]:
    """Return precision, and recall by kind of error; half of the answers are true."""
    draw = Random(seed)
    false_alarms: list[str] = []
    hits: dict[str, list[bool]] = defaultdict(list)
    for number in range(num_answers):
        report = draw_report(draw)
        answer = write_answer(report, draw)
        if number % 2:
            kind = list(ERRORS)[number // 2 % len(ERRORS)]
            answer = ERRORS[kind](report, answer, draw)
            hits[kind].append(bool(find_unsupported(answer, report.write())))
        elif found := find_unsupported(answer, report.write()):
            false_alarms.append(f"{found} in: {answer} | {report.write()}")
    num_found = sum(map(sum, hits.values()))
    return {
        "answers": num_answers,
        "seed": seed,
        "precision": num_found / max(1, num_found + len(false_alarms)),
        "falseAlarmRate": len(false_alarms) / (num_answers // 2),
        "recall": {kind: sum(found) / len(found) for kind, found in hits.items()},
        "falseAlarms": false_alarms[:10],
    }


def measure_real_text(seed: int) -> dict[str, object]:
    """Return false alarms for true sentences, and recall for those with a changed number."""
    draw = Random(seed)
    alarms, hits = [], []
    for source in (topic[:SOURCE_CHARACTERS] for topic in topics.values()):
        for sentence in re.split(r"(?<=[.])\s+", source):
            alarms.append(bool(find_unsupported(sentence, source)))
            places = list(re.finditer(r"(?<![\w.])\d+(?![\w.])", sentence))
            if places:
                place = draw.choice(places)
                wrong = str(int(place[0]) + draw.randrange(1, 1000))
                changed = sentence[: place.start()] + wrong + sentence[place.end() :]
                hits.append(bool(find_unsupported(changed, source)))
    return {
        "sentences": len(alarms),
        "falseAlarmRate": sum(alarms) / len(alarms),
        "changedNumbers": len(hits),
        "recall": sum(hits) / len(hits),
    }


@click.command()
@click.option("--answers", type=int, default=4000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(answers: int, seed: int, output: Path | None) -> None:
    """Measure, and print or write the figures."""
    figures = {"made": measure(answers, seed), "realText": measure_real_text(seed)}
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
