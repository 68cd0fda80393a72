"""Encodings that nobody states: one short sentence has to be enough."""

import pytest

from aiworkspace_server.parsing.decoding import decode
from aiworkspace_server.parsing.failures import ParseFailed
from aiworkspace_server.parsing.text import clean

from .conftest import Parse

SENTENCES = [
    ("gbk", "编号,内容\n1,今天的天气很好\uff0c我们去公园散步\n"),
    ("gbk", "季度报告\uff1a销售额增长百分之十二"),
    ("gbk", "深圳市南山区科技园,张伟,工程师"),
    ("gbk", "北京"),
    ("gb18030", "𠮷野家的饭"),
    ("utf-16-le", "编号,内容\n1,今天的天气很好\uff0c我们去公园散步\n"),
    ("utf-16-le", "季度报告\uff1a销售额增长百分之十二"),
    ("utf-16-be", "季度报告\uff1a销售额增长百分之十二"),
    ("utf-16-le", "Straße für 5 €"),
    ("utf-16-le", "Привет, мир"),
    ("utf-16-be", "Hello world"),
    ("big5", "季度報告\uff1a銷售額增長百分之十二"),
    ("cp932", "売上高は前年比で増加した"),
    ("euc_jp", "今日は天気がいいです。東京都港区"),
    ("cp949", "오늘은 날씨가 좋습니다"),
    ("cp1252", "Preis;5 €\nGröße;groß"),
    ("cp1252", "5 €"),
    ("cp1252", "café"),
    ("cp1252", "ÜBERSICHT GRÖSSE STRASSE"),
    ("cp1252", "“Quoted” \N{EN DASH} text… with bullets • and ™"),
    ("cp1250", "Zażółć gęślą jaźń"),
    ("cp1250", "Příliš žluťoučký kůň úpěl"),
    ("cp1251", "Привет, как дела"),
    ("koi8_r", "Привет, как дела"),
    ("cp1253", "Καλημέρα κόσμε"),
    ("cp1254", "İstanbul'da güneş"),
    ("cp1256", "مرحبا بالعالم"),
    ("cp874", "สวัสดีชาวโลก"),
]


@pytest.mark.parametrize(("encoding", "sentence"), SENTENCES)
def test_short_sentence_without_a_stated_encoding_is_read(encoding: str, sentence: str) -> None:
    assert decode(sentence.encode(encoding)) == sentence


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_a_mark_or_in_utf_8_is_read(encoding: str) -> None:
    assert decode("Ünïcode 漢字 😀".encode(encoding)) == "Ünïcode 漢字 😀"


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["a", "Hello world\n", "Ünïcode 漢字 😀", "季度报告\uff1a销售额增长百分之十二"])
def test_utf_32_without_a_mark_is_read(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("data", [bytes(4000), b"\1\0\0\0\2\0\0\0" * 500, b"\0\0\0\1" * 500, b"\0\1\2\3" * 100])
def test_numbers_are_no_utf_32(data: bytes) -> None:
    with pytest.raises(ParseFailed):
        decode(data)


def test_one_invalid_byte_in_utf_8_spoils_nothing_else() -> None:
    assert decode("Über naïve Café-Gäste. ".encode() * 3 + b"\xff") == "Über naïve Café-Gäste. " * 3 + "\ufffd"


def test_declared_encoding_is_used_where_utf_8_does_not_fit() -> None:
    assert decode("שלום".encode("cp1255"), "windows-1255") == "שלום"
    assert decode("schön".encode(), "iso-8859-1") == "schön"
    assert decode("日本".encode("iso-2022-jp"), "iso-2022-jp") == "日本"
    assert decode("schön".encode("cp1252"), "no-such-encoding") == "schön"


def test_binary_data_is_refused() -> None:
    with pytest.raises(ParseFailed):
        decode(bytes(range(256)) * 20)


def test_clean_text_has_no_controls_and_no_gaps() -> None:
    assert clean("a\0b\ud800c\r\nd\re\ff\x07g\tcafe\u0301\u00ad") == "abc\nd\ne\nfg\tcafé"


CHINESE = "id,text\n1,今天的天气很好\uff0c我们去公园散步\n"
GERMAN = "Preis;Größe\n5 €;groß\n"
FILES = [
    ("a.csv", CHINESE.encode("gbk"), "我们去公园"),
    ("a.csv", CHINESE.encode("utf-16-le"), "我们去公园"),
    ("a.csv", GERMAN.encode("cp1252"), "5 €\tgroß"),
    ("a.txt", GERMAN.encode("utf-16"), "Größe"),
    ("a.csv", GERMAN.encode("utf-32-le"), "5 €\tgroß"),
    ("a.txt", GERMAN.encode("utf-32-be"), "Größe"),
    ("a.html", "<meta charset=iso-2022-jp><p>日本語</p>".encode("iso-2022-jp"), "日本語"),
    ("a.html", "<meta charset='windows-1251'><p>Привет, мир</p>".encode("cp1251"), "Привет, мир"),
    ("a.eml", "Subject: s\nContent-Type: text/plain; charset=koi8-u\n\n(привіт)".encode("koi8-u"), "(привіт)"),
]


@pytest.mark.parametrize(("name", "data", "found"), FILES)
async def test_codecs_are_there_when_the_sandbox_is_closed(parse: Parse, name: str, data: bytes, found: str) -> None:
    assert found in (await parse(data, name)).text
