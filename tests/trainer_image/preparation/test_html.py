"""Pages become the text that a reader sees."""

from __future__ import annotations

import pytest

from llmtrain_trainer.preparation.html import decode_html, extract_text, is_too_deep


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one <b>two</b>three</p><p>four", "one twothree\n\nfour"),
        ("a\n   b&nbsp;&amp; c<br>d", "a b & c\nd"),
        ("<ul><li>one<li> two </ul>end", "one\ntwo\n\nend"),
        ("<pre>  x = 1\n    y\n</pre>", "  x = 1\n    y"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a\tb\n1\t2"),
        ("<head><title>t</title></head><script>x()</script><style>p{}</style>ok", "ok"),
        ("<!-- no --><div>yes<div>and</div></div>", "yes\nand"),
        ("", ""),
        ("<p>&lt;b&gt;</p>", "<b>"),
    ],
)
def test_text_of_a_page(page: str, text: str) -> None:
    assert extract_text(page).strip("\t") == text


def test_pages_may_nest_deeper_than_python_calls() -> None:
    assert extract_text("<div>" * 5000 + "deep") == "deep"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("ä".encode(), "ä"),
        (b'<meta charset="latin-1">\xe4', '<meta charset="latin-1">ä'),
        (b'<meta content="text/html; charset=windows-1252">\x80', None),
        (b"<meta charset=no-such>\xe4", None),
        (b"\xe4", None),
    ],
)
def test_encoding_is_utf_8_or_what_the_page_declares(data: bytes, text: str | None) -> None:
    decoded = decode_html(data)
    if b"1252" in data:
        assert decoded is not None
        assert decoded.endswith("€")
    else:
        assert decoded == text


def test_depth_is_of_elements_that_need_an_end() -> None:
    assert is_too_deep("<DIV>" * 2001)
    assert not is_too_deep("<p>text<br><li>" * 5000)
    assert not is_too_deep("<div><b>text</b></div>" * 5000)
