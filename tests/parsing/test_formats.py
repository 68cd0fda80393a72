"""Every format: its text in reading order, and the places."""

import datetime
import re
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import docx
import pytest

from aiworkspace_server.parsing import media_types
from aiworkspace_server.parsing.assembly import Parsed
from aiworkspace_server.parsing.text import Place
from tests.support import files

from .conftest import Parse

COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"
MATH = "http://schemas.openxmlformats.org/officeDocument/2006/math"


def places(parsed: Parsed) -> list[Place]:
    return [block.place for block in parsed.blocks]


async def test_pdf_has_a_block_for_each_page_with_text(parse: Parse) -> None:
    parsed = await parse(files.pdf("First page (of two)", "Second\npage"), "any.bin")
    assert parsed.media_type == media_types.PDF
    assert parsed.page_count == 2
    assert parsed.text == "First page (of two)\n\nSecond\npage"
    assert places(parsed) == [{"page": 1}, {"page": 2}]


async def test_docx_keeps_order_cells_and_notes_without_deleted_text(parse: Parse) -> None:
    parsed = await parse(files.guide())
    assert parsed.media_type == media_types.DOCX
    assert parsed.text == files.GUIDE
    assert places(parsed) == [{"headings": ["Guide"]}]


async def test_pptx_has_a_block_for_each_slide_with_its_notes(parse: Parse) -> None:
    parsed = await parse(files.presentation(("One", "text", "say this"), ("Two", "more", "")))
    assert parsed.text == "One\n\ntext\n\nsay this\n\nTwo\n\nmore"
    assert places(parsed) == [{"slide": 1, "headings": ["One"]}, {"slide": 2, "headings": ["Two"]}]


async def test_pptx_reads_tables_and_grouped_shapes(parse: Parse) -> None:
    parsed = await parse(files.presentation_with_shapes([["a", "b"], ["c", "d"]], "in a group"))
    assert parsed.text == "a\tb\nc\td\n\nin a group"


async def test_xlsx_writes_values_as_people_do(parse: Parse) -> None:
    cells = {"A1": "name", "B1": "when", "A2": 0.1 + 0.2, "B2": datetime.date(2024, 5, 6), "C2": "=A2*2", "D2": True}
    parsed = await parse(files.workbook({"Data": cells, "Other": {"C3": "x"}}))
    assert parsed.text == "name\twhen\n0.3\t2024-05-06\t=A2*2\tTRUE\n\n\t\tx"
    assert places(parsed) == [
        {"sheet": "Data", "first_row": 1, "last_row": 2},
        {"sheet": "Other", "first_row": 3, "last_row": 3},
    ]


async def test_xlsx_shows_a_formula_only_where_nothing_has_calculated_it(parse: Parse) -> None:
    parts = files.members(files.workbook({"S": {"A1": "=IF(1,,)", "A2": "=1+1", "A3": "=2+2"}}))
    sheet = "xl/worksheets/sheet1.xml"
    first, second, third = re.findall(rb"<c r=.*?</c>", parts[sheet])
    changed = parts[sheet].replace(first, b'<c r="A1" t="str"><f>IF(1,,)</f><v></v></c>')
    changed = changed.replace(second, b'<c r="A2"><f>1+1</f><v>2</v></c>')
    changed = changed.replace(third, b'<c r="A3"><f>2+2</f></c>')
    assert (await parse(files.archive(parts | {sheet: changed}))).text == "2\n=2+2"


async def test_drawings_that_are_not_read_need_not_be_well_formed(parse: Parse) -> None:
    parts = files.members(files.workbook({"S": {"A1": "text"}}))
    assert (await parse(files.archive(parts | {"xl/drawings/vmlDrawing1.vml": b"<xml><br></xml>"}))).text == "text"


async def test_html_drops_what_is_not_shown(parse: Parse) -> None:
    page = """<title>Page</title><style>p{}</style><h1>Top</h1><p>Some <b>bold</b> text<br>next</p><script>no()</script>
    <p hidden>no</p><p style="display: none">no</p><h2>Sub</h2><table><tr><th>n<th>v<tr><td>a
    b<td>2</table><ul><li>one<li>two</ul><pre>x\n  y</pre>"""
    parsed = await parse(page.encode(), "page.html")
    assert parsed.text == "Page\n\nTop\nSome bold text\nnext\n\nSub\nn\tv\na b\t2\n- one\n- two\nx\n  y"
    assert places(parsed) == [{}, {"headings": ["Top"]}, {"headings": ["Top", "Sub"]}]


