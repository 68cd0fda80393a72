"""Updates, and what the comments of the contract say about the fields of the resource in them."""

import re
from typing import Any

from tests.support.surface import ENDPOINTS, Endpoint
from tools.contract import load

UPDATES = [e for e in ENDPOINTS if "update_mask" in e.descriptor.input_type.fields_by_name]
_CONTRACT = load()


def resource_of(endpoint: Endpoint) -> Any:
    """The field of the request that holds the new values."""
    return endpoint.descriptor.input_type.fields[0]


def changeable(endpoint: Endpoint) -> set[str]:
    """The paths that the comment of the mask names."""
    mask = _CONTRACT.messages[endpoint.descriptor.input_type.full_name].field("update_mask")
    assert mask
    return set(re.findall(r'"(\w+)"', mask.comment))


def naming(endpoint: Endpoint) -> set[str]:
    """The fields of the resource that say which one it is."""
    fields = _CONTRACT.messages[resource_of(endpoint).message_type.full_name].fields
    return {field.name for field in fields if "except that it selects" in field.comment}
