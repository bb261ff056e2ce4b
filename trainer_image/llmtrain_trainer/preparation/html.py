"""HTML pages as the text that a reader sees.

Below: selectolax, with the parser of Lexbor, which reads pages as browsers do. Above: `readers`.
"""

from __future__ import annotations

import codecs
import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

UNSEEN = frozenset(
    {"head", "script", "style", "noscript", "template", "svg", "iframe", "object", "select"}
)
"""Elements whose text no reader sees."""

INLINE_NAMES = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp"
    " small span strike strong sub sup time tt u var wbr"
)
INLINE = frozenset(INLINE_NAMES.split())
"""Elements that do not begin a line of their own; all others do."""

LINES = frozenset(["br", "dd", "div", "dt", "figcaption", "li", "option", "tr"])
"""Elements that begin a line; those neither here nor inline begin a paragraph."""

CELLS = frozenset({"td", "th"})

DECLARED_ENCODING = re.compile(rb"<meta[^>]{0,256}?charset\s*=\s*[\"']?([\w.:-]{1,40})", re.I)
DECLARED_WITHIN_BYTES = 4096

MAX_DEPTH = 2000
"""Of elements in each other. Browsers stop at 512; parsing takes a time that grows with the square
of the depth: half a minute for 500 kB of nothing but <div>."""

OPEN_ENDED_NAMES = (
    "area base br col embed hr img input link meta source track wbr"
    " body colgroup dd dt head html li optgroup option p rp rt tbody td tfoot th thead tr"
)
OPEN_ENDED = frozenset(OPEN_ENDED_NAMES.split())
"""Elements that need no end, so that those that are begun say nothing of depth."""

TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")

NOT_OF_PAGES = frozenset({"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"})
"""Python's encodings that are not of pages: some decode in quadratic time, some make half
surrogate pairs, which are no text."""

SPACES = re.compile(r"[ \t\r\n\f\u00a0]+")
BLANKS = re.compile(r" {2,}")
BLANK_LINES = re.compile(r"\n{3,}")

TEXT = "-text"
"""What Lexbor calls a node of text."""


def decode_html(data: bytes) -> str | None:
    """Return a page's characters: UTF-8, or what it declares; None where it is neither."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        declared = DECLARED_ENCODING.search(data[:DECLARED_WITHIN_BYTES])
    if declared is None:
        return None
    name = declared[1].decode("ascii")
    try:
        is_unsafe = codecs.lookup(name).name.replace("-", "_") in NOT_OF_PAGES
        return None if is_unsafe else data.decode(name)
    except (LookupError, UnicodeError):
        return None


def is_too_deep(page: str) -> bool:
    """Return whether elements lie deeper in each other than can be parsed soon."""
    if page.count("<") <= MAX_DEPTH:
        return False
    depth = 0
    for end, name in TAG.findall(page):
        if name.lower() not in OPEN_ENDED:
            depth = max(0, depth - 1) if end else depth + 1
            if depth > MAX_DEPTH:
                return True
    return False


def extract_text(page: str) -> str:
    """Return the text of a page: blocks as lines and paragraphs, spaces as they are in `pre`."""
    root = LexborHTMLParser(page).root
    if root is None:
        return ""
    text = _Lines()
    # A stack of our own, since pages nest deeper than Python calls: nodes, and the tags whose
    # elements end there.
    stack: list[tuple[LexborNode | str, bool]] = [(root, False)]
    while stack:
        node, in_pre = stack.pop()
        if isinstance(node, str):
            text.cross_edge(node)
            continue
        tag = node.tag
        if tag == TEXT:
            content = node.text_content or ""
            text.append(content if in_pre else SPACES.sub(" ", content), is_raw=in_pre)
        elif tag is not None and tag not in UNSEEN:
            text.cross_edge(tag)
            stack.append((tag, False))
            children = list(node.iter(include_text=True))
            stack.extend((child, in_pre or tag == "pre") for child in reversed(children))
    return text.finish()


class _Lines:
    """Text that grows by pieces, and ends lines at the edges of blocks."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._is_raw = False

    def append(self, piece: str, *, is_raw: bool) -> None:
        self._line.append(piece)
        self._is_raw = self._is_raw or is_raw

    def cross_edge(self, tag: str) -> None:
        if tag in INLINE:
            return
        if tag in CELLS:
            self._line.append("\t")
            return
        line = "".join(self._line)
        line = line.strip("\n") if self._is_raw else BLANKS.sub(" ", line).strip()
        if line:
            self._lines.append(re.sub("\t+", "\t", line))
        if tag not in LINES:
            self._lines.append("")
        self._line.clear()
        self._is_raw = False

    def finish(self) -> str:
        self.cross_edge("html")
        return BLANK_LINES.sub("\n\n", "\n".join(self._lines)).strip("\n")
