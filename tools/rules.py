"""The contract's validation rules in words."""

from collections.abc import Iterator

from aiworkspace.v1 import rules_pb2
from buf.validate import validate_pb2
from tools.contract import Field
from tools.parameters import is_required

# The patterns that the contract uses.
_PATTERNS = {
    r"^\P{Cc}*$": "no control characters",
    r"^[^\x00]*$": "no NUL",
}


def in_words(field: Field) -> Iterator[str]:
    """Yield a phrase for each rule."""
    rules = field.rules
    if is_required(field):
        yield "required"
    yield from _string(rules.repeated.items.string if rules.HasField("repeated") else rules.string)
    yield from _number(rules.int32 if rules.HasField("int32") else rules.int64)
    yield from _enum(rules.repeated.items.enum if rules.HasField("repeated") else rules.enum)
    if rules.repeated.unique:
        yield "no duplicates"
    yield from _range(rules.repeated.min_items, rules.repeated.max_items, "values")


def _string(rules: validate_pb2.StringRules) -> Iterator[str]:
    if rules.uuid:
        yield "UUID"
    if rules.email:
        yield "email address"
    yield from _range(rules.min_len, rules.max_len, "characters")
    yield from _range(rules.min_bytes, rules.max_bytes, "bytes")
    if rules.Extensions[rules_pb2.visible]:
        yield "visible characters"
    if rules.pattern:
        yield _PATTERNS.get(rules.pattern, f"matches `{rules.pattern}`")


def _range(least: int, most: int, unit: str) -> Iterator[str]:
    if least and most:
        yield f"{least:,} to {most:,} {unit}"
    elif least:
        yield f"at least {least:,} {unit}"
    elif most:
        yield f"at most {most:,} {unit}"


def _number(rules: validate_pb2.Int32Rules | validate_pb2.Int64Rules) -> Iterator[str]:
    if rules.HasField("gte") and rules.HasField("lte"):
        yield f"{rules.gte:,} to {rules.lte:,}"
    elif rules.HasField("gte"):
        yield f"at least {rules.gte:,}"
    elif rules.HasField("lte"):
        yield f"at most {rules.lte:,}"


def _enum(rules: validate_pb2.EnumRules) -> Iterator[str]:
    if rules.defined_only:
        yield "a declared value"
