"""The process that parses one file.

Its arguments are a media type for the case that the file is text, the id of the parent, the limits as JSON, and the
path of tesseract or nothing. The file is its standard input, its messages (see frames) go to its standard output.
"""

import codecs
import copy  # noqa: F401  # see _parse
import heapq  # noqa: F401
import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from . import decoding, frames, media_types
from .failures import MOST_OF_DETAIL, FailureReason, ParseFailed
from .limits import Limits
from .sandbox import Sandbox, die_with_parent
from .text import TextBuilder, too_much_text

_PARSERS = {  # module of formats, and its function
    media_types.PDF: ("pdf", "parse"),
    media_types.DOCX: ("docx", "parse"),
    media_types.PPTX: ("pptx", "parse"),
    media_types.XLSX: ("xlsx", "parse"),
    media_types.EPUB: ("epub", "parse"),
    media_types.EML: ("email_text", "parse"),
    media_types.HTML: ("html", "parse"),
    media_types.MARKDOWN: ("markdown", "parse"),
    media_types.CSV: ("delimited", "parse"),
    media_types.TSV: ("delimited", "parse_tabs"),
    media_types.JSON: ("json_text", "parse"),
    media_types.JSON_LINES: ("json_text", "parse_lines"),
}
_FROM_FILE = {media_types.PDF, media_types.DOCX, media_types.PPTX, media_types.XLSX, media_types.EPUB}
_OF_MANY_TEXTS = {media_types.EPUB, media_types.EML}  # each in its own encoding
_FROM_BYTES = {media_types.EML, media_types.HTML}  # they name their encoding
_SHRINKING = {media_types.JSON, media_types.JSON_LINES}  # of which not all characters become text
_CODECS_OF_LIBRARIES = ("ascii", "utf-8-sig", "latin-1", "cp437", "utf-16", *decoding.UTF_16, *decoding.UTF_32)
_MOST_BYTES_A_CODE_POINT = 4
_XML_NO_MEMORY = 2  # libxml2's XML_ERR_NO_MEMORY


def main() -> None:
    text_type, parent_id, limits = sys.argv[1], int(sys.argv[2]), Limits(**json.loads(sys.argv[3]))
    die_with_parent(parent_id)
    recognize = _recognizer(sys.argv[4], limits)
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no message
    status = os.open("/proc/self/status", os.O_RDONLY) if sys.platform == "linux" else -1
    sandbox = Sandbox(limits)
    sandbox.enter()
    builder = TextBuilder(limits, lambda message: frames.write(output, message), recognize)
    try:
        media_type = _parse(text_type, sandbox, builder)
        builder.finish()
    except Exception as error:
        failed = _failure(error)
        end: dict[str, Any] = {"failed": {"reason": failed.reason, "detail": failed.detail[:MOST_OF_DETAIL]}}
    else:
        counts = {"page_count": builder.page_count, "unread_pages": builder.unread_pages}
        end = {"done": {"media_type": media_type} | counts}
    for result in end.values():
        result["peak_memory"] = _peak_memory(status)
    frames.write(output, end)
    os._exit(0)  # without taking the objects of a large document apart


def _recognizer(tesseract: str, limits: Limits) -> Callable[[bytes], str] | None:
    if not tesseract:
        return None
    from .recognition import start_recognizer  # loads subprocess

    return start_recognizer(tesseract, limits)


def _parse(text_type: str, sandbox: Sandbox, builder: TextBuilder) -> str:
    """Detect the kind of file, parse it, and return its media type."""
    file = open(0, "rb", closefd=False)  # noqa: SIM115  # open until the process ends
    media_type = media_types.detect(file, text_type)
    module, function = _PARSERS.get(media_type, ("lines", "parse"))
    parse = getattr(importlib.import_module(f".formats.{module}", __package__), function)
    data = b"" if media_type in _FROM_FILE else _read_all(file, builder.limits)
    if media_type in _OF_MANY_TEXTS:
        decoding.prepare()
    elif data:
        decoding.prepare(data)
    # Nothing can be imported from here on. What libraries import or look up later is loaded by now.
    for codec in _CODECS_OF_LIBRARIES:
        codecs.lookup(codec)
    sandbox.close_files()
    if media_type in _FROM_FILE:
        parse(file, builder)
    elif media_type in _FROM_BYTES:
        parse(data, builder)
    else:
        text = decoding.decode(data)
        if media_type not in _SHRINKING and len(text) > builder.limits.text_code_points:
            raise too_much_text(builder.limits)
        parse(text, builder)
    return media_type


def _read_all(file: BinaryIO, limits: Limits) -> bytes:
    """Return all bytes of the file, unless they are more than the longest text can have."""
    most = limits.text_code_points * _MOST_BYTES_A_CODE_POINT
    data = file.read(most + 1)
    if len(data) > most:
        raise too_much_text(limits)
    return data


def _failure(error: Exception) -> ParseFailed:
    """What an exception of a parser means. Libraries raise all kinds of them for files that are damaged."""
    if isinstance(error, ParseFailed):
        return error
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _XML_NO_MEMORY:
        return ParseFailed(FailureReason.PARSER_MEMORY, "Parsing the file needs more memory than is allowed.")
    print(type(error).__name__, *traceback.format_tb(error.__traceback__), file=sys.stderr)  # no part of the file
    if isinstance(error, PermissionError | ImportError):
        return ParseFailed(FailureReason.PARSER_CRASHED, f"The parser tried what it may not do: {error}.")
    if isinstance(error, RecursionError):
        return ParseFailed(FailureReason.MALFORMED, "The file is nested too deep.")
    return ParseFailed(FailureReason.MALFORMED, f"The file cannot be read: {type(error).__name__}: {error}.")


def _peak_memory(status: int) -> int:
    """Return the most resident memory so far, in bytes; 0 where the system does not say it."""
    found = re.search(rb"VmHWM:\s*(\d+) kB", os.pread(status, 8192, 0)) if status >= 0 else None
    return int(found.group(1)) * 1024 if found else 0


if __name__ == "__main__":
    main()
