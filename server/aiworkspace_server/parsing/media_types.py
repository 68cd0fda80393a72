"""What kind of file these bytes are.

Magic bytes decide first, then what a container declares about itself. What a web site declared, or else the extension
of the name, only chooses among kinds of text.
"""

import codecs
import os.path
import re
from types import ModuleType
from typing import BinaryIO

from .failures import FailureReason, ParseFailed

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
HTML = "text/html"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
EML = "message/rfc822"
PLAIN = "text/plain"

_SOURCE = {
    "text/x-python": "py pyi",
    "text/x-shellscript": "sh bash zsh",
    "text/x-c": "c h",
    "text/x-c++": "cc cpp cxx hh hpp",
    "text/x-csharp": "cs",
    "text/x-java": "java",
    "text/x-kotlin": "kt kts",
    "text/x-scala": "scala",
    "text/x-go": "go",
    "text/x-rust": "rs",
    "text/x-ruby": "rb",
    "text/x-php": "php",
    "text/x-perl": "pl pm",
    "text/x-lua": "lua",
    "text/x-swift": "swift",
    "text/x-r": "r",
    "text/x-sql": "sql",
    "text/x-protobuf": "proto",
    "text/javascript": "js mjs cjs jsx",
    "text/x-typescript": "ts tsx",
    "text/css": "css scss less",
    "text/x-tex": "tex",
    "application/xml": "xml xsd xsl svg",
    "application/yaml": "yaml yml",
    "application/toml": "toml",
    "text/x-ini": "ini cfg conf properties env",
}
_OTHER_TEXT = {
    MARKDOWN: "md markdown mdown mkd mdx",
    CSV: "csv",
    TSV: "tsv tab",
    JSON: "json geojson ipynb webmanifest",
    JSON_LINES: "jsonl ndjson",
    HTML: "html htm xhtml",
    EML: "eml mht mhtml",
}
SOURCE_TYPES = frozenset(_SOURCE)
_DECLARED = {each: each for each in _SOURCE | _OTHER_TEXT} | {  # other names that web sites use
    "application/xhtml+xml": HTML,
    "application/csv": CSV,
    "text/x-markdown": MARKDOWN,
    "text/json": JSON,
    "application/jsonl": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "text/xml": "application/xml",
    "application/javascript": "text/javascript",
}
_SUFFIXES = {"+json": JSON, "+xml": "application/xml"}
_OF_EXTENSION = {
    f".{extension}": media_type
    for media_type, extensions in (_SOURCE | _OTHER_TEXT).items()
    for extension in extensions.split()
}

# Beginnings of files that no parser reads, and what they look like. No other text begins with these.
_UNSUPPORTED = {
    b"{\\rtf": "a Rich Text document; save it as DOCX",
    b"\x89PNG\r\n\x1a\n": "a PNG picture; put pictures of text into a PDF",
    b"\xff\xd8\xff": "a JPEG picture; put pictures of text into a PDF",
    b"II*\0": "a TIFF picture; put pictures of text into a PDF",
    b"MM\0*": "a TIFF picture; put pictures of text into a PDF",
    b"8BPS\0": "a Photoshop picture",
    b"\x1f\x8b": "a gzip archive; unpack it and upload what is inside",
    b"\xfd7zXZ\0": "an xz archive; unpack it and upload what is inside",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it and upload what is inside",
    b"Rar!\x1a\x07": "a RAR archive; unpack it and upload what is inside",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it and upload what is inside",
    b"\x7fELF": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\0asm": "a program",
    b"%!PS": "a PostScript document; save it as PDF",
    b"SQLite format 3\0": "a SQLite database",
    b"\x1aE\xdf\xa3": "a Matroska video",
}
# The same for beginnings that are letters: a text may begin with them too.
_UNSUPPORTED_BINARY = {
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"BZh": "a bzip2 archive; unpack it and upload what is inside",
    b"PAR1": "a Parquet file; save it as CSV",
    b"OggS": "an Ogg recording",
    b"fLaC": "a FLAC recording",
    b"ID3": "an MP3 recording",
    b"wOFF": "a font",
    b"wOF2": "a font",
}
_AT_OFFSET = [
    (4, b"ftyp", "a video or HEIC picture"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"WAVE", "a WAV recording"),
    (8, b"AVI ", "an AVI video"),
    (257, b"ustar", "a tar archive; unpack it and upload what is inside"),
]
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HTML_START = re.compile(
    # Each comment is atomic: to look for another end of it takes exponential time.
    rb"\s*(?:<\?xml[^>]*>\s*)?(?><!--.*?-->\s*)*<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)
_NEVER_HTML = {PLAIN, CSV, TSV, JSON, JSON_LINES}  # unlike source code, of which a page may be a part
_MARKS = b"\xef\xbb\xbf\xff\xfe"  # of byte order
_HEAD = 4096


def text_type(name: str) -> str:
    """Return the media type that the extension of a file name stands for, if the file is text."""
    return _OF_EXTENSION.get(os.path.splitext(name)[1].lower(), PLAIN)


def declared_type(media_type: str) -> str:
    """Return the kind of text that a Content-Type stands for; "" if it says no more than that it is text, or less."""
    suffix = media_type[media_type.rfind("+") :] if "+" in media_type else ""
    return _DECLARED.get(media_type) or _SUFFIXES.get(suffix, "")


def type_to_keep(media_type: str, name: str) -> str:
    """Return the kind of text as which the same bytes should be read again, "" if their name says it.

    `media_type` is what they were read as. A web page stays HTML whatever its title looks like, and other text without
    an extension stays what its site declared.
    """
    says_nothing = text_type(name) == PLAIN
    return declared_type(media_type) if media_type == HTML or says_nothing else ""


def detect(file: BinaryIO, text_type: str) -> str:
    """Return the media type that the bytes show, or else `text_type`. Leaves the file at its beginning.

    Raises ParseFailed: UNSUPPORTED for known files that no parser reads, ENCRYPTED for encrypted Office files.
    """
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if _is_pdf(head):
        return PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return str(_containers().of_archive(file))
    if head.startswith(_OLE):
        raise _containers().of_ole(file)
    for magic, looks_like in (_UNSUPPORTED | (_UNSUPPORTED_BINARY if _is_binary(head) else {})).items():
        if head.startswith(magic):
            raise unsupported(looks_like)
    for offset, magic, looks_like in _AT_OFFSET:
        if head[offset : offset + len(magic)] == magic and b"\0" in head:
            raise unsupported(looks_like)
    return (
        HTML if text_type in _NEVER_HTML and _HTML_START.match(head.replace(b"\0", b"").lstrip(_MARKS)) else text_type
    )


def _is_pdf(head: bytes) -> bool:
    """Whether the mark of a PDF is at the beginning, or soon after what a printer or a server has put before it."""
    before, mark, _ = head[:1024].partition(b"%PDF-")
    return bool(mark) and (not before.strip(_MARKS + b" \t\r\n\f\0") or _is_binary(head))


def _is_binary(head: bytes) -> bool:
    """Whether this is no text in UTF-8. The last character of the head may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return b"\0" in head


def _containers() -> ModuleType:
    from . import containers  # loads zipfile, which text does not need

    return containers


def unsupported(looks_like: str) -> ParseFailed:
    return ParseFailed(FailureReason.UNSUPPORTED, f"The file is {looks_like}.")
