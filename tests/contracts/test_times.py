"""Times at the edges of calendars, in every field of every request: none is an error of the server."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import service_account_pb2
from tests.contracts.conftest import Estate
from tests.support.people import NewPerson, make_org
from tests.support.postgres import sql
from tests.support.service_accounts import make_account, make_key
from tests.support.stores import Stores
from tests.support.surface import ENDPOINTS, Endpoint, inside, name_of

END = Timestamp(seconds=253402300799, nanos=999_999_999)
EDGES = {
    "year 1": Timestamp(seconds=-62135596800),
    "before PostgreSQL's Julian days of 4713 BC": Timestamp(seconds=-210866803200),
    "1970": Timestamp(),
    "a leap day": Timestamp(seconds=1709164800),
    "the last month": Timestamp(seconds=253399622400),
    "the end of time": END,
    "after the end": Timestamp(seconds=253402300800),
    "no nanoseconds": Timestamp(seconds=1, nanos=-1),
    "the largest number": Timestamp(seconds=2**63 - 1),
    "the smallest number": Timestamp(seconds=-(2**63)),
}


def time_fields(message: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all times in a request."""
    for field in message.fields:
        if field.message_type is None:
            continue
        if field.message_type.full_name == "google.protobuf.Timestamp":
            yield prefix + field.name
        elif field.message_type.full_name.startswith("aiworkspace."):
            yield from time_fields(field.message_type, f"{prefix}{field.name}.")


TIMED = [(each, list(time_fields(each.descriptor.input_type))) for each in ENDPOINTS]
TIMED = [(endpoint, paths) for endpoint, paths in TIMED if paths]


def put_time(request: Any, path: str, time: Timestamp) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        request = inside(request, parent)
    getattr(request, name).CopyFrom(time)


def test_fields_for_times_are_found() -> None:
    found = {name_of(endpoint): paths for endpoint, paths in TIMED}
    assert found["ServiceAccountService.RotateApiKey"] == ["expire_time"]
    assert found["UsageService.GetUsage"] == ["start_time", "end_time"]


@pytest.mark.parametrize(("endpoint", "paths"), TIMED, ids=[name_of(endpoint) for endpoint, _ in TIMED])
async def test_no_time_is_an_error_of_the_server(endpoint: Endpoint, paths: list[str], estate: Estate) -> None:
    for chosen in itertools.product(EDGES, repeat=min(2, len(paths))):
        request = endpoint.request(estate.ours.ids)
        for path, edge in zip(paths, chosen, strict=False):
            put_time(request, path, EDGES[edge])
        outcome = await endpoint.call(estate.ours.owner, request)
        assert outcome.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (chosen, outcome)


@pytest.mark.parametrize("overlap", [0, 2_592_000])
async def test_a_key_that_expires_at_the_end_of_time_is_rotated(overlap: int, new_person: NewPerson) -> None:
    owner = await new_person()
    org_id = await make_org(owner)
    made = await make_key(owner, org_id, await make_account(owner, org_id), expire_time=END)
    request = service_account_pb2.RotateApiKeyRequest(
        org_id=org_id, api_key_id=made.api_key.api_key_id, overlap_seconds=overlap
    )
    rotated = (await owner.service_accounts.RotateApiKey(request)).api_key
    assert rotated.expire_time.ToDatetime(UTC) == datetime.max.replace(tzinfo=UTC)


async def test_a_key_that_lasts_for_all_of_time_is_rotated(new_person: NewPerson, stores: Stores) -> None:
    """Made at the first moment that a calendar has."""
    owner = await new_person()
    org_id = await make_org(owner)
    made = await make_key(owner, org_id, await make_account(owner, org_id), expire_time=END)
    early = "UPDATE api_keys SET create_time = '0001-01-01' WHERE id = %s"
    await sql(stores, early, made.api_key.api_key_id)
    request = service_account_pb2.RotateApiKeyRequest(org_id=org_id, api_key_id=made.api_key.api_key_id)
    rotated = (await owner.service_accounts.RotateApiKey(request)).api_key
    assert rotated.expire_time.ToDatetime(UTC) == datetime.max.replace(tzinfo=UTC)
