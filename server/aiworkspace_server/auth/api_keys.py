"""API keys: "aiws_", 43 random letters and digits, and 6 check digits that reveal typing errors and guesses."""

import re
import secrets
import zlib
from hashlib import sha256

KEY_PREFIX = "aiws_"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH, _CHECK_LENGTH = 43, 6  # 43 digits of base 62 are 256 bits
_VISIBLE_LENGTH = 8  # leaves 208 bits to guess
_FORM = re.compile(f"{KEY_PREFIX}([{_DIGITS}]{{{_RANDOM_LENGTH}}})([{_DIGITS}]{{{_CHECK_LENGTH}}})")


def new_key() -> str:
    body = "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM_LENGTH))
    return f"{KEY_PREFIX}{body}{_check_digits(body)}"


def is_key(text: str) -> bool:
    """Return whether the text has the form of a key. The key need not exist."""
    form = _FORM.fullmatch(text)
    return form is not None and _check_digits(form[1]) == form[2]


def visible_part(key: str) -> str:
    """Return the beginning of a key, which lists show to recognise it."""
    return key[: len(KEY_PREFIX) + _VISIBLE_LENGTH]


def secret_hash(key: str) -> bytes:
    """Return the hash under which a key is stored. 256 random bits need no slow hash."""
    return sha256(key.encode()).digest()


def _check_digits(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
