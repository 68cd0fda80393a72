"""PDF: the text of each page, in the order of its content."""

import re
from typing import BinaryIO

import pypdfium2
from pypdfium2 import raw

from ..failures import FailureReason, ParseFailed
from ..text import TextBuilder, is_visible

_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_DOTS_PER_INCH = 200
_MOST_PIXELS = 4_000  # of the longer side
_HYPHENATED = re.compile("[\ufffe\x02]\r?\n?")  # PDFium's mark for a hyphen at the end of a line


def parse(file: BinaryIO, out: TextBuilder) -> None:
    """Pages that have content and no text are recognized if possible, and named as unread otherwise.

    An empty page has nothing to read, and is not named.
    """
    document = _open(file)
    out.page_count = len(document)
    out.check_pages(out.page_count)
    has_form = document.get_formtype() != raw.FORMTYPE_NONE
    for index in range(out.page_count):
        try:
            page = _flattened(document, index) if has_form else document[index]
        except pypdfium2.PdfiumError:  # the rest of the document may be fine
            out.unread_pages.append(index + 1)
            continue
        text = _text(page)
        if is_visible(text):
            out.add(text, {"page": index + 1})
        elif raw.FPDFPage_CountObjects(page) > 0:
            text = _recognized(page, out)
            out.add(text, {"page": index + 1})
            if not is_visible(text):
                out.unread_pages.append(index + 1)
        page.close()


def _open(file: BinaryIO) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise ParseFailed(FailureReason.ENCRYPTED, "The PDF opens only with a password; remove it.") from error
        if getattr(error, "err_code", None) == raw.FPDF_ERR_SECURITY:
            detail = "The PDF is protected in a way that is not supported; save it without protection."
            raise ParseFailed(FailureReason.ENCRYPTED, detail) from error
        raise ParseFailed(FailureReason.MALFORMED, "The PDF is damaged and cannot be opened.") from error


def _flattened(document: pypdfium2.PdfDocument, index: int) -> pypdfium2.PdfPage:
    """The page with the values of its form fields among its text."""
    page = document[index]
    if raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) != raw.FLATTEN_SUCCESS:
        return page
    page.close()
    return document[index]


def _recognized(page: pypdfium2.PdfPage, out: TextBuilder) -> str:
    """The text in the picture of a page, "" without a recognizer or when its time is over."""
    if out.recognize is None:
        return ""
    scale = min(_DOTS_PER_INCH / 72, _MOST_PIXELS / max(*page.get_size(), 1))
    try:
        bitmap = page.render(scale=scale, grayscale=True)
    except pypdfium2.PdfiumError:  # for example without enough memory for it
        return ""
    rows = bytes(bitmap.buffer)
    picture = b"".join(rows[at : at + bitmap.width] for at in range(0, bitmap.stride * bitmap.height, bitmap.stride))
    return out.recognize(b"P5 %d %d 255\n" % (bitmap.width, bitmap.height) + picture)


def _text(page: pypdfium2.PdfPage) -> str:
    text_page = page.get_textpage()
    text: str = text_page.get_text_range(errors="ignore")
    text_page.close()
    return _HYPHENATED.sub("", text).translate(_LIGATURES)
