"""Files that cannot be read end with a documented reason, and hostile ones within the limits."""

import random

import pytest

from aiworkspace_server.parsing.failures import FailureReason, ParseFailed
from aiworkspace_server.parsing.limits import MIB, Limits
from tests.support import files

from .conftest import Parse, Refusal

UNSUPPORTED = FailureReason.UNSUPPORTED
OTHER_FORMATS = {
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "ZIP": files.archive({"a.txt": "text"}),
    "OpenDocument": files.archive({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": "<x/>"}),
    "Word 97": files.ole("WordDocument"),
    "program": b"\x7fELF" + bytes(100),
    "Rich Text": b"{\\rtf1 text}",
    "neither text": random.Random(1).randbytes(10_000),
}


@pytest.mark.parametrize("looks_like", OTHER_FORMATS)
async def test_file_of_another_format_says_what_it_looks_like(refusal: Refusal, looks_like: str) -> None:
    error = await refusal(OTHER_FORMATS[looks_like])
    assert error.reason == UNSUPPORTED
    assert looks_like in error.detail


async def test_user_password_is_encrypted_and_owner_password_is_not(parse: Parse, refusal: Refusal) -> None:
    assert (await parse(files.pdf("open text", owner_password="x"))).text == "open text"
    assert (await refusal(files.pdf("secret", user_password="x"))).reason == FailureReason.ENCRYPTED


async def test_encrypted_office_file_and_book_are_encrypted(refusal: Refusal) -> None:
    assert (await refusal(files.ole("EncryptedPackage"))).reason == FailureReason.ENCRYPTED
    rights = '<encryption><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></encryption>'
    book = files.epub("<p>x</p>", extra={"META-INF/encryption.xml": rights})
    assert (await refusal(book)).reason == FailureReason.ENCRYPTED


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"", "a.txt"), (b"\n\t\xc2\xad", "a.txt"), (b"<p hidden>x</p>", "a.html"), (b"{}", "a.json"), (b",,\n", "a.csv")],
)
async def test_file_without_a_visible_character_has_no_text(refusal: Refusal, data: bytes, name: str) -> None:
    assert (await refusal(data, name)).reason == FailureReason.NO_TEXT


async def test_pages_without_text_are_unread_and_alone_are_no_text(parse: Parse, refusal: Refusal) -> None:
    parsed = await parse(files.pdf("text", files.Picture("picture of text"), files.BLANK))
    assert (parsed.page_count, parsed.unread_pages) == (3, [2])
    assert (await refusal(files.pdf(files.Picture("picture of text")))).reason == FailureReason.NO_TEXT


@pytest.mark.parametrize("bomb", ["inflated", "entities", "members"])
async def test_archive_bomb_expands_too_far_in_bounded_memory(refusal: Refusal, bomb: str) -> None:
    error = await refusal(files.bombs()[bomb], "a.docx")
    assert error.reason == FailureReason.EXPANDS_TOO_FAR
    assert 0 < error.peak_memory < 512 * MIB


async def test_more_text_or_pages_than_allowed_is_too_much(refusal: Refusal) -> None:
    limits, split = Limits(text_code_points=100, pages=2), "Split the file and upload its parts."
    most, pages = "The file has more than 100 characters of text", "The file has 3 pages; at most 2 are accepted"
    for data, name, detail in [
        (b"word " * 30, "a.txt", f"{most}. {split}"),
        (b"a,b\n" + b"x" * 1000, "a.csv", f"{most}. {split}"),
        (files.pdf("a", "b", "c"), "a.pdf", f"{pages}. {split}"),
        (files.pdf("a", "b" * 200), "a.pdf", f"{most}; the limit is reached at page 2. {split}"),
        (
            files.presentation(("a", "b", ""), ("c", "d" * 200, "")),
            "a.pptx",
            f"{most}; the limit is reached at slide 2. {split}",
        ),
        (
            files.workbook({"Secret": {"A1": "x" * 90, "A400": "y" * 90}}),
            "a.xlsx",
            f"{most}; the limit is reached at row 400. {split}",
        ),
    ]:
        error = await refusal(data, name, limits)
        assert (error.reason, error.detail) == (FailureReason.TOO_MUCH_TEXT, detail)


async def test_more_blocks_than_allowed_are_too_much(parse: Parse, refusal: Refusal) -> None:
    """Each block is an object in the server."""
    headings = b"# a\n\nb\n\n" * 101
    error = await refusal(headings.replace(b"a", b"a\n# c"), "a.md", Limits(blocks=100))
    assert error.reason == FailureReason.TOO_MUCH_TEXT
    assert "more than 100 parts" in error.detail
    assert "Split the file" in error.detail
    values = await parse(b"1\n" * 300_000, "a.jsonl")
    assert values.text == "\n\n".join("1" * 300_000)
    assert len(values.blocks) < 600


async def test_more_memory_than_allowed_is_its_own_reason(refusal: Refusal) -> None:
    data = b"[" + b'{"a":1},' * 2_000_000 + b"1]"
    assert (await refusal(data, "a.json", Limits(memory_bytes=256 * MIB))).reason == FailureReason.PARSER_MEMORY


@pytest.mark.parametrize("damaged", [files.pdf("text")[:300], b"%PDF-1.4\n" + bytes(500), files.epub("<p>x</p>")[:400]])
async def test_damaged_file_is_malformed(refusal: Refusal, damaged: bytes) -> None:
    assert (await refusal(damaged)).reason == FailureReason.MALFORMED


async def test_entity_of_another_file_is_not_followed(refusal: Refusal) -> None:
    parts = files.members(files.docx_with(files.paragraph("x")))
    main = "word/document.xml"
    declaration, body = parts[main].split(b"?>", 1)
    doctype = b'?><!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    parts[main] = declaration + doctype + body.replace(b">x<", b">&e;<")
    error = await refusal(files.archive(parts))
    assert error.reason == FailureReason.MALFORMED
    assert "root:" not in error.detail


