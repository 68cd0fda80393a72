"""What archives and OLE files declare about themselves."""

import re
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from .failures import FailureReason, ParseFailed
from .media_types import DOCX, EPUB, PPTX, XLSX, unsupported

_OFFICE = {  # the beginning of the main part's content type; macros and templates differ after it
    "application/vnd.openxmlformats-officedocument.wordprocessingml.": DOCX,
    "application/vnd.ms-word.": DOCX,
    "application/vnd.openxmlformats-officedocument.presentationml.": PPTX,
    "application/vnd.ms-powerpoint.": PPTX,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.": XLSX,
    "application/vnd.ms-excel.": XLSX,
}
_MAIN_PART = re.compile(
    rb'ContentType="([\w./+-]+\.(?:document|presentation|slideshow|template|sheet|addin)(?:\.macroEnabled)?'
    rb'(?:Template)?\.main\+xml)"',
    re.IGNORECASE,
)
_BINARY_SHEET = b"sheet.binary.macroEnabled.main"
_OLE_STREAMS = {
    "WordDocument": "a Word 97-2003 document; save it as DOCX",
    "Workbook": "an Excel 97-2003 workbook; save it as XLSX",
    "PowerPoint Document": "a PowerPoint 97-2003 presentation; save it as PPTX",
    "__properties_version1.0": "an Outlook message; save it as EML",
}
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument."


def of_archive(file: BinaryIO) -> str:
    """Return the media type of a ZIP archive. Raises ParseFailed if no parser reads it."""
    try:
        with ZipFile(file) as archive:
            names = set(archive.namelist())
            if "[Content_Types].xml" in names:
                return _of_office(_beginning(archive, "[Content_Types].xml", 1 << 20))
            declared = (
                _beginning(archive, "mimetype", 200).decode("ascii", "replace").strip() if "mimetype" in names else ""
            )
            if declared == EPUB or (not declared and "META-INF/container.xml" in names):
                return EPUB
    except MemoryError as error:
        raise ParseFailed(FailureReason.EXPANDS_TOO_FAR, "The directory of the archive is too large.") from error
    except (BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ParseFailed(FailureReason.MALFORMED, f"The archive cannot be opened: {error}.") from error
    finally:
        file.seek(0)
    if declared.startswith(_OPEN_DOCUMENT):
        raise unsupported("an OpenDocument file; save it as DOCX, PPTX, XLSX or PDF")
    raise unsupported("a ZIP archive; unpack it and upload what is inside")


def _beginning(archive: ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as member:
        return member.read(most)


def _of_office(content_types: bytes) -> str:
    if _BINARY_SHEET in content_types:
        raise unsupported("a binary Excel workbook; save it as XLSX")
    for found in _MAIN_PART.findall(content_types.replace(b"'", b'"')):
        for beginning, media_type in _OFFICE.items():
            if found.decode().lower().startswith(beginning.lower()):
                return media_type
    raise unsupported("an Office file without a document in it")


def of_ole(file: BinaryIO) -> ParseFailed:
    """Return the failure for an OLE file, which no parser reads."""
    data = file.read()
    if "EncryptedPackage".encode("utf-16-le") in data:
        return ParseFailed(FailureReason.ENCRYPTED, "The Office file opens only with a password; remove it.")
    for stream, looks_like in _OLE_STREAMS.items():
        if stream.encode("utf-16-le") in data:
            return unsupported(looks_like)
    return unsupported("an OLE file, such as an Office document from before 2007; save it in a current format")
