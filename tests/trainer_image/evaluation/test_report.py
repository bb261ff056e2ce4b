"""The report as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmtrain_trainer.evaluation.answers import SuiteResult
from llmtrain_trainer.evaluation.breakdown import PositionLoss, SliceLoss
from llmtrain_trainer.evaluation.checkpoints import EvaluatedCheckpoint
from llmtrain_trainer.evaluation.report import Report, Sample, draw_curve, render_report
from llmtrain_trainer.evaluation.verdict import judge_gates
from llmtrain_trainer.model.blueprint import Shape
from testbed.tiny_run import configure_tiny_run

CURVE = [
    {"step": 1, "loss": 5.0, "gradientNorm": 1.0},
    {"step": 2, "loss": 4.0},
    {"step": 2, "validationLoss": 4.1},
]


class Page(HTMLParser):
    """Collects tags and what a page would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {value}")


LENGTHS = SliceLoss(
    kind="length",
    name="3 to 9 tokens",
    documents=5,
    targets=30,
    loss=4.25,
    perplexity=70.1,
    bits_per_byte=None,
)


def make_report(
    root: Path,
    *,
    loss: float = 4.1,
    text: str = "text",
    gates: Sequence[str] = (),
    suites: Sequence[SuiteResult] = (),
    checkpoints: Sequence[EvaluatedCheckpoint] = (),
) -> Report:
    return Report(
        config=configure_tiny_run(root),
        step=2,
        parameters=1234,
        validation_loss=loss,
        perplexity=math.exp(loss),
        accuracy=0.25,
        bits_per_byte=2.0,
        unigram_loss=4.5,
        held_out_tokens=99,
        metrics={"loss": loss},
        gates=judge_gates([*gates], {"loss": loss}),
        suites=suites,
        positions=[PositionLoss(first=2, last=3, targets=1234, loss=4.5)],
        slices=[LENGTHS],
        checkpoints=checkpoints,
        classes=None,
        curve=CURVE,
        pace=[{"step": 2, "time": 0.0, "tokensPerSecond": 10.0}],
        samples=[Sample(prompt="The ", continuation=text)],
        shape=Shape(architecture="gpt2", layers=2, heads=2, hidden_size=32),
    )


def test_page_needs_nothing_else_and_escapes_what_the_model_wrote(tmp_path: Path) -> None:
    html = render_report(make_report(tmp_path, text="<script>alert(1)</script>"))
    page = Page(html)
    assert "svg" in page.tags
    assert "script" not in page.tags
    assert page.loads == []
    assert "2 to 3" in html
    assert "3 to 9 tokens" in html
    assert "4.2500" in html
    assert "&lt;script&gt;" in html


def test_checkpoints_are_shown_side_by_side(tmp_path: Path) -> None:
    checkpoints = [
        EvaluatedCheckpoint(name="best", step=1, metrics={"loss": 3.5, "qa.chrf": 0.25}),
        EvaluatedCheckpoint(name="step-2", step=None, metrics={}, lack="it is gone"),
    ]
    html = " ".join(render_report(make_report(tmp_path, checkpoints=checkpoints)).split())
    assert '<th class="n">exported</th><th class="n">best<br>step 1</th></tr>' in html
    assert '<td>loss</td><td class="n">4.1</td><td class="n">3.5</td></tr>' in html
    assert '<td>qa.chrf</td><td class="n">–</td><td class="n">0.25</td></tr>' in html
    assert '<p class="soft">step-2: it is gone.</p>' in html


@pytest.mark.parametrize(("loss", "verdict"), [(4.1, "better than"), (4.6, "no better than")])
def test_verdict_compares_with_the_unigram_baseline(
    tmp_path: Path, loss: float, verdict: str
) -> None:
    html = render_report(make_report(tmp_path, loss=loss))
    assert f"{verdict} token frequencies" in " ".join(html.split())
    assert "4.5000" in html


def test_gates_are_shown_with_what_decided(tmp_path: Path) -> None:
    html = render_report(make_report(tmp_path, gates=["loss < 4", "loss < 5 || accuracy > 0"]))
    text = " ".join(html.split())
    assert "fails 2 of 2 gates" in text
    assert "loss is 4.1, 0.1 above 4" in text
    assert "accuracy was not measured" in text
    assert "loss &lt; 4" in text
    assert "satisfies its gate" in render_report(make_report(tmp_path, gates=["loss > 4"]))


def test_curve_is_the_same_text_each_time() -> None:
    assert draw_curve(CURVE, 4.5) == draw_curve(CURVE, 4.5)
