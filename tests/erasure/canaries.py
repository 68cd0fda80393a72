"""Writes a text into every field of the contract that takes one, by reflection."""

import uuid
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor

from tests.support.people import Person
from tests.support.surface import ENDPOINTS, Endpoint, inside, name_of, text_fields

# Texts that the server makes or that choose among what there is.
_NOT_WRITTEN = ("etag", "page_token", "order_by", "request_id")
_ENDINGS = ("Delete", "Remove", "Revoke", "Suspend", "Reject", "Logout", "Cancel", "Erase")

IN_CONVERSATION = ("conversation_id", "run_id")
IN_DOCUMENTS = ("document_id", "collection_id", "upload_id")
IN_WORKSPACE = (*IN_CONVERSATION, *IN_DOCUMENTS, "workspace_id")
IN_ORG = (*IN_WORKSPACE, "org_id")


def new_canary() -> str:
    return f"canary-{uuid.uuid4().hex}"


def endpoints(*scopes: str) -> list[Endpoint]:
    """Methods that act in one of these, and end nothing."""
    return [
        endpoint
        for endpoint in ENDPOINTS
        if endpoint.access.scope.rpartition(".")[2] in scopes and not endpoint.descriptor.name.startswith(_ENDINGS)
    ]


_LONG = "word " * 2000  # the answer takes so long that its events are stored in batches


async def write(
    person: Person, methods: list[Endpoint], ids: Mapping[str, str], canary: str, only: str = ""
) -> dict[str, int]:
    """Calls each method once for each of its text fields, with the canary in it. Returns which took it, how often.

    `only`: no other field than the one at this path.
    """
    taken: dict[str, int] = {}
    for endpoint in methods:
        for path in [path for path in _written_by_callers(endpoint) if only in ("", path)]:
            for value in (canary, f"{canary}@example.com", f"{canary}/*", f"{canary} {_LONG}"):
                request = _request(endpoint, ids, path, value)
                outcome = await endpoint.call(person, request)
                if outcome.code == grpc.StatusCode.OK:
                    name = f"{name_of(endpoint)}.{path}"
                    taken[name] = taken.get(name, 0) + 1
    return taken


def _written_by_callers(endpoint: Endpoint) -> list[str]:
    return [
        path
        for path, field in text_fields(endpoint.descriptor.input_type)
        if field.name not in _NOT_WRITTEN and not field.name.endswith(("_id", "_ids"))
    ]


def _request(endpoint: Endpoint, ids: Mapping[str, str], path: str, value: str) -> Any:
    request = endpoint.request(ids, optional=False)
    *parents, name = path.split(".")
    message = request
    for parent in parents:
        message = inside(message, parent)
    field = message.DESCRIPTOR.fields_by_name[name]
    given = value.encode() if field.type == FieldDescriptor.TYPE_BYTES else value
    if field.is_repeated:
        getattr(message, name).append(given)
    else:
        setattr(message, name, given)
    if "update_mask" in request.DESCRIPTOR.fields_by_name:
        request.update_mask.paths[:] = [name]
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        request.request_id = str(uuid.uuid4())
    return request
