"""DOCX: the body in order, with headings, lists, tables, notes and text boxes; without what is deleted."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from docx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
from docx.opc.part import PartFactory
from docx.oxml.ns import qn
from docx.oxml.parser import parse_xml
from docx.package import Package
from docx.parts.document import DocumentPart

from ..archives import checked_package
from ..failures import FailureReason, ParseFailed
from ..text import Headings, TextBuilder, is_visible, one_line

_MAIN_TYPES = (
    CONTENT_TYPE.WML_DOCUMENT_MAIN,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml",
    "application/vnd.ms-word.document.macroEnabled.main+xml",
    "application/vnd.ms-word.template.macroEnabledTemplate.main+xml",
)
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
# Deleted and moved text, instructions of fields, properties, and second versions of drawings.
_SKIPPED = {
    qn(f"w:{tag}") for tag in ("del", "moveFrom", "instrText", "delText", "pPr", "rt", "txbxContent", "sdtPr")
} | {_FALLBACK}
_TEXT = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_PARAGRAPH, _TABLE, _ROW, _CELL, _RUN = (qn(f"w:{tag}") for tag in ("p", "tbl", "tr", "tc", "r"))
_DELETED_ROW = f"{qn('w:trPr')}/{qn('w:del')}"
_CONTAINERS = {qn(f"w:{tag}") for tag in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag")}
_NOTES = {qn("w:footnoteReference"): RELATIONSHIP_TYPE.FOOTNOTES, qn("w:endnoteReference"): RELATIONSHIP_TYPE.ENDNOTES}
_MOST_LEVELS = 9
_TITLE_LEVEL = 0


def parse(file: BinaryIO, out: TextBuilder) -> None:
    for content_type in _MAIN_TYPES:  # python-docx knows documents without macros only
        PartFactory.part_type_for[content_type] = DocumentPart
    try:
        part = Package.open(checked_package(file, out.limits)).main_document_part
    except (KeyError, ValueError) as error:
        raise ParseFailed(FailureReason.MALFORMED, f"The document cannot be opened: {error}.") from error
    if not isinstance(part, DocumentPart) or part.element.body is None:
        raise ParseFailed(FailureReason.MALFORMED, "The document has no body.")
    _Body(part, out).run()


class _Body:
    def __init__(self, part: DocumentPart, out: TextBuilder) -> None:
        self._part = part
        self._out = out
        self._headings = Headings()
        self._levels, self._lists = _styles(part)
        self._notes: dict[str, dict[str, str]] = {}  # what is left to be added, by the tag that refers to it
        self._notes = {reference: self._all_notes(kind) for reference, kind in _NOTES.items()}
        self._in_list = False

    def run(self) -> None:
        for element in _blocks(self._part.element.body):
            if element.tag == _TABLE:
                self._add("\n".join(self._rows(element)))
            else:
                self._paragraph(element)

        for text in self._headers_and_footers():
            self._out.add(text, {})

    def _paragraph(self, paragraph: Any) -> None:
        text = self._text(paragraph)
        if is_visible(text):
            if (level := self._level(paragraph)) is not None:
                self._headings.enter(level, one_line(text))
            is_list = level is None and self._is_list(paragraph)
            self._add(f"- {text.strip()}" if is_list else text, joiner="\n" if is_list and self._in_list else "\n\n")
            self._in_list = is_list
        for extra in (*self._boxes(paragraph), *self._note_texts(paragraph)):
            self._add(extra, joiner="\n")

    def _add(self, text: str, joiner: str = "\n\n") -> None:
        self._out.add(text, self._headings.place(), joiner=joiner)

    def _level(self, paragraph: Any) -> int | None:
        """The level of a heading, from its own outline level or that of its style."""
        own = paragraph.find(f"{qn('w:pPr')}/{qn('w:outlineLvl')}")
        level = _value(own)
        if level is not None and level.isdecimal():
            return int(level) + 1 if int(level) < _MOST_LEVELS else None
        return self._levels.get(_style_id(paragraph))

    def _is_list(self, paragraph: Any) -> bool:
        return paragraph.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None or _style_id(paragraph) in self._lists

    def _text(self, paragraph: Any) -> str:
        return "".join(_pieces(paragraph))

    def _lines(self, parent: Any) -> Iterator[str]:
        """The paragraphs below an element, each followed by its text boxes, and the rows of tables."""
        for block in _blocks(parent):
            if block.tag == _TABLE:
                yield from self._rows(block)
            else:
                yield self._text(block)
                yield from self._boxes(block)

    def _boxes(self, paragraph: Any) -> Iterator[str]:
        """The text boxes that are anchored in a paragraph."""
        for box in _inside(paragraph, qn("w:txbxContent")):
            yield "\n".join(self._lines(box))

    def _note_texts(self, element: Any) -> Iterator[str]:
        for reference, notes in self._notes.items():
            for found in _inside(element, reference):
                yield notes.pop(found.get(qn("w:id"), ""), "")

    def _all_notes(self, kind: str) -> dict[str, str]:
        """The texts of footnotes or endnotes by id."""
        try:
            blob = self._part.part_related_by(kind).blob
        except KeyError:
            return {}
        return {note.get(qn("w:id"), ""): "\n".join(self._lines(note)).strip() for note in parse_xml(blob)}

    def _headers_and_footers(self) -> list[str]:
        """The texts of headers and footers, each once however many sections have it."""
        kinds = (RELATIONSHIP_TYPE.HEADER, RELATIONSHIP_TYPE.FOOTER)
        roots = [each.target_part.element for each in self._part.rels.values() if each.reltype in kinds]
        return list(dict.fromkeys("\n".join(self._lines(root)).strip() for root in roots))

    def _rows(self, table: Any) -> Iterator[str]:
        """The rows of a table, each followed by the notes in it. A cell that continues one above is empty."""
        for row in _children(table, _ROW):
            if _is_deleted(row):
                continue
            yield "\t".join(self._cell(cell) for cell in _children(row, _CELL)).rstrip("\t")
        yield from (text for text in self._note_texts(table) if text)

    def _cell(self, cell: Any) -> str:
        """All of a cell on one line. Cells of a table inside of it are apart by spaces."""
        texts = []
        for block in _blocks(cell):
            texts.append(" ".join(self._rows(block)) if block.tag == _TABLE else self._text(block))
            texts.extend(self._boxes(block) if block.tag == _PARAGRAPH else ())
        return one_line(" ".join(texts))


def _styles(part: DocumentPart) -> tuple[dict[str, int], set[str]]:
    """The outline levels of styles by id, and the ids of those that make lists. Styles inherit levels."""
    levels: dict[str, int] = {}
    lists: set[str] = set()
    parents: dict[str, str] = {}
    for style in _definitions(part):
        style_id = style.get(qn("w:styleId"), "")
        name = (_value(style.find(qn("w:name"))) or "").lower()
        parents[style_id] = _value(style.find(qn("w:basedOn"))) or ""
        level = _value(style.find(f"{qn('w:pPr')}/{qn('w:outlineLvl')}"))
        if level is not None and level.isdecimal() and int(level) < _MOST_LEVELS:
            levels[style_id] = int(level) + 1
        elif name.startswith("heading ") and name[8:].isdecimal():
            levels[style_id] = int(name[8:])
        elif name == "title":
            levels[style_id] = _TITLE_LEVEL
        if style.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None or name.startswith("list "):
            lists.add(style_id)
    for style_id in parents:
        ancestor = style_id
        for _ in range(20):  # a chain may be circular
            if ancestor in levels:
                levels.setdefault(style_id, levels[ancestor])
                break
            ancestor = parents.get(ancestor, "")
    return levels, lists - set(levels)


def _definitions(part: DocumentPart) -> Iterator[Any]:
    """The styles of a document, which it may do without. python-docx would open its own template then."""
    try:
        related = part.part_related_by(RELATIONSHIP_TYPE.STYLES)
    except KeyError:
        return
    yield from parse_xml(related.blob).iterchildren(qn("w:style"))


def _style_id(paragraph: Any) -> str:
    return _value(paragraph.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")) or ""


def _value(element: Any) -> str | None:
    value: str | None = None if element is None else element.get(qn("w:val"))
    return value


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, also those in content controls and insertions."""
    for child in parent:
        if child.tag in (_PARAGRAPH, _TABLE):
            yield child
        elif child.tag in _CONTAINERS:
            yield from _blocks(child)