def test_every_reason_says_what_to_do() -> None:
    assert all(reason == reason.name for reason in FailureReason)
    assert len(FailureReason) == 9


HOSTILE = {
    "a.html": [
        b"<div>" * 100_000 + b"found",
        b"<b><i>" * 50_000 + b"found",
        b"<table><tr><td>" * 10_000 + b"found",
        b"<" * 100_000 + b" found",
    ],
    "a.json": [b"[" * 100_000 + b'"found"' + b"]" * 100_000, b'{"a":' * 900 + b'"found"' + b"}" * 900],
    "a.csv": [b'"' + b"x,\n" * 300_000 + b"found", b"," * 300_000 + b"found"],
    "a.md": [part * 50_000 + b"found" for part in (b"[[[[", b"> ", b"``", b"*a_ ", b"[x]: y\n")],
    "a.eml": [
        b"".join(b"Subject: s\nContent-Type: message/rfc822\n\n" for _ in range(1000)) + b"Subject: x\n\nfound",
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (at, at) for at in range(1000))
        + b"Content-Type: text/plain\n\nfound",
        b"Subject: " + b"=?utf-8?q?a?= " * 50_000 + b"\n\nfound",
    ],
    "a.txt": [b"found" + b"\0" * 3 + b"\n" * 1_000_000, b"found " + b"\xcc\x81" * 5_000],
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, inputs in HOSTILE.items() for at in range(len(inputs))])
async def test_hostile_text_is_read(parse: Parse, name: str, at: int) -> None:
    assert "found" in (await parse(HOSTILE[name][at], name)).text


async def test_pdf_with_scripts_and_embedded_files_is_only_read(parse: Parse) -> None:
    script = "/OpenAction<</S/JavaScript/JS(app.alert\\(1\\))>>"
    embedded = "/Names<</EmbeddedFiles<</Names[(x)<</Type/Filespec/F(x)>>]>>>>"
    assert (await parse(files.pdf("text", extra=script + embedded))).text == "text"


async def test_names_in_archives_lead_nowhere(parse: Parse) -> None:
    book = files.epub("<p>text</p>", extra={"../../etc/passwd": "x", "/absolute": "y"})
    assert (await parse(files.with_symlink(book, "OPS/link.xhtml", "/etc/passwd"))).text == "text"


async def test_links_to_other_workbooks_are_not_followed(parse: Parse) -> None:
    parsed = await parse(files.workbook({"S": {"A1": "='[file:///etc/passwd]Sheet1'!A1", "A2": "here"}}))
    assert parsed.text == "='[file:///etc/passwd]Sheet1'!A1\nhere"


async def test_workbook_with_two_far_cells_is_read_in_little_memory(parse: Parse) -> None:
    parsed = await parse(files.far_cells())
    assert parsed.text.split() == ["first", "last"]
    assert parsed.peak_memory < 300 * MIB
    assert [block.place["first_row"] for block in parsed.blocks] == [1, 1048576]


async def test_escapes_of_json_that_are_no_characters_are_gone(parse: Parse) -> None:
    parsed = await parse(rb'{"ke\u0000y\ud800": "va\u0000lue\ud800", "smile": "\ud83d\ude00"}', "a.json")
    assert parsed.text == "key: value\nsmile: 😀"


async def test_word_with_a_nul_inside_stays_one_word(parse: Parse) -> None:
    assert (await parse(b"one wo\0rd here", "a.txt")).text == "one word here"


async def test_long_run_of_letters_and_many_words_are_kept_whole(parse: Parse) -> None:
    text = f"First. {files.letters(300_000)} Last."
    assert (await parse(text.encode())).text == text
    words = files.distinct_words(250_000)
    assert (await parse(words.encode())).text == words


def changed(data: bytes, seed: int) -> bytes:
    """The bytes with a few of them changed, removed or repeated."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 3, 10))):
        at, other = chance.randrange(len(data)), chance.randrange(len(data))
        piece = chance.choice((b"", b"\0", b"\xff", b"<", b"99999999999", data[other : other + 30]))
        data = data[:at] + piece + data[at + chance.choice((0, 1, 20)) :]
    return data


DOCUMENTS = {
    "a.pdf": files.pdf("text", files.Picture("picture")),
    "a.docx": files.docx_with(files.paragraph("text", style="Heading1") + files.table(["a", "b"])),
    "a.pptx": files.presentation(("title", "text", "notes")),
    "a.xlsx": files.workbook({"S": {"A1": "text", "B2": "=A1"}}),
    "a.epub": files.epub("<h1>title</h1>", "<p>text</p>"),
    "a.eml": files.email("subject", "text", html="<p>text</p>", attachments=["a.pdf"]),
    "a.html": b"<h1>title</h1><table><tr><td>a<td>b</table><pre>text",
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", DOCUMENTS)
async def test_damage_of_any_kind_never_ends_in_a_crash(parse: Parse, name: str, seed: int) -> None:
    data = DOCUMENTS[name]
    if name.endswith(("x", "epub")) and seed % 2:  # damage to a part, in an archive that is whole
        parts = {part: content for part, content in files.members(data).items() if content}
        part = sorted(parts)[seed % len(parts)]
        damaged = files.archive(parts | {part: changed(parts[part], seed)})
    else:
        damaged = changed(data, seed)
    try:
        outcome = bool((await parse(damaged, name)).text)
    except ParseFailed as error:
        outcome = error.reason in (FailureReason.MALFORMED, FailureReason.NO_TEXT, FailureReason.UNSUPPORTED)
    assert outcome