async def test_html_leaves_out_hidden_rows_cells_and_headings(parse: Parse) -> None:
    hidden = ["hidden", 'style="Display : none"', 'style="visibility:hidden"']
    rows = "".join(f"<tr {how}><td>no</tr><tr><td>yes<td {how}>no<td>too</tr>" for how in hidden)
    page = f"a<p hidden>no</p>b<table>{rows}<tr><td>x<b hidden>no</b>y</table><h1 hidden>no</h1>last<br hidden>line"
    parsed = await parse(page.encode(), "page.html")
    assert parsed.text == "ab\nyes\ttoo\nyes\ttoo\nyes\ttoo\nxy\nlastline"
    assert places(parsed) == [{}]


async def test_epub_reads_chapters_in_the_order_of_the_spine(parse: Parse) -> None:
    parsed = await parse(files.epub("<h1>One</h1><p>first</p>", "<p>second</p>"))
    assert parsed.text == "One\nfirst\n\nsecond"
    assert places(parsed) == [{"chapter": 1, "headings": ["One"]}, {"chapter": 2}]


async def test_markdown_keeps_its_source_and_finds_headings(parse: Parse) -> None:
    source = "intro\n\n# Guide\n\ntext\n\n## *Install* [it](https://example.com)\n\n```\n# no heading\n```\n"
    parsed = await parse(source.encode(), "a.md")
    assert parsed.text == source.strip()
    assert places(parsed) == [{}, {"headings": ["Guide"]}, {"headings": ["Guide", "Install it"]}]


async def test_email_has_its_headers_text_and_names_of_attachments(parse: Parse) -> None:
    mail = files.email("Grüße aus Köln", "Hallo", html="<p>other</p>", attachments=["übersicht.pdf"])
    parsed = await parse(mail, "mail.eml")
    head = "Subject: Grüße aus Köln\nFrom: Ada <ada@example.com>\nTo: Bob <bob@example.com>"
    assert parsed.text == f"{head}\n\nHallo\n\nAttachment: übersicht.pdf"


async def test_csv_separates_cells_by_tabs_and_counts_rows(parse: Parse) -> None:
    rows = "\n".join(f"{number};Person {number};City" for number in range(200))
    parsed = await parse(f"id;name;city\n{rows}\n".encode(), "people.csv")
    assert parsed.text.startswith("id\tname\tcity\n0\tPerson 0\tCity\n")
    first, second, *_ = places(parsed)
    assert first["first_row"] == 1
    assert second == {
        "first_row": first["last_row"] + 1,
        "last_row": second["last_row"],
        "headings": ["id · name · city"],
    }
    assert all(block.end - block.start <= 2_000 for block in parsed.blocks)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("Birne;2,30\nApfel;1,50", "Birne\t2,30\nApfel\t1,50"),
        ("1,5;2,5;3,5\n4,5;5,5;6,5", "1,5\t2,5\t3,5\n4,5\t5,5\t6,5"),
        ("Miller, Ada;Berlin\nSmith, Bob;Rome", "Miller, Ada\tBerlin\nSmith, Bob\tRome"),
        ('x,"a;b"\ny,"c;d"', "x\ta;b\ny\tc;d"),
        ('"a;b",x\n"c;d",y', "a;b\tx\nc;d\ty"),
        ('x;"a,b"\ny;"c,d"', "x\ta,b\ny\tc,d"),
        ("a,b,c;d\ne,f,g;h", "a\tb\tc;d\ne\tf\tg;h"),
        ("1,2,3\n4,5,6", "1\t2\t3\n4\t5\t6"),
        ('name,size\npipe,5"\nrod;long,7"', 'name\tsize\npipe\t5"\nrod;long\t7"'),
        ('a;"one\ntwo, three";c\nd;e;f', "a\tone two, three\tc\nd\te\tf"),
        ('a,"say ""no; never"""\nb,"yes; sir"', 'a\tsay "no; never"\nb\tyes; sir'),
        ("a,b|c,d\ne,f|g,h", "a\tb|c\td\ne\tf|g\th"),
        ("a, b\tc\nd, e\tf", "a, b\tc\nd, e\tf"),
        ("one column", "one column"),
    ],
)
async def test_csv_is_split_where_its_lines_have_equally_many_fields(parse: Parse, rows: str, text: str) -> None:
    assert (await parse(rows.encode(), "a.csv")).text == text


async def test_json_becomes_lines_of_keys_and_values(parse: Parse) -> None:
    data = b'{"order": {"id": 12345678901234567890, "open": true, "lines": [{"sku": "a"}, "b"], "none": null}}'
    parsed = await parse(data, "order.json")
    assert (
        parsed.text
        == "order:\n  id: 12345678901234567890\n  open: true\n  lines:\n    -\n      sku: a\n    - b\n  none:"
    )


