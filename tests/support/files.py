"""Files of every kind, built by code."""

import hashlib
import io
import random
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cache
from typing import Any

import docx
import openpyxl
import pptx
from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher
from docx.document import Document
from docx.oxml.parser import parse_xml
from PIL import Image, ImageDraw
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

MIB = 1 << 20
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_PERMISSIONS = -4


@dataclass(frozen=True)
class Picture:
    """A page that shows a text as a picture."""

    text: str


BLANK = ""  # a page with nothing on it


def pdf(
    *pages: str | Picture, user_password: str | None = None, owner_password: str | None = None, extra: str = ""
) -> bytes:
    """A PDF with one line of text on each page, or a picture, or nothing. `extra` goes into the catalog.

    With a password it is encrypted with RC4, as the first version of the standard has it.
    """
    objects: list[tuple[bytes, bytes | None]] = [(b"", None)] * 2
    kids = []
    font = f"{len(objects) + 1} 0 R"
    objects.append((b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>", None))
    for page in pages:
        resources = f"/Font<</F1 {font}>>"
        if isinstance(page, Picture):
            pixels, width, height = _pixels(page.text)
            head = f"/Type/XObject/Subtype/Image/Width {width}/Height {height}/ColorSpace/DeviceGray/BitsPerComponent 8"
            objects.append((f"<<{head}/Length {len(pixels)}>>".encode(), pixels))
            resources += f"/XObject<</I1 {len(objects)} 0 R>>"
            content = b"q 500 0 0 100 50 600 cm /I1 Do Q"
        else:
            content = _shown(page)
        objects.append((f"<</Length {len(content)}>>".encode(), content))
        body = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<<{resources}>>/Contents {len(objects)} 0 R>>"
        objects.append((body.encode(), None))
        kids.append(f"{len(objects)} 0 R")
    objects[0] = (f"<</Type/Catalog/Pages 2 0 R{extra}>>".encode(), None)
    objects[1] = (f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>".encode(), None)
    return _written(objects, user_password, owner_password)


def pdf_form(label: str, value: str) -> bytes:
    """A PDF with a text and a form field that is filled in."""
    objects: list[tuple[bytes, bytes | None]] = [
        (b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[6 0 R]>>>>", None),
        (b"<</Type/Pages/Count 1/Kids[4 0 R]>>", None),
        (b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", None),
        (
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>"
            b"/Contents 5 0 R/Annots[6 0 R]>>",
            None,
        ),
    ]
    content = _shown(label)
    shown = b"BT /F1 12 Tf 2 4 Td (%s) Tj ET" % value.encode()
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 200 20]/Resources<</Font<</F1 3 0 R>>>>"
    objects += [
        (b"<</Length %d>>" % len(content), content),
        (b"<</Type/Annot/Subtype/Widget/FT/Tx/T(field)/Rect[50 600 250 620]/F 4/AP<</N 7 0 R>>/P 4 0 R>>", None),
        (b"<<%s/Length %d>>" % (form, len(shown)), shown),
    ]
    return _written(objects, None, None)


def _shown(text: str) -> bytes:
    lines = [
        line.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
        for line in text.split("\n")
    ]
    return (
        b"BT /F1 12 Tf 14 TL 50 700 Td " + b" ".join(b"(%s) Tj T*" % line for line in lines) + b" ET" if text else b""
    )


def _pixels(text: str) -> tuple[bytes, int, int]:
    picture = Image.new("L", (500, 100), 255)
    ImageDraw.Draw(picture).text((10, 30), text, fill=0, font_size=30)
    return picture.tobytes(), *picture.size


def _written(
    objects: Sequence[tuple[bytes, bytes | None]], user_password: str | None, owner_password: str | None
) -> bytes:
    encrypted = user_password is not None or owner_password is not None
    key, encryption = _encryption(user_password or "", owner_password or "") if encrypted else (b"", b"")
    data = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, (head, stream) in enumerate((*objects, *([(encryption, None)] if encrypted else [])), 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s" % (number, head)
        if stream is not None:
            own_key = hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[: len(key) + 5]
            data += b"\nstream\n%s\nendstream" % (_rc4(own_key, stream) if encrypted else stream)
        data += b"\nendobj\n"
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"/Encrypt %d 0 R/ID[<00><00>]" % len(offsets) if encrypted else b""
    data += b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (len(offsets) + 1, trailer, start)
    return bytes(data)


def _encryption(user: str, owner: str) -> tuple[bytes, bytes]:
    """The key of the file and its encryption dictionary."""
    user_padded, owner_padded = ((each.encode() + _PADDING)[:32] for each in (user, owner or user))
    of_owner = _rc4(hashlib.md5(owner_padded).digest()[:5], user_padded)
    key = hashlib.md5(user_padded + of_owner + struct.pack("<i", _PERMISSIONS) + b"\0").digest()[:5]
    of_user = _rc4(key, _PADDING)
    entries = b"/Filter/Standard/V 1/R 2/P %d/O<%s>/U<%s>" % (
        _PERMISSIONS,
        of_owner.hex().encode(),
        of_user.hex().encode(),
    )
    return key, b"<<" + entries + b">>"


def _rc4(key: bytes, data: bytes) -> bytes:
    return Cipher(ARC4(key), None).encryptor().update(data)


def archive(members: Mapping[str, bytes | str], *, stored: Sequence[str] = ()) -> bytes:
    """A ZIP archive with these members in order; those named in `stored` are not compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data, zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED)
    return file.getvalue()


def with_symlink(data: bytes, name: str, target: str) -> bytes:
    """The archive with a symbolic link added to it."""
    file = io.BytesIO(data)
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(file, "a") as out:
        out.writestr(link, target)
    return file.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    """The members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def saved(document: "Document | pptx.presentation.Presentation | openpyxl.Workbook") -> bytes:
    """The bytes of a document of one of the libraries."""
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def docx_with(body: str, *, footnotes: Mapping[int, str] | None = None) -> bytes:
    """A DOCX whose body is this XML, with the prefix `w` for its namespace."""
    document = docx.Document()
    element = parse_xml(f'<w:body xmlns:w="{WORD}">{body}</w:body>')
    document.element.replace(document.element.body, element)
    parts = members(saved(document))
    if footnotes is not None:
        notes = "".join(
            f'<w:footnote w:id="{number}"><w:p><w:r><w:footnoteRef/></w:r>{run(text)}</w:p></w:footnote>'
            for number, text in footnotes.items()
        )
        parts["word/footnotes.xml"] = f'<w:footnotes xmlns:w="{WORD}">{notes}</w:footnotes>'.encode()
        kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
        relationship = f'<Relationship Id="rIdNotes" Type="{kind}" Target="footnotes.xml"/></Relationships>'
        rels = "word/_rels/document.xml.rels"
        parts[rels] = parts[rels].replace(b"</Relationships>", relationship.encode())
        content_type = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
        override = f'<Override PartName="/word/footnotes.xml" ContentType="{content_type}"/></Types>'
        parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(b"</Types>", override.encode())
    return archive(parts)


def guide() -> bytes:
    """A DOCX with a heading, paragraphs, a table that has another one in a cell, a footnote, and a deleted run."""
    inner = table(["inner one", "inner two"])
    removed = "<w:del><w:r><w:delText>removed</w:delText></w:r></w:del>"
    deleted = f"<w:p>{run('kept ')}{removed}<w:ins>{run('added')}</w:ins></w:p>"
    noted = f'<w:p>{run("noted")}<w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    body = (
        paragraph("Guide", style="Heading1")
        + paragraph("before")
        + table(["a", "b"], ["c", inner])
        + paragraph("after")
        + noted
        + deleted
    )
    return docx_with(body, footnotes={2: "the note"})


GUIDE = "Guide\n\nbefore\n\na\tb\nc\tinner one inner two\n\nafter\n\nnoted\nthe note\n\nkept added"  # its text


@cache
def bombs() -> dict[str, bytes]:
    """Archives that expand too far: a DOCX of 200 MiB, one with nested entities, and an EPUB of 50,000 members."""
    parts = members(docx_with(paragraph("x")))
    main = "word/document.xml"
    declaration, body = parts[main].split(b"?>", 1)
    levels = b"".join(b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 10))
    entities = declaration + b'?><!DOCTYPE d [<!ENTITY a0 "aaaaaaaaaa">' + levels + b"]>" + body
    return {
        "inflated": archive(parts | {main: parts[main].replace(b">x<", b">" + b"a" * (200 * MIB) + b"<")}),
        "entities": archive(parts | {main: entities.replace(b">x<", b">&a9;<")}),
        "members": epub("<p>x</p>", extra={f"member{number}": "" for number in range(50_000)}),
    }


def far_cells() -> bytes:
    """A small XLSX with the first and the last cell that a sheet can have."""
    return workbook({"S": {"A1": "first", "XFD1048576": "last"}})


def letters(count: int) -> str:
    """Random letters without a space, the same each time."""
    return "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=count))


def distinct_words(count: int) -> str:
    """As many different words."""
    return " ".join(f"w{number:06}" for number in range(1, count + 1))


def run(text: str) -> str:
    """A run of a DOCX with this text."""
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(text: str, *, style: str | None = None) -> str:
    """A paragraph of a DOCX."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}{run(text)}</w:p>"


def table(*rows: Sequence[str]) -> str:
    """A table of a DOCX whose cells hold these texts, or XML if they begin with a tag."""
    return "<w:tbl>" + "".join(f"<w:tr>{''.join(map(_cell, row))}</w:tr>" for row in rows) + "</w:tbl>"


def _cell(content: str) -> str:
    return f"<w:tc>{content if content.startswith('<') else paragraph(content)}<w:p/></w:tc>"


def workbook(sheets: Mapping[str, Mapping[str, object]]) -> bytes:
    """An XLSX with these values by cell in each sheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, cells in sheets.items():
        sheet = book.create_sheet(title)
        for place, value in cells.items():
            sheet[place] = value
    return saved(book)


def presentation(*slides: tuple[str, str, str]) -> bytes:
    """A PPTX with a title, a text and speaker notes on each slide."""
    deck = pptx.Presentation()
    for title, text, notes in slides:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    return saved(deck)


def presentation_with_shapes(table_cells: Sequence[Sequence[str]], grouped: str) -> bytes:
    """A PPTX whose one slide has a table, and a text box inside of a group."""
    deck = pptx.Presentation()
    shapes = deck.slides.add_slide(deck.slide_layouts[6]).shapes
    size = Inches(1)
    grid = shapes.add_table(len(table_cells), len(table_cells[0]), size, size, size, size).table
    for row, texts in enumerate(table_cells):
        for column, text in enumerate(texts):
            grid.cell(row, column).text = text
    shapes.add_group_shape().shapes.add_textbox(size, size, size, size).text_frame.text = grouped
    return saved(deck)


def presentation_with_chart(series: str, values: Mapping[str, float]) -> bytes:
    """A PPTX whose one slide has a chart with these values by category."""
    deck = pptx.Presentation()
    data: Any = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = list(values)
    data.add_series(series, list(values.values()))
    size = Inches(2)
    shapes = deck.slides.add_slide(deck.slide_layouts[6]).shapes
    shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, size, size, size, size, data)
    return saved(deck)


def epub(*chapters: str, extra: Mapping[str, bytes | str] | None = None) -> bytes:
    """An EPUB with the bodies of these chapters in order."""
    names = [f"chapter{number}.xhtml" for number in range(1, len(chapters) + 1)]
    items = "".join(f'<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>' for name in names)
    spine = "".join(f'<itemref idref="{name}"/>' for name in names)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/package.opf"/></rootfiles></container>'
    )
    texts = {
        f"OPS/{name}": f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
        for name, body in zip(names, chapters, strict=True)
    }
    parts = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "OPS/package.opf": package}
    return archive(parts | texts | dict(extra or {}), stored=["mimetype"])


def email(subject: str, text: str, *, html: str | None = None, attachments: Sequence[str] = ()) -> bytes:
    """An e-mail with empty attachments of these names."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "Ada <ada@example.com>", "Bob <bob@example.com>"
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name in attachments:
        message.add_attachment(b"-", "application", "octet-stream", filename=name)
    return message.as_bytes()


def ole(stream: str) -> bytes:
    """The beginning of an OLE file with one stream in its directory."""
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\0")
    return header + stream.encode("utf-16-le").ljust(512, b"\0")
