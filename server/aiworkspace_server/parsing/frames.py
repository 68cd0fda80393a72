"""The messages of the child, each as its length (4 bytes, big-endian) and one JSON object.

In order: any number of {"text": str} and {"blocks": [[start, end, place], ...]}, then one of
{"done": {"media_type", "page_count", "unread_pages", "peak_memory"}} and {"failed": {"reason", "detail",
"peak_memory"}}.
"""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

LENGTH = struct.Struct(">I")
LONGEST = 4 << 20  # bytes of a message; the longest that is sent has 64 Ki code points, or 250 places


def write(descriptor: int, message: Mapping[str, Any]) -> None:
    """Write one message to a pipe. Blocks until the parent has read enough."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    rest = memoryview(LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
