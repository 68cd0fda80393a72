"""Updates that send every field there is: only those change that the contract calls changeable."""

from collections.abc import Mapping
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import common_pb2, org_pb2, workspace_pb2
from tests.contracts.conftest import Estate
from tests.contracts.snapshot import Rows
from tests.contracts.updates import UPDATES, changeable, naming, resource_of
from tests.support.settings import WEBHOOK_HOST
from tests.support.surface import Endpoint, name_of

CANARY = "canary"
# New values of changeable fields, where a text of any kind would not do.
CHANGED: dict[str, Any] = {
    "permissions": ["member.read", "org.read"],
    "custom_role_id": "",
    "default_model": "openai/gpt-4o",
    "model": "openai/gpt-4o",
    "alert_percents": [50],
    "hard": False,
    "enabled": False,
    "event_types": [1],
    "url": f"https://{WEBHOOK_HOST}/changed",
}
# Columns that are not called as the field is.
COLUMNS = {"limit_nanos": "limit"}
EVENTS = {"events", "event_heads"}
# Columns that say that and when something changed.
TRACES = {"version", "update_time"}


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "every path"])
@pytest.mark.parametrize("endpoint", UPDATES, ids=name_of)
async def test_only_what_may_be_changed_is_changed(endpoint: Endpoint, masked: bool, estate: Estate) -> None:
    request = endpoint.request(estate.ours.ids)
    resource = getattr(request, resource_of(endpoint).name)
    values = {**CHANGED, "role": org_pb2.ROLE_MEMBER if masked else org_pb2.ROLE_VIEWER}
    values["collection_ids"] = [estate.ours.ids["collection_id"]]  # in which it is
    ids = values["collection_ids"]
    values["retrieval"] = workspace_pb2.Retrieval(collection_ids=ids, max_passages=5 if masked else 6)
    values["limit"] = common_pb2.Money(currency_code="USD", nanos=(5 if masked else 6) * 10**12)
    forged = _forge(resource, naming(endpoint), {name: values.get(name, f"{masked}") for name in changeable(endpoint)})
    if masked:
        request.update_mask.CopyFrom(FieldMask(paths=[field.name for field in resource.DESCRIPTOR.fields]))
    before = await estate.snapshots.take_at_rest()
    outcome = await endpoint.call(estate.ours.owner, request)
    after = await estate.snapshots.take_at_rest()
    assert outcome.code == grpc.StatusCode.OK, outcome
    changed = _changed_columns(before, after)
    assert changed <= changeable(endpoint) | TRACES
    assert changed & changeable(endpoint), "nothing was changed, so nothing was shown"
    assert not [row for row in after if CANARY in row[1]]
    answered = GetMessageClass(endpoint.descriptor.output_type).FromString(outcome.answer)
    for name, value in forged.items():
        assert getattr(getattr(answered, resource_of(endpoint).name), name) != value, name


def _forge(resource: Any, kept: set[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Sets every field but the kept ones and the etag. Returns those that must not change, with their values."""
    forged = {}
    for field in resource.DESCRIPTOR.fields:
        if field.name in values:
            _set(resource, field, values[field.name])
        elif field.name not in kept | {"etag"}:
            _set(resource, field, _forged(field))
            forged[field.name] = getattr(resource, field.name)
    return forged


def _set(resource: Any, field: Any, value: Any) -> None:
    if field.is_repeated:
        resource.ClearField(field.name)
        getattr(resource, field.name).extend(value if isinstance(value, list) else [value])
    elif field.message_type:
        getattr(resource, field.name).CopyFrom(value)
    else:
        setattr(resource, field.name, value)


def _forged(field: Any) -> Any:
    if field.message_type:
        return _forged_message(field.message_type)
    if field.enum_type:
        return field.enum_type.values[-1].number
    return {FieldDescriptor.TYPE_STRING: CANARY, FieldDescriptor.TYPE_BOOL: True}.get(field.type, 77)


def _forged_message(kind: Any) -> Any:
    message = GetMessageClass(kind)()
    if isinstance(message, Timestamp):
        message.FromJsonString("2001-01-01T00:00:00Z")
        return message
    for field in kind.fields:
        _set(message, field, _forged(field))
    return message


def _changed_columns(before: Rows, after: Rows) -> set[str]:
    """Of rows that are there before and after: an update makes none and removes none, but for its event."""
    before, after = (frozenset(row for row in rows if row[0] not in EVENTS) for rows in (before, after))
    gone, come = _by_table(before - after), _by_table(after - before)
    assert {table: len(rows) for table, rows in gone.items()} == {table: len(rows) for table, rows in come.items()}
    changed = set()
    for table, rows in gone.items():
        assert len(rows) == 1, f"{table}: more than the one that was named"
        ((old,), (new,)) = rows, come[table]
        changed |= {COLUMNS.get(name, name) for name in old if old[name] != new[name]}
    return changed


def _by_table(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for table, row in rows:
        found.setdefault(table, []).append(orjson.loads(row))
    return found
