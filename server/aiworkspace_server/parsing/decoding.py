"""Decodes text.

A byte order mark decides, then NULs in every fourth byte (UTF-32) or every second one (UTF-16), then strict UTF-8, then
the encoding that the file names, then what reads most like text. UTF-8 comes before the name: what is valid in UTF-8 is
hardly ever anything else, and names are often wrong.
"""

import codecs
import re
import unicodedata

from .failures import FailureReason, ParseFailed

SAMPLE = 1 << 15  # bytes, or characters, that are looked at
UTF_16 = ("utf-16-le", "utf-16-be")
UTF_32 = {"utf-32-le": 3, "utf-32-be": 0}  # which byte of each character is always NUL
_UNASSIGNED = ("Cn", "Co")
TEXT_CONTROLS = frozenset("\t\n\r\f\v\x1b")

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MEANT = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
_SEVEN_BIT = frozenset(("iso-2022-jp", "iso-2022-kr", "hz-gb-2312"))  # valid in UTF-8 as well
_DECLARED = """
    iso8859_1 iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_9 iso8859_10 iso8859_13
    iso8859_14 iso8859_15 iso8859_16 ascii cp437 cp850 cp1257 cp1258 koi8_u mac_roman mac_cyrillic raw_unicode_escape
    gbk gb2312 hz big5 shift_jis euc_jis_2004 iso2022_jp iso2022_kr euc_kr utf-8-sig utf-16 utf-32
"""
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:-]+)|<\?xml[^>]{0,100}?encoding=[\"']([\w-]+)", re.IGNORECASE
)


def decode(data: bytes, declared: str | None = None) -> str:
    """Return the text. `declared` is an encoding that the file names, in lower case.

    Raises UNSUPPORTED if the bytes are no text in any encoding.
    """
    for bom, of_bom in _BOMS.items():
        if data.startswith(bom):
            return _checked(data.decode(of_bom, "replace"))
    if (text := _in_utf_32(data)) is not None:
        return _checked(text)
    if utf_16 := _utf_16_by_nuls(data):
        return _checked(data.decode(utf_16, "replace"))
    if declared in _SEVEN_BIT and (text := _in_declared(data, declared)) is not None:
        return _checked(text)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = _in_declared(data, declared) or data.decode(_guess(data), "replace")
    if _controls(text) * 20 > min(len(text), SAMPLE) and (guessed := _guess(data)) in UTF_16:
        text = data.decode(guessed, "replace")
    return _checked(text)


def declared_charset(data: bytes) -> str | None:
    """Return the encoding that an HTML or XML document names near its beginning."""
    found = _CHARSET.search(data[:4096])
    return (found.group(1) or found.group(2)).decode().lower() if found else None


def prepare(data: bytes | None = None) -> None:
    """Load what `decode` needs for these bytes, since no module can be read once the sandbox is closed.

    None stands for bytes that are not known yet. UTF-8 needs nothing.
    """
    if data is None or not _is_plain(data):
        from .guessing import MULTI_BYTE, SINGLE_BYTE

        for name in (*SINGLE_BYTE, *MULTI_BYTE, *UTF_16, *_DECLARED.split()):
            codecs.lookup(name)


def _is_plain(data: bytes) -> bool:
    try:
        return not _controls(data.decode()) and declared_charset(data) not in _SEVEN_BIT
    except UnicodeDecodeError:
        return False


def _guess(data: bytes) -> str:
    from .guessing import guess  # loads charset-normalizer, which takes longer than to parse a short text

    return guess(data)


def _checked(text: str) -> str:
    """Return the text, unless it is a binary file: much of it is controls or not valid in any encoding."""
    sample = text[:SAMPLE]
    bad = _controls(text) + sample.count("\ufffd")
    if bad > max(2, len(sample) // 20) or sample.count("\0") > len(sample) // 2:
        detail = "The file is neither text nor of a known format."
        raise ParseFailed(FailureReason.UNSUPPORTED, detail)
    return text


def _controls(text: str) -> int:
    """How many controls other than NUL and those of plain text the sample has."""
    return sum(character < " " and character not in TEXT_CONTROLS and character != "\0" for character in text[:SAMPLE])


def _in_declared(data: bytes, declared: str | None) -> str | None:
    """The text if all bytes are valid in the declared encoding. Some names mean more than they say, as in browsers."""
    try:
        name = codecs.lookup(declared or "").name
        return None if name.startswith("utf") else data.decode(_MEANT.get(name, name))
    except (LookupError, ValueError, OSError):
        return None


def _in_utf_32(data: bytes) -> str | None:
    """The text if it is UTF-32 without a byte order mark: numbers of four bytes name characters that do not exist."""
    for name, upper in UTF_32.items():
        if data and len(data) % 4 == 0 and not any(data[upper:SAMPLE:4]):
            try:
                text = data.decode(name)
            except UnicodeDecodeError:
                continue
            sample = text[:SAMPLE]
            bad = sum(each == "\0" or unicodedata.category(each) in _UNASSIGNED for each in sample)
            if bad * 50 <= len(sample):
                return text
    return None


def _utf_16_by_nuls(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, found by the NULs in the upper bytes of ASCII characters."""
    sample = data[:SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(data) % 2 or max(even, odd) * 5 < len(sample) // 2 or min(even, odd) * 10 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"
