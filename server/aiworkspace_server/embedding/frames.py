"""Messages between the server and its text process: a JSON object and bytes, each preceded by its length."""

import struct
from typing import Any

import orjson

LENGTHS = struct.Struct("<II")  # of the object and of the bytes


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Return a message. The body may have up to 4 GiB."""
    encoded = orjson.dumps(header)
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body


def pack_texts(texts: list[str]) -> tuple[list[int], bytes]:
    """Return the sizes of the texts in bytes, and the bytes of all. A lone surrogate becomes a question mark."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return [len(each) for each in encoded], b"".join(encoded)


def unpack_texts(sizes: list[int], body: bytes) -> list[str]:
    texts, at = [], 0
    for size in sizes:
        texts.append(body[at : at + size].decode())
        at += size
    return texts
