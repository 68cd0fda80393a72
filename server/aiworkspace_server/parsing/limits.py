"""What one parse may use."""

from typing import NamedTuple

MIB = 1 << 20


class Limits(NamedTuple):
    """Upper bounds for one file. A parse that exceeds one ends with the reason that is named beside it."""

    seconds: float = 60  # PARSER_TIMEOUT; of the clock and of the processor alike
    memory_bytes: int = 512 * MIB  # PARSER_MEMORY; address space, so that resident memory stays below it as well
    text_code_points: int = 10_000_000  # TOO_MUCH_TEXT
    blocks: int = 200_000  # TOO_MUCH_TEXT; parts of the text with a place of their own
    pages: int = 5_000  # TOO_MUCH_TEXT; pages, slides, or chapters
    inflated_bytes: int = 128 * MIB  # EXPANDS_TOO_FAR; all that is unpacked from one archive
    archive_members: int = 10_000  # EXPANDS_TOO_FAR