def _children(parent: Any, tag: str) -> Iterator[Any]:
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag in _CONTAINERS:
            yield from _children(child, tag)


def _inside(element: Any, tag: str) -> Iterator[Any]:
    """The elements with a tag below this one, without those in deleted or hidden text or inside of each other."""
    for child in element:
        if child.tag == tag:
            yield child
        elif child.tag not in _SKIPPED and not _is_vanished(child) and not _is_deleted(child):
            yield from _inside(child, tag)


def _pieces(element: Any) -> Iterator[str]:
    for child in element:
        if child.tag == qn("w:t") or child.tag == _MATH_TEXT:
            yield child.text or ""
        elif child.tag in _TEXT:
            yield _TEXT[child.tag]
        elif _is_vanished(child):
            continue
        elif child.tag not in _SKIPPED and isinstance(child.tag, str):
            yield from _pieces(child)


def _is_vanished(element: Any) -> bool:
    """Whether this is a hidden run."""
    vanish = element.find(f"{qn('w:rPr')}/{qn('w:vanish')}") if element.tag == _RUN else None
    return vanish is not None and _value(vanish) not in ("0", "false", "off")


def _is_deleted(element: Any) -> bool:
    """Whether this is a deleted row."""
    return element.tag == _ROW and element.find(_DELETED_ROW) is not None