@pytest.mark.parametrize(("name", "media_type"), [("a.py", "text/x-python"), ("a.txt", "text/plain")])
async def test_lines_are_grouped_with_the_first_line_of_each_group(parse: Parse, name: str, media_type: str) -> None:
    paragraphs = [f"paragraph {number} " + "word " * 150 for number in range(20)]
    parsed = await parse("\n\n".join(paragraphs).encode(), name)
    assert parsed.media_type == media_type
    for block in parsed.blocks:
        assert block.end - block.start <= 4_000
        first = parsed.text[block.start : block.end].split("\n")[0]
        assert "\n\n".join(paragraphs).split("\n")[block.place["line"] - 1].strip() == first.strip()


MACROS = {
    "docx": ("wordprocessingml.document.main", "vnd.ms-word.document.macroEnabled.main"),
    "dotx": ("wordprocessingml.document.main", "wordprocessingml.template.main"),
    "pptm": ("presentationml.presentation.main", "vnd.ms-powerpoint.presentation.macroEnabled.main"),
    "ppsx": ("presentationml.presentation.main", "presentationml.slideshow.main"),
    "xlsm": ("spreadsheetml.sheet.main", "vnd.ms-excel.sheet.macroEnabled.main"),
    "xltx": ("spreadsheetml.sheet.main", "spreadsheetml.template.main"),
}
OFFICE = {
    "d": (files.docx_with(files.paragraph("text")), media_types.DOCX),
    "p": (files.presentation(("text", "", "")), media_types.PPTX),
    "x": (files.workbook({"S": {"A1": "text"}}), media_types.XLSX),
}


@pytest.mark.parametrize("extension", MACROS)
async def test_templates_and_files_with_macros_are_read(parse: Parse, extension: str) -> None:
    usual, other = MACROS[extension]
    data, media_type = OFFICE[extension[0]]
    prefix = "application/vnd.openxmlformats-officedocument."
    content_type = f"application/{other}" if other.startswith("vnd.") else prefix + other
    parts = files.members(data)
    declared = parts["[Content_Types].xml"]
    parts["[Content_Types].xml"] = declared.replace(f"{prefix}{usual}+xml".encode(), f"{content_type}+xml".encode())
    assert parts["[Content_Types].xml"] != declared
    parsed = await parse(files.archive(parts))
    assert (parsed.media_type, parsed.text) == (media_type, "text")


@pytest.mark.parametrize("kind", ["d", "x"])
async def test_strict_office_files_are_read(parse: Parse, kind: str) -> None:
    """The strict variant of the standard has other namespaces."""
    families = r"(wordprocessingml|spreadsheetml|officeDocument)"
    parts = {
        name: re.sub(
            rf"http://schemas\.openxmlformats\.org/{families}/2006/".encode(), rb"http://purl.oclc.org/ooxml/\1/", part
        )
        for name, part in files.members(OFFICE[kind][0]).items()
    }
    assert (await parse(files.archive(parts))).text == "text"


async def test_docx_reads_boxes_controls_and_moved_text_but_nothing_hidden(parse: Parse) -> None:
    hidden = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>no</w:t></w:r>"
    moved = f"<w:moveFrom>{files.run('no')}</w:moveFrom><w:moveTo>{files.run('moved')}</w:moveTo>"
    field = "<w:r><w:instrText>PAGE no</w:instrText></w:r>"
    row = "<w:tr>{}<w:tc>{}</w:tc></w:tr>"
    rows = row.format("<w:trPr><w:del/></w:trPr>", files.paragraph("no")) + row.format("", files.paragraph("row"))
    body = (
        f"<w:p>{drawn(files.paragraph('box'))}</w:p>"
        f"<w:sdt><w:sdtContent>{files.paragraph('control')}</w:sdtContent></w:sdt>"
        f"<w:p>{hidden}{moved}{field}<w:hyperlink>{files.run(' link')}</w:hyperlink></w:p><w:tbl>{rows}</w:tbl>"
        + files.paragraph("one", style="ListBullet")
        + files.paragraph("two", style="ListBullet")
    )
    parsed = await parse(files.docx_with(body))
    assert parsed.text == "box\n\ncontrol\n\nmoved link\n\nrow\n\n- one\n- two"


