"""EPUB: the chapters in the order of the spine."""

import posixpath
import re
from typing import BinaryIO
from urllib.parse import unquote

from defusedxml import ElementTree

from ..archives import Archive
from ..decoding import declared_charset, decode
from ..failures import FailureReason, ParseFailed
from ..text import TextBuilder
from . import html

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FONT_MANGLING = (b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC")
_ALGORITHM = re.compile(rb'EncryptionMethod[^>]+Algorithm\s*=\s*["\']([^"\']*)')


def parse(file: BinaryIO, out: TextBuilder) -> None:
    archive = Archive(file, out.limits)
    if _ENCRYPTION in archive and any(
        not algorithm.startswith(_FONT_MANGLING) for algorithm in _ALGORITHM.findall(archive.read(_ENCRYPTION))
    ):
        raise ParseFailed(FailureReason.ENCRYPTED, "The book is copy-protected; upload it without protection.")
    chapters = _spine(archive)
    out.check_pages(len(chapters))
    for number, name in enumerate(chapters, 1):
        if name in archive:
            data = archive.read(name)
            html.parse_text(decode(data, declared_charset(data)), out, {"chapter": number})


def _spine(archive: Archive) -> list[str]:
    """The names of the chapters' files, from the package document that the container names."""
    root = ElementTree.fromstring(archive.read_xml(_CONTAINER))
    package_name = next((each.get("full-path", "") for each in root.iter() if each.tag.endswith("}rootfile")), "")
    package = ElementTree.fromstring(archive.read_xml(package_name))
    folder = posixpath.dirname(package_name)
    files = {
        each.get("id"): posixpath.normpath(posixpath.join(folder, unquote(each.get("href", ""))))
        for each in package.iter()
        if each.tag.endswith("}item")
    }
    return [files.get(each.get("idref"), "") for each in package.iter() if each.tag.endswith("}itemref")]
