"""Checked archives: OOXML packages and EPUB books, unpacked under limits before a library sees them.

What an archive declares about itself proves nothing, so that the bytes are counted while they are inflated. Libraries
get a new archive in memory that has only the parts with text, each checked.
"""

import io
import re
import zlib
from typing import BinaryIO
from xml.parsers import expat
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from .failures import FailureReason, ParseFailed
from .limits import Limits

_READ = 1 << 16
_IS_ENCRYPTED = 0x1  # bit of a member's flags
_XML = (".xml", ".rels")
# Files in the strict variant of the format name the same things by other namespaces, which the libraries do not know.
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
_TRANSITIONAL = rb"http://schemas.openxmlformats.org/\1/2006/"


class Archive:
    """An archive that is read under limits. All that is read of it counts, every time."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Raises ParseFailed if the directory is broken or too large, or members are encrypted."""
        self._limits = limits
        self._inflated = 0
        try:
            self._zip = ZipFile(file)
        except MemoryError as error:
            raise _too_far("The directory of the archive is too large.") from error
        except (BadZipFile, OSError, ValueError) as error:
            raise _broken(error) from error
        self._members = {member.filename: member for member in self._zip.infolist() if not member.is_dir()}
        if len(self._zip.infolist()) > limits.archive_members:
            raise _too_far(f"The archive has more than {limits.archive_members} members.")

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """Return a member as a whole. Raises ParseFailed if it is broken, encrypted, missing, or expands too far."""
        try:
            return self._read(self._members[name])
        except KeyError as error:
            raise ParseFailed(FailureReason.MALFORMED, f"The archive has no {name!r}.") from error
        except (BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error, ValueError) as error:
            raise _broken(error) from error

    def read_xml(self, name: str) -> bytes:
        """Return a member that is well-formed XML without declarations of entities."""
        data = self.read(name)
        _check_xml(name, data)
        return data

    def _read(self, member: ZipInfo) -> bytes:
        if member.flag_bits & _IS_ENCRYPTED:
            raise ParseFailed(FailureReason.ENCRYPTED, "The archive opens only with a password; remove it.")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ParseFailed(FailureReason.MALFORMED, "The archive is packed in a way that its format does not allow.")
        pieces = []
        with self._zip.open(member) as stream:
            while piece := stream.read(_READ):
                self._inflated += len(piece)
                if self._inflated > self._limits.inflated_bytes:
                    most = self._limits.inflated_bytes >> 20
                    raise _too_far(f"The archive unpacks to more than {most} MiB.")
                pieces.append(piece)
        return b"".join(pieces)


def checked_package(file: BinaryIO, limits: Limits) -> BinaryIO:
    """Return an OOXML package with the XML parts of the given one. Pictures and other binary parts are empty in it."""
    archive = Archive(file, limits)
    package = io.BytesIO()
    with ZipFile(package, "w", ZIP_STORED) as copy:
        for name in archive.names:
            data = archive.read_xml(name) if name.lower().endswith(_XML) else b""
            copy.writestr(ZipInfo(name), _STRICT.sub(_TRANSITIONAL, data))
    package.seek(0)
    return package


def _check_xml(name: str, data: bytes) -> None:
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
            raise MemoryError from error
        raise ParseFailed(FailureReason.MALFORMED, f"{name!r} in the file is not well-formed XML: {error}.") from error


def _refuse_entity(name: str, _parameter: object, value: str | None, *_rest: object) -> None:
    if value is None:
        detail = "The file refers to another file as an XML entity, which is not followed."
        raise ParseFailed(FailureReason.MALFORMED, detail)
    raise _too_far("The file declares XML entities, which can expand without bound.")


def _too_far(detail: str) -> ParseFailed:
    return ParseFailed(FailureReason.EXPANDS_TOO_FAR, detail)


def _broken(error: Exception) -> ParseFailed:
    return ParseFailed(FailureReason.MALFORMED, f"The archive cannot be read: {error}.")
