"""Why a file cannot be parsed."""

from enum import StrEnum

MOST_OF_DETAIL = 300  # characters


class FailureReason(StrEnum):
    """Stable reasons. The text below each says what the person who uploaded the file should do."""

    UNSUPPORTED = "UNSUPPORTED"
    """No parser reads this kind of file. Save it as PDF, DOCX, PPTX, XLSX, EPUB, HTML or text, and upload that."""
    ENCRYPTED = "ENCRYPTED"
    """The file opens only with a password. Remove the password and upload the file again."""
    NO_TEXT = "NO_TEXT"
    """The file holds no text, for example only scanned pages. Run text recognition on it and upload the result."""
    EXPANDS_TOO_FAR = "EXPANDS_TOO_FAR"
    """The file unpacks to more than the server accepts. Split it, or save it again with the program that made it."""
    TOO_MUCH_TEXT = "TOO_MUCH_TEXT"
    """The file has more text or pages than one document may have. Split it into several files."""
    PARSER_TIMEOUT = "PARSER_TIMEOUT"
    """Parsing took too long. Retry; if it fails again, split the file or save it in a simpler format."""
    PARSER_MEMORY = "PARSER_MEMORY"
    """Parsing needed too much memory. Split the file or save it in a simpler format."""
    MALFORMED = "MALFORMED"
    """The file is damaged. Save it again with the program that made it, and upload the result."""
    PARSER_CRASHED = "PARSER_CRASHED"
    """The parser ended unexpectedly. Retry; if it fails again, save the file in another format."""


class ParseFailed(Exception):
    """A file that cannot be parsed. `detail` is one sentence for people; `peak_memory` is in bytes, 0 if unknown."""

    def __init__(self, reason: FailureReason, detail: str, *, peak_memory: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.peak_memory = peak_memory