def drawn(text: str, fallback: str | None = None) -> str:
    """A DOCX run with a text box, as Word writes it for new and for old programs."""
    box = "<w:txbxContent>{}</w:txbxContent>".format
    choice = f"<mc:Choice Requires='wps'><w:drawing>{box(text)}</w:drawing></mc:Choice>"
    versions = f"{choice}<mc:Fallback><w:pict>{box(text if fallback is None else fallback)}</w:pict></mc:Fallback>"
    return f"<w:r><mc:AlternateContent xmlns:mc='{COMPATIBILITY}'>{versions}</mc:AlternateContent></w:r>"


async def test_docx_headers_have_each_box_once_and_the_rows_of_tables(parse: Parse) -> None:
    document = docx.Document()
    document.add_paragraph("body")
    for part in (document.sections[0].header, document.sections[0].footer):
        part.paragraphs[0].text = "content"
    parts = files.members(files.saved(document))
    inner = files.table(["in", "box"])
    for name in ("header", "footer"):
        content = (
            f"<w:p>{files.run(name)}{drawn(files.paragraph('box') + inner)}</w:p>",
            files.table([f"{name} 1", "b"], ["c", f"<w:p>{drawn(files.paragraph('in a cell'))}</w:p>"]),
            f"<w:sdt><w:sdtContent>{files.paragraph('page')}</w:sdtContent></w:sdt>",
        )
        path = f"word/{name}1.xml"
        parts[path] = re.sub(rb"<w:p\b.*</w:p>", "".join(content).encode(), parts[path], flags=re.DOTALL)
    parsed = await parse(files.archive(parts))
    rest = "box\nin\tbox\n{} 1\tb\nc\tin a cell\npage"
    assert parsed.text == f"body\n\nheader\n{rest.format('header')}\n\nfooter\n{rest.format('footer')}"


async def test_docx_leaves_out_notes_of_deleted_rows_and_hidden_text(parse: Parse) -> None:
    def noted(text: str, number: int, properties: str = "") -> str:
        return f'<w:p>{files.run(text)}<w:r>{properties}<w:footnoteReference w:id="{number}"/></w:r></w:p>'

    row = "<w:tr>{}<w:tc>{}</w:tc></w:tr>"
    deleted = "<w:trPr><w:del/></w:trPr>"
    inner = f"<w:tbl>{row.format(deleted, noted('no', 4))}{row.format('', noted('inner', 5))}</w:tbl>"
    rows = row.format(deleted, noted("no", 2)) + row.format("", noted("row", 3)) + row.format("", inner + "<w:p/>")
    body = f"<w:tbl>{rows}</w:tbl>" + noted("hidden note", 6, "<w:rPr><w:vanish/></w:rPr>")
    notes = {number: f"note {number}" for number in range(2, 7)}
    parsed = await parse(files.docx_with(body, footnotes=notes))
    assert parsed.text == "row\ninner note 5\nnote 3\n\nhidden note"


async def test_docx_without_styles_is_read(parse: Parse) -> None:
    parts = files.members(files.docx_with(files.paragraph("text", style="Heading1")))
    parts = {name: part for name, part in parts.items() if name != "word/styles.xml"}
    rels = "word/_rels/document.xml.rels"
    parts[rels] = re.sub(rb'<Relationship [^>]*Target="styles.xml"[^>]*/>', b"", parts[rels])
    assert b"styles.xml" not in parts[rels]
    parsed = await parse(files.archive(parts))
    assert (parsed.text, places(parsed)) == ("text", [{}])


async def test_docx_headings_nest_and_letterheads_come_last(parse: Parse) -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "letterhead"
    for level, text in enumerate(("Title", "One", "Two")):
        document.add_heading(text, level)
    document.add_heading("Again", 1)
    parsed = await parse(files.saved(document))
    paths = [["Title"], ["Title", "One"], ["Title", "One", "Two"], ["Title", "Again"]]
    assert places(parsed) == [*({"headings": path} for path in paths), {}]
    assert parsed.text.endswith("Again\n\nletterhead")


def shape(text: str, tag: str = "a:t") -> str:
    """A shape of a PPTX with this text."""
    return (
        '<p:sp><p:nvSpPr><p:cNvPr id="9" name="s"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/>'
        f"<p:txBody><a:bodyPr/><a:p><a:r><{tag}>{text}</{tag}></a:r></a:p></p:txBody></p:sp>"
    )


def versions(choice: str, fallback: str) -> str:
    kinds = f'<mc:Choice Requires="a14">{choice}</mc:Choice><mc:Fallback>{fallback}</mc:Fallback>'
    return f'<mc:AlternateContent xmlns:mc="{COMPATIBILITY}">{kinds}</mc:AlternateContent>'


