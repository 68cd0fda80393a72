"""HTML: the text that a reader sees, in one block for each section under its headings."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ..decoding import declared_charset, decode
from ..text import Headings, Place, TextBuilder, one_line
from .tables import row_text

_NAMES_OF_DROPPED = "script style template noscript head iframe object svg canvas datalist audio video"
_NAMES_OF_BLOCKS = """
    address article aside blockquote body button caption center dd details dialog div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main nav ol option p pre section summary table tbody
    textarea tfoot thead tr ul
"""
_DROPPED = frozenset(_NAMES_OF_DROPPED.split())
_BLOCKS = frozenset(_NAMES_OF_BLOCKS.split())
_CONTAINERS = re.compile(
    r"<(/?)(?:address|article|aside|blockquote|center|details|dialog|dir|div|dl|fieldset|figcaption|figure|footer|form"
    r"|header|hgroup|main|menu|nav|ol|pre|section|summary|ul)(?=[\s/>])[^>]*>",
    re.IGNORECASE,
)
_DEEPEST = 5_000
_HEADING = re.compile(r"h[1-6]")
_NOT_SHOWN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f]+")


def parse(data: bytes, out: TextBuilder) -> None:
    parse_text(decode(data, declared_charset(data)), out)


def parse_text(text: str, out: TextBuilder, place: Place | None = None) -> None:
    """Append the text of a document. `place` is where the document stands in a larger one."""
    if _depth(text) > _DEEPEST:
        text = _CONTAINERS.sub("<br>", text)
    tree = LexborHTMLParser(text)
    title = tree.css_first("title")
    walk = _Walk(out, place or {})
    if title is not None and not place:
        walk.text(title.text())
        walk.end_line()
    if tree.body is not None:
        walk.run(tree.body)
    walk.end_section()


def _depth(text: str) -> int:
    """How many containers are open at once. The parser takes quadratic time for them: a minute for 100,000."""
    depth = deepest = 0
    for found in _CONTAINERS.finditer(text):
        depth = max(0, depth + (-1 if found.group(1) else 1))
        deepest = max(deepest, depth)
    return deepest


class _Walk:
    """Goes through the nodes without recursion: a document may nest a hundred thousand of them."""

    def __init__(self, out: TextBuilder, place: Place) -> None:
        self._out = out
        self._place = place
        self._headings = Headings()
        self._lines: list[str] = []
        self._line: list[str] = []
        self._preformatted = 0
        self._heading: list[str] | None = None  # the text of the heading that is open

    def run(self, root: LexborNode) -> None:
        for node, entering in _steps(root):
            tag = node.tag or ""
            if tag == "-text":
                self.text(node.text_content or "")
            elif entering:
                self._enter(node, tag)
            else:
                self._leave(tag)

    def text(self, text: str) -> None:
        if self._heading is not None:
            self._heading.append(text)
        self._line.append(text if self._preformatted else _SPACES.sub(" ", text))

    def end_line(self) -> None:
        text = "".join(self._line)
        self._line = []
        if self._preformatted:
            self._lines += text.split("\n")
        elif text.strip():
            self._lines.append(_SPACES.sub(" ", text).strip())

    def end_section(self) -> None:
        self.end_line()
        self._out.add("\n".join(self._lines), self._headings.place(**self._place))
        self._lines = []

    def _enter(self, node: LexborNode, tag: str) -> None:
        if tag == "br":
            if self._preformatted:
                self._line.append("\n")
            else:
                self.end_line()
        elif tag in ("td", "th"):
            self._line.append("\t" if "".join(self._line).strip() else "")
        elif tag in _BLOCKS:
            self.end_line()
        if _HEADING.fullmatch(tag):
            self.end_section()
            self._heading = []
        elif tag == "pre":
            self._preformatted += 1
        elif tag == "li":
            self._line.append("- ")
        elif tag == "tr" and _is_data(node):
            self._lines.append(row_text(_cells(node)))

    def _leave(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.end_line()
        if tag == "pre":
            self._preformatted -= 1
        elif _HEADING.fullmatch(tag) and self._heading is not None:
            self._headings.enter(int(tag[1]), one_line("".join(self._heading)))
            self._heading = None


def _steps(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Yield each node below the root on entering (True), and elements also on leaving (False), in order.

    Leaves out what is not shown, and the inside of rows that hold data.
    """
    stack = [(root, True)]
    while stack:
        node, entering = stack.pop()
        if entering and _is_hidden(node):
            continue
        yield node, entering
        if not entering:
            continue
        if (node.tag or "-")[0] != "-":
            stack.append((node, False))
        children = [] if _is_closed(node) else list(_children(node))
        stack.extend((child, True) for child in reversed(children))


def _children(node: LexborNode) -> Iterator[LexborNode]:
    child = node.first_child
    while child is not None:
        yield child
        child = child.next


def _is_closed(node: LexborNode) -> bool:
    return node.tag in _DROPPED or node.tag == "-comment" or (node.tag == "tr" and _is_data(node))


def _is_hidden(node: LexborNode) -> bool:
    if (node.tag or "-").startswith("-"):
        return False
    attributes = node.attrs
    return "hidden" in attributes or bool(_NOT_SHOWN.search(attributes.sget("style") or ""))


def _is_data(row: LexborNode) -> bool:
    """Whether a row is one of data. Pages also use tables for their layout, with whole sections in a cell."""
    return row.css_first("table, h1, h2, h3, h4, h5, h6") is None


def _cells(row: LexborNode) -> Iterator[str]:
    for cell in _children(row):
        if cell.tag in ("td", "th") and not _is_hidden(cell):
            yield "".join(_cell_text(cell))


def _cell_text(cell: LexborNode) -> Iterator[str]:
    for node, _ in _steps(cell):
        if node.tag == "-text":
            yield node.text_content or ""
        elif node.tag in _BLOCKS or node.tag == "br":
            yield " "
