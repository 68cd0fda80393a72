"""What kind of file bytes are, without a child that parses them."""

import bz2
import io

import pytest

from aiworkspace_server.parsing import media_types
from aiworkspace_server.parsing.failures import ParseFailed
from tests.support import files


def detected(data: bytes, text_type: str = media_types.PLAIN) -> str:
    return media_types.detect(io.BytesIO(data), text_type)


def test_comments_before_html_take_no_more_than_one_look_each() -> None:
    comments = b"<!---->" * 500
    assert detected(comments + b"<html>") == media_types.HTML
    assert detected(comments + b"x") == media_types.PLAIN
    assert detected(b"<!-- a -- b --> \n" * 200 + b"<!doctype html>") == media_types.HTML
    assert detected(b"<!---->" * 1_000 + b"x") == media_types.PLAIN


@pytest.mark.parametrize(
    "text",
    ["A file begins with %PDF-1.7 if it is one.", "PAR1,PAR2\n1,2\n", "BZhang wrote", "OggS", "ID3 tags", "GIF89a é"],
)
def test_text_that_begins_as_another_format_is_text(text: str) -> None:
    assert detected(text.encode(), media_types.CSV) == media_types.CSV
    assert detected(text.encode() + b"x" * 3_000 + "é".encode() * 2_000, media_types.CSV) == media_types.CSV


@pytest.mark.parametrize(
    "data",
    [bz2.compress(b"text" * 100), b"PAR1\x15\x04\0", b"ID3\x04\0\0", b"GIF89a\x01\0", b"wOF2\0\1", b"OggS\0\2"],
)
def test_other_format_whose_beginning_is_printable_is_unsupported(data: bytes) -> None:
    with pytest.raises(ParseFailed):
        detected(data)


@pytest.mark.parametrize("before", [b"", b"\r\n \t", b"\xef\xbb\xbf", b"\x1b%-12345X@PJL\n\xff\0", b"\xff" * 900])
def test_pdf_may_have_something_before_it(before: bytes) -> None:
    assert detected(before + files.pdf("text")) == media_types.PDF


@pytest.mark.parametrize("text_type", [media_types.PLAIN, media_types.CSV, media_types.TSV, media_types.JSON])
def test_html_is_no_table_whatever_its_name(text_type: str) -> None:
    assert detected(b"\n<!DOCTYPE html><p>a, b, c", text_type) == media_types.HTML
    assert detected(b"<p>a, b, c", text_type) == text_type


def test_source_code_that_begins_as_html_is_source_code() -> None:
    assert detected(b"<!DOCTYPE html><?php echo 1; ?>", "text/x-php") == "text/x-php"


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("text/html", media_types.HTML),
        ("application/xhtml+xml", media_types.HTML),
        ("application/geo+json", media_types.JSON),
        ("application/rss+xml", "application/xml"),
        ("text/x-markdown", media_types.MARKDOWN),
        ("text/csv", media_types.CSV),
        ("text/css", "text/css"),
        ("text/plain", ""),
        ("application/octet-stream", ""),
        ("application/pdf", ""),
        ("", ""),
    ],
)
def test_content_type_says_what_kind_of_text_it_is(declared: str, kind: str) -> None:
    assert media_types.declared_type(declared) == kind


@pytest.mark.parametrize(
    ("media_type", "name", "kept"),
    [
        (media_types.HTML, "Release notes v1.csv", media_types.HTML),
        (media_types.JSON, "data", media_types.JSON),
        (media_types.CSV, "renamed.md", ""),
        (media_types.PLAIN, "data", ""),
        (media_types.PDF, "data", ""),
    ],
)
def test_same_bytes_stay_the_kind_of_text_that_their_name_does_not_say(media_type: str, name: str, kept: str) -> None:
    assert media_types.type_to_keep(media_type, name) == kept
