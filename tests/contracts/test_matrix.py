"""Whose is it: for every method and every id in its request, that a foreign id is as good as a random one.

The same answer to the byte, no trace in either database, no word to a provider. All methods and fields are found by
reflection, so that a new one is held against this without being named.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest

from tests.contracts.conftest import Estate
from tests.contracts.snapshot import about
from tests.contracts.updates import UPDATES, changeable
from tests.support.belongings import PEOPLE, Ids
from tests.support.people import Person
from tests.support.surface import (
    ENDPOINTS,
    SCOPES,
    Endpoint,
    Outcome,
    enum_fields,
    id_fields,
    is_output_only,
    name_of,
    put,
    random_id,
)


@dataclass(frozen=True)
class Caller:
    """Somebody, what they may use, and what they may not know of."""

    person: Person
    own: Ids
    foreign: dict[str, Ids]


@pytest.fixture(scope="module")
async def callers(estate: Estate) -> dict[str, Caller]:
    ours, theirs = estate.ours, {"another organization's": estate.theirs.ids}
    robot = await estate.new_person()
    robot.bearer.token = ours.secret
    return {
        "owner": Caller(ours.owner, ours.ids, {**theirs, "another person's": ours.members}),
        "member": Caller(
            ours.member,
            {**ours.ids, **ours.members},
            {**theirs, "another workspace's": ours.closed, "another person's": ours.owners},
        ),
        "key": Caller(
            robot, ours.ids, {**theirs, "another workspace's": ours.closed, "another person's": ours.members}
        ),
    }


_FIELDS = [(endpoint, path) for endpoint in ENDPOINTS for path in id_fields(endpoint.descriptor.input_type)]


@pytest.mark.parametrize("who", ["owner", "member", "key"])
@pytest.mark.parametrize(
    ("endpoint", "path"), _FIELDS, ids=lambda value: value if isinstance(value, str) else name_of(value)
)
async def test_foreign_ids_are_as_unknown_as_random_ones(
    endpoint: Endpoint, path: str, who: str, callers: dict[str, Caller], estate: Estate
) -> None:
    caller = callers[who]
    for whose, foreign in caller.foreign.items():
        if who == "owner" and whose == "another person's" and endpoint.access.permission == "usage.read":
            continue  # who reads the usage of an organization reads that of all its people
        pairs = list(_requests(endpoint, path, caller, foreign))
        if await _are_refused(endpoint, path, caller.person, pairs, estate):
            continue
        for request, foreign_id in pairs:
            assert await _told_apart(endpoint, path, caller.person, request, foreign_id, estate) == [], request


async def _are_refused(
    endpoint: Endpoint, path: str, person: Person, pairs: list[tuple[Any, str]], estate: Estate
) -> bool:
    """Whether all calls are refused alike. Then looking once is enough to see that nothing has changed."""
    before, asked = await estate.snapshots.before_call(), len(estate.standin.received)
    for request, foreign_id in pairs:
        outcome, other = await _call_both(endpoint, path, person, request, foreign_id)
        is_as_unknown = path != endpoint.access.scope or outcome.code == grpc.StatusCode.NOT_FOUND
        if outcome.code == grpc.StatusCode.OK or outcome != other or not is_as_unknown:
            estate.snapshots.forget()
            return False
    assert await estate.snapshots.take_at_rest() == before, "refused calls have changed something"
    assert len(estate.standin.received) == asked, "a provider was called"
    return True


async def _call_both(
    endpoint: Endpoint, path: str, person: Person, request: Any, foreign_id: str
) -> tuple[Outcome, Outcome]:
    """The outcomes of a call with a foreign id, and of the same call with a random one, which nothing has.

    Where the answer names what was asked about, that is all in which they may differ: there, both have the foreign id.
    """
    put(request, path, foreign_id)
    outcome = await endpoint.call(person, request)
    put(request, path, unknown_id := random_id())
    other = await endpoint.call(person, request)
    return outcome, replace(other, answer=other.answer.replace(unknown_id.encode(), foreign_id.encode()))


async def _told_apart(
    endpoint: Endpoint, path: str, person: Person, request: Any, foreign_id: str, estate: Estate
) -> list[str]:
    """In what a call with a foreign id differs from the same call with a random one, which nothing has."""
    before, asked = await estate.snapshots.before_call(), len(estate.standin.received)
    outcome, other = await _call_both(endpoint, path, person, request, foreign_id)
    after = await estate.snapshots.take_at_rest()
    if grpc.StatusCode.OK in (outcome.code, other.code):
        estate.snapshots.forget()
    if outcome.code == grpc.StatusCode.OK:
        faults = {
            "what the foreign id names has changed": about(after, foreign_id) != about(before, foreign_id),
            f"the random id is answered with {other.code}": other.code != grpc.StatusCode.OK,
            "the answer depends on the foreign id": outcome != other and not is_output_only(endpoint, path),
        }
    else:
        faults = {
            f"the answer is {outcome}, to the random id {other}": outcome != other,
            "a refused call has changed something": after != before,
        }
    faults["a provider was called"] = len(estate.standin.received) != asked
    faults["the foreign scope is found"] = path == endpoint.access.scope and outcome.code != grpc.StatusCode.NOT_FOUND
    return [fault for fault, found in faults.items() if found]


def _requests(endpoint: Endpoint, path: str, caller: Caller, foreign: Ids) -> Iterator[tuple[Any, str]]:
    """Requests about the caller's own things, and the foreign id to put into them at the path.

    With and without what is optional, since some fields exclude each other; with every value of every enum, since
    some ids count with one value alone; and about the caller, where people may do to themselves what others may not.
    """
    variants = [caller.own]
    if endpoint.access.self_field:
        variants.append({**caller.own, "user_id": caller.person.user_id})
    for own in variants:
        for optional in (True, False):
            request = endpoint.request(own, optional=optional)
            for name, foreign_id in _candidates(path, foreign):
                _aim(request, path, name)
                yield deepcopy(request), foreign_id
                for enum, values in _enums(endpoint):
                    for value in values:
                        put(request, enum, value)
                        yield deepcopy(request), foreign_id


def _enums(endpoint: Endpoint) -> Iterator[tuple[str, list[int]]]:
    """The enums of a request that the server looks at: in an update, those that may be changed."""
    for path, values in enum_fields(endpoint.descriptor.input_type):
        if endpoint not in UPDATES or "." not in path or path.split(".")[1] in changeable(endpoint):
            yield path, values


def _candidates(path: str, foreign: Ids) -> list[tuple[str, str]]:
    """What somebody else has that fits the field, with the name of what it is."""
    name = path.rpartition(".")[2].removesuffix("s")
    names = {"user_id": PEOPLE, "resource_id": SCOPES}.get(name, (name,))
    return [(found, foreign[found]) for found in names if found in foreign]


def _aim(request: Any, path: str, name: str) -> None:
    """Where a request names a method besides the resource, one that is about such a resource."""
    if path == "resource_id" and "method" in request.DESCRIPTOR.fields_by_name:
        endpoint = next(e for e in ENDPOINTS if e.access.scope == name)
        request.method = name_of(endpoint).replace(".", "/")


def test_the_matrix_knows_every_kind_of_id(estate: Estate) -> None:
    """What a request can name that the organizations lack would never be tried."""
    named = {path.rpartition(".")[2].removesuffix("s") for _, path in _FIELDS} - {"resource_id"}
    assert named <= estate.theirs.ids.keys()
