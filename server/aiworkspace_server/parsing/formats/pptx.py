"""PPTX: the text of each slide in the order of its shapes, then the speaker notes."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from pptx.opc.package import PartFactory
from pptx.oxml import parse_xml
from pptx.oxml.ns import qn
from pptx.package import Package
from pptx.parts.presentation import PresentationPart

from ..archives import checked_package
from ..failures import FailureReason, ParseFailed
from ..text import TextBuilder, is_visible, one_line

_PARAGRAPH, _TEXT, _CHART_VALUE, _FRAME = qn("a:p"), qn("a:t"), qn("c:v"), qn("p:graphicFrame")
_TEXTS = _TEXT, "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_BREAK = qn("a:br")
_VERSIONS = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_MAIN_TYPES = (
    "application/vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml",
    "application/vnd.openxmlformats-officedocument.presentationml.template.main+xml",
    "application/vnd.ms-powerpoint.presentation.macroEnabled.main+xml",
    "application/vnd.ms-powerpoint.slideshow.macroEnabled.main+xml",
    "application/vnd.ms-powerpoint.template.macroEnabled.main+xml",
)


def parse(file: BinaryIO, out: TextBuilder) -> None:
    for content_type in _MAIN_TYPES:  # python-pptx knows presentations only
        PartFactory.part_type_for[content_type] = PresentationPart
    try:
        part = Package.open(checked_package(file, out.limits)).main_document_part
    except (KeyError, ValueError) as error:
        raise ParseFailed(FailureReason.MALFORMED, f"The presentation cannot be opened: {error}.") from error
    slides = part.presentation.slides
    out.check_pages(len(slides))
    for number, slide in enumerate(slides, 1):
        _choose_versions(slide.element)
        title = slide.shapes.title
        heading = one_line(title.text_frame.text)[:200] if title is not None and title.has_text_frame else ""
        place = {"slide": number, "headings": [heading]} if heading else {"slide": number}
        for text in (*_texts(slide.shapes), *_diagrams(slide.part)):
            out.add(text, place)
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
            _choose_versions(slide.notes_slide.element)
            out.add(_text(notes), place)


def _choose_versions(root: Any) -> None:
    """Put one version in place of each group of versions of the same content, of which python-pptx sees none.

    The versions are those for newer programs first, then one for all others. The first one with content is taken.
    """
    for group in list(root.iter(_VERSIONS)):
        for child in list(next(filter(_has_content, group.iterchildren("{*}*")), ())):
            group.addprevious(child)
        group.getparent().remove(group)


def _has_content(version: Any) -> bool:
    """Whether a version has text, or a table, chart or diagram."""
    return is_visible("".join(version.itertext(*_TEXTS))) or next(version.iter(_FRAME), None) is not None


def _texts(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _texts(shape.shapes)
        elif getattr(shape, "has_table", False):
            yield "\n".join("\t".join(map(_cell, row.cells)).rstrip("\t") for row in shape.table.rows)
        elif getattr(shape, "has_chart", False):
            yield "\t".join(each.text or "" for each in shape.chart._chartSpace.iter(_TEXT, _CHART_VALUE))
        elif shape.has_text_frame:
            yield _text(shape.text_frame)


def _text(frame: Any) -> str:
    """The paragraphs of a text frame. python-pptx leaves formulas out."""
    return "\n".join(
        "".join("\n" if each.tag == _BREAK else each.text or "" for each in paragraph.iter(*_TEXTS, _BREAK))
        for paragraph in frame._txBody.iterchildren(_PARAGRAPH)
    )


def _diagrams(part: Any) -> Iterator[str]:
    """The texts of SmartArt, which are in parts of their own."""
    for relationship in part.rels.values():
        if relationship.reltype.endswith("/diagramData"):
            root = parse_xml(relationship.target_part.blob)
            yield "\n".join(text for each in root.iter(_PARAGRAPH) if (text := "".join(each.itertext(_TEXT))))


def _cell(cell: Any) -> str:
    return "" if cell.is_spanned else one_line(cell.text)