GROUP = "<p:grpSp><p:nvGrpSpPr><p:cNvPr id='8' name='g'/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>{}</p:grpSp>"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (versions(shape("new"), shape("old")), "new"),
        (versions(shape(" "), shape("old")), "old"),
        (versions("<p:contentPart/>", shape("old")), "old"),
        (versions(shape("E=mc", "m:t"), shape(" ")), "E=mc"),
        (versions(GROUP.format(shape("one") + shape("two")), shape("old")), "one\n\ntwo"),
        (GROUP.format(versions(shape("new"), shape("old"))), "new"),
        (versions(GROUP.format(versions(shape("inner"), shape("no"))), shape("old")), "inner"),
        (
            shape("a</a:t></a:r>" + versions("<a:r><a:t>b</a:t></a:r>", "<a:r><a:t>c</a:t></a:r>") + "<a:r><a:t>d"),
            "abd",
        ),
        (versions("", "") + shape("last"), "last"),
    ],
)
async def test_pptx_reads_one_version_of_each_shape(parse: Parse, content: str, text: str) -> None:
    parts = files.members(files.presentation(("Title", "body", "")))
    name, end = "ppt/slides/slide1.xml", b"</p:spTree>"
    declared = parts[name].replace(b"<p:sld ", f'<p:sld xmlns:m="{MATH}" '.encode())
    parts[name] = declared.replace(end, content.encode() + end)
    assert (await parse(files.archive(parts))).text == f"Title\n\nbody\n\n{text}"


async def test_pptx_reads_charts(parse: Parse) -> None:
    assert (
        await parse(files.presentation_with_chart("Sales", {"East": 1.5, "West": 2}))
    ).text == "Sales\tEast\tWest\t1.5\t2"


async def test_pdf_forms_show_their_values(parse: Parse) -> None:
    assert (await parse(files.pdf_form("label", "filled in"))).text == "label\nfilled in"


async def test_email_without_plain_text_is_read_from_its_html(parse: Parse) -> None:
    parsed = await parse(files.email("s", "", html="<h1>Hi</h1><p>there</p>"), "a.eml")
    assert parsed.text.endswith("\n\nHi\nthere")


async def test_email_leaves_html_out_only_where_plain_text_is_its_alternative(parse: Parse) -> None:
    mail = MIMEMultipart("mixed")
    choice, tree = MIMEMultipart("alternative"), MIMEMultipart("related")
    tree.attach(MIMEText("<p>left out</p>", "html"))
    picture = MIMEText("-")
    picture.add_header("Content-Disposition", "inline", filename="a.txt")
    tree.attach(picture)
    for part in (MIMEText("plain body"), tree):
        choice.attach(part)
    for part in (MIMEText("<p>HTML body</p>", "html"), choice, MIMEText("footer of the list")):
        mail.attach(part)
    parsed = await parse(mail.as_bytes(), "a.eml")
    assert parsed.text == "HTML body\n\nplain body\n\nfooter of the list\n\nAttachment: a.txt"


async def test_email_headers_in_raw_utf_8_or_latin_1_are_read(parse: Parse) -> None:
    attachment = 'Content-Type: text/x-a\nContent-Disposition: attachment; filename="übung.a"'
    head = "Subject: Grüße =?utf-8?q?=C3=A4?= 漢字\nFrom: Jörg <a@example.com>\n"
    parsed = await parse(f"{head}{attachment}\n\nbody".encode(), "a.eml")
    assert parsed.text == "Subject: Grüße ä 漢字\nFrom: Jörg <a@example.com>\n\nAttachment: übung.a"
    legacy = await parse("Subject: Grüße aus München\n\nbody".encode("latin-1"), "a.eml")
    assert legacy.text == "Subject: Grüße aus München\n\nbody"


async def test_json_lines_are_grouped_with_the_first_line_of_each_group(parse: Parse) -> None:
    long = "word " * 500
    parsed = await parse(f'\n{{"a": 1}}\n\nnot json\n"{long}"\n{{"b": 2}}\n'.encode(), "a.jsonl")
    assert [(parsed.text[block.start : block.end], block.place) for block in parsed.blocks] == [
        ("a: 1\n\nnot json", {"line": 2}),
        (long.strip(), {"line": 5}),
        ("b: 2", {"line": 6}),
    ]


@pytest.mark.parametrize("start", ["<!DOCTYPE html>", "\ufeff <html>", '<?xml version="1.0"?>\n<!-- c --><html>'])
async def test_html_is_found_without_its_extension(parse: Parse, start: str) -> None:
    parsed = await parse(f"{start}<p>text</p>".encode(), "page")
    assert (parsed.media_type, parsed.text) == (media_types.HTML, "text")
