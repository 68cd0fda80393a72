"""Markdown: the source as it is, in one block for each section."""

import re

from markdown_it import MarkdownIt

from ..text import Headings, TextBuilder, clean, one_line

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_MARKS = re.compile(r"[*_`~]+(?=\S)|(?<=\S)[*_`~]+")


def parse(text: str, out: TextBuilder) -> None:
    """Headings inside code blocks, quotes and lists do not begin a section."""
    text = clean(text)
    headings = Headings()
    if found := _FRONT_MATTER.match(text):
        out.add(found.group(), headings.place())
        text = text[found.end() :]
    lines = text.split("\n")
    begin = 0
    # Only blocks are parsed: inline syntax takes quadratic time for text such as a long run of brackets.
    tokens = MarkdownIt("commonmark").disable("inline").parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map is not None:
            out.add("\n".join(lines[begin : token.map[0]]), headings.place())
            begin = token.map[0]
            headings.enter(int(token.tag[1:]), _title(tokens[at + 1].content))
    out.add("\n".join(lines[begin:]), headings.place())


def _title(source: str) -> str:
    return one_line(_MARKS.sub("", _LINK.sub(r"\1", source[:1_000])))
