"""The step that brings text which people type into a normal form. Fields declare their kind in the contract.

For example, it removes a space that was copied with an address, and a line break that a mail program put into a token.
It runs before validation, for every method.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import idna
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from aiworkspace.v1 import options_pb2 as options

from .context import Call
from .contract import Method
from .interceptors import Handler
from .request_streams import RequestStream

# Longer text is invalid in any form. The time for composing grows with the square of the combining marks in a row.
_LONGEST, _LONGEST_COMPOSED = 4096, 512
_PACKAGE = options.DESCRIPTOR.package + "."
_INVISIBLE = re.compile("[\\s\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
# All invisible characters, for str.strip: a pattern for those at the end would take quadratic time.
_BLANKS = "".join(char for char in map(chr, range(0x10000)) if _INVISIBLE.match(char))
# From the full-width forms of ASCII, which some input methods type.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
# Control characters, line separators, and marks that change the direction of text.
_NOT_IN_TITLES = re.compile("[\\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


def normalise(method: Method, proceed: Handler) -> Handler:
    """Bring typed text into its normal form, in place."""
    if not (fields := _typed_fields(method.request.DESCRIPTOR)):
        return proceed

    async def handler(call: Call, request: Any) -> Any:
        if isinstance(request, RequestStream):
            request.add_check(lambda message: _normalise(message, fields))
        else:
            _normalise(request, fields)
        return await proceed(call, request)

    return handler


def email(text: str) -> str:
    """Return the address in lower case, with narrow characters and with its domain in ASCII.

    The text may be no address: validation, which comes later, refuses it.
    """
    lower = unicodedata.normalize("NFC", text.translate(_NARROW)).lower()
    local, at, domain = unicodedata.normalize("NFC", lower).strip(_BLANKS).rpartition("@")
    if at and not domain.isascii():
        with suppress(idna.IDNAError, UnicodeError):
            domain = idna.encode(domain, uts46=True).decode()
    return f"{local}{at}{domain}"


def name(text: str) -> str:
    """Return a name or title, composed and without surrounding white space."""
    return unicodedata.normalize("NFC", text).strip()


def token(text: str) -> str:
    """Return the token without white space and invisible characters, which tokens never contain."""
    return _INVISIBLE.sub("", text)


def password(text: str) -> str:
    """Return the password in the form that RFC 8265 compares: composed, and with U+0020 for every kind of space."""
    spaces = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    return unicodedata.normalize("NFC", spaces)


def title(text: str, length: int) -> str:
    """Return the beginning of any text as a title that the contract allows: one line of printable characters."""
    begin = name(text.lstrip()[: 8 * length])  # the text may be a megabyte
    return name(_NOT_IN_TITLES.sub(" ", begin).strip()[:length])


# Not passwords: older hashes are of the text as typed, so that auth.passwords compares both forms.
_FORMS: Mapping[int, Callable[[str], str]] = {
    options.TYPED_TEXT_EMAIL: email,
    options.TYPED_TEXT_NAME: name,
    options.TYPED_TEXT_TOKEN: token,
}

_Fields = Mapping[str, Any]  # field name -> function that returns the normal form, or the _Fields of its messages


@cache
def _typed_fields(message: Descriptor) -> _Fields:
    """Return the typed fields of a message and of the messages in it."""
    found: dict[str, Any] = {}
    for field in message.fields:
        if form := _FORMS.get(field.GetOptions().Extensions[options.typed]):
            found[field.name] = form
        elif (part := field.message_type) and part.full_name.startswith(_PACKAGE) and (inner := _typed_fields(part)):
            found[field.name] = inner
    return found


def _normalise(message: Message, fields: _Fields) -> None:
    for field, value in message.ListFields():
        form = fields.get(field.name)
        if form is None:
            continue
        if callable(form):
            if not field.is_repeated and len(value) <= (_LONGEST if form is token else _LONGEST_COMPOSED):
                setattr(message, field.name, form(value))
        else:
            for inner in value if field.is_repeated else (value,):
                _normalise(inner, form)
