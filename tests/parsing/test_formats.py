"""Every format: its text in reading order, and the places."""

import datetime

import pytest

from aiworkspace_server.parsing import media_types
from aiworkspace_server.parsing.parser import Parsed
from aiworkspace_server.parsing.text import Place
from tests.support import files

from .conftest import Parse


def places(parsed: Parsed) -> list[Place]:
    return [block.place for block in parsed.blocks]


async def test_pdf_has_a_block_for_each_page_with_text(parse: Parse) -> None:
    parsed = await parse(files.pdf("First page (of two)", "Second\npage"), "any.bin")
    assert parsed.media_type == media_types.PDF
    assert parsed.page_count == 2
    assert parsed.text == "First page (of two)\n\nSecond\npage"
    assert places(parsed) == [{"page": 1}, {"page": 2}]


async def test_docx_keeps_order_cells_and_notes_without_deleted_text(parse: Parse) -> None:
    inner = files.table(["inner one", "inner two"])
    removed = "<w:del><w:r><w:delText>removed</w:delText></w:r></w:del>"
    deleted = f"<w:p>{files.run('kept ')}{removed}<w:ins>{files.run('added')}</w:ins></w:p>"
    noted = f'<w:p>{files.run("noted")}<w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    body = (
        files.paragraph("Guide", style="Heading1")
        + files.paragraph("before")
        + files.table(["a", "b"], ["c", inner])
        + files.paragraph("after")
        + noted
        + deleted
    )
    parsed = await parse(files.docx_with(body, footnotes={2: "the note"}))
    assert parsed.media_type == media_types.DOCX
    assert parsed.text == "Guide\n\nbefore\n\na\tb\nc\tinner one inner two\n\nafter\n\nnoted\nthe note\n\nkept added"
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


async def test_html_drops_what_is_not_shown(parse: Parse) -> None:
    page = """<title>Page</title><style>p{}</style><h1>Top</h1><p>Some <b>bold</b> text<br>next</p><script>no()</script>
    <p hidden>no</p><p style="display: none">no</p><h2>Sub</h2><table><tr><th>n<th>v<tr><td>a
    b<td>2</table><ul><li>one<li>two</ul><pre>x\n  y</pre>"""
    parsed = await parse(page.encode(), "page.html")
    assert parsed.text == "Page\n\nTop\nSome bold text\nnext\n\nSub\nn\tv\na b\t2\n- one\n- two\nx\n  y"
    assert places(parsed) == [{}, {"headings": ["Top"]}, {"headings": ["Top", "Sub"]}]


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
