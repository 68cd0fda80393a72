"""The types of settings: what a value may be, and what is said of one that may not."""

import re
from collections.abc import Callable
from decimal import Decimal
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_settings import NoDecode

from aiworkspace_server import urls

MOST = 10**9  # of any number; as seconds 31 years, which dates and timers can represent
HOW_TO_MAKE_ONE = "make one with: openssl rand -base64 48"

# Words of placeholders in examples and tutorials, in any order, without punctuation and digits.
_PLACEHOLDER = re.compile(
    "(?:access|bit|change|default|dev|development|example|here|in|insecure|it|jwt|key|long|me|my|password|pepper"
    "|placeholder|please|production|random|refresh|replace|secret|string|super|test|this|to|token|value|very|with|your)+"
)


def _strong(secret: SecretStr) -> SecretStr:
    """Refuse guessable secrets: 32 random characters have about 190 bits, typed ones close to none."""
    text = secret.get_secret_value()
    if len(text) < 32:
        raise ValueError(f"is shorter than 32 characters; {HOW_TO_MAKE_ONE}")
    if len(set(text)) < 8 or _repeats(text):
        raise ValueError(f"repeats itself; {HOW_TO_MAKE_ONE}")
    if _PLACEHOLDER.fullmatch(re.sub("[^a-z]", "", text.lower())):
        raise ValueError(f"is a placeholder; {HOW_TO_MAKE_ONE}")
    return secret


def _repeats(text: str) -> bool:
    """Return whether the text repeats one piece, perhaps with the last repetition cut short."""
    return any(text[size:] == text[:-size] for size in range(1, len(text) // 2 + 1))


def _checked(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda url: SecretStr(check(url.get_secret_value())))


def _split(value: object) -> object:
    return re.findall(r"[^\s,]+", value) if isinstance(value, str) else value


def _network(value: object) -> object:
    try:
        return ip_network(value) if isinstance(value, str) else value
    except ValueError:
        text = "must be addresses or networks, such as 192.0.2.7 or 10.0.0.0/8, with zeros after the prefix"
        raise ValueError(text) from None


def _allowance(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("must be an amount in USD, such as 100 or 2.50, or unlimited") from None


def _provider_key(key: SecretStr) -> SecretStr:
    """Return the key without spaces around it. Headers can hold only printable ASCII."""
    text = key.get_secret_value().strip()
    if not re.fullmatch("[!-~]*", text):
        raise ValueError("has characters that no key has: only printable ASCII without spaces")
    return SecretStr(text)


def _embedding_model(model: str) -> str:
    if not re.fullmatch(r"none|(?:openai|local)/[!-~]+", model):
        raise ValueError("must be none, or a provider and a model: openai/text-embedding-3-small or local/name")
    return model


def _mailbox(text: str) -> str:
    name, address = parseaddr(text)
    try:
        alone = text.strip() == address or text.rstrip().endswith(f"<{address}>")
        if alone and text.isprintable() and Address(name, addr_spec=address).domain:
            return text
    except (ValueError, IndexError, HeaderParseError):  # the parser raises different ones
        pass
    raise ValueError("must be an address, or a name and an address: Name <name@example.com>")


def _host(host: str) -> str:
    if not urls.is_host(f"[{host}]" if ":" in host else host):
        raise ValueError("must be a host name or an address, without scheme and port")
    return host


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Secret = Annotated[SecretStr, AfterValidator(_strong)]
Listed = NoDecode, BeforeValidator(_split)  # separated by spaces or commas
# URLs of databases are secret because they carry passwords.
PostgresUrl = Annotated[SecretStr, _checked(urls.postgres)]
MongoUri = Annotated[SecretStr, _checked(urls.mongo)]
RedisUrl = Annotated[SecretStr, _checked(urls.redis)]
Host = Annotated[str, AfterValidator(_host)]
HttpUrl = Annotated[str, AfterValidator(urls.http)]
DocumentStore = Annotated[str, AfterValidator(urls.document_store)]
ClamdAddress = Annotated[str, AfterValidator(urls.clamd)]
# A plain address is a network of one.
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Registration = Literal["open", "invited", "closed"]
PositiveNumber = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0, le=MOST)]
ProviderKey = Annotated[SecretStr, AfterValidator(_provider_key)]
Usd = Annotated[Decimal, Field(ge=0, le=MOST, decimal_places=9, allow_inf_nan=False)]
Allowance = Annotated[Usd | Literal["unlimited"], BeforeValidator(lower), WrapValidator(_allowance)]
EmbeddingModel = Annotated[str, AfterValidator(_embedding_model)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
