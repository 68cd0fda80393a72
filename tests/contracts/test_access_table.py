"""docs/access.md is true: every method as every role, against the running server; and ExplainAccess says the same.

What is called breaks a rule of the contract where it can, so that it is refused after the check of access and changes
nothing. What cannot break one is really called, in an organization that is there for it, what destroys most at the end.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protovalidate import Validator

from aiworkspace.v1 import access_pb2, org_pb2, workspace_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.auth.authority import ROLES, WORKSPACE_ROLES
from tests.support.belongings import keep_documents
from tests.support.custom_roles import ALL, assign, restrict, update
from tests.support.documents import begin
from tests.support.outcomes import refusal
from tests.support.people import NewPerson, Person, join, make_conversation, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import insert_account, insert_key
from tests.support.staff import MEMBER, Team
from tests.support.stores import Stores
from tests.support.surface import ENDPOINTS, Endpoint, name_of

PAGE = Path(__file__).parents[2] / "docs" / "access.md"
# What lies in what.
DEPTH = {
    "run_id": 0,
    "upload_id": 0,
    "document_id": 0,
    "collection_id": 0,
    "conversation_id": 1,
    "workspace_id": 2,
    "org_id": 3,
    "": 4,
}
_validator = Validator()


@dataclass
class Persona:
    """Somebody in a role, with the ids of things that are theirs alone."""

    person: Person
    ids: dict[str, str]


def table() -> dict[str, dict[str, str]]:
    """The cells of the page by method and column."""
    cells: dict[str, dict[str, str]] = {}
    service, columns = "", []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            service = line.removeprefix("## ")
        elif row[0] == "method":
            columns = row
        elif line.startswith("| ") and service.endswith("Service") and row[0] != "---":
            cells[f"{service}.{row[0]}"] = dict(zip(columns, row, strict=True))
    return cells


TABLE = table()


def test_the_table_has_every_method_and_every_role() -> None:
    assert TABLE.keys() == {name_of(endpoint) for endpoint in ENDPOINTS}
    roles = [*(role for role in ROLES if role != "custom"), *(f"ws {role}" for role in WORKSPACE_ROLES)]
    for cells in TABLE.values():
        assert list(cells) == ["method", "needs", *roles, "API keys", "audited"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_the_table_says_what_is_needed_and_what_is_recorded(endpoint: Endpoint) -> None:
    cells = TABLE[name_of(endpoint)]
    audited = endpoint.descriptor.GetOptions().Extensions[options.audited]
    assert cells["audited"] == ("yes" if audited else "-")
    assert endpoint.access.permission in cells["needs"]


# Personas


@pytest.fixture(scope="session")
async def boss(new_person: NewPerson) -> Person:
    return await new_person()


async def settle(boss: Person, person: Person, org_id: str, workspace_id: str) -> Persona:
    """Lets somebody who may do so now hold a conversation and begin an upload, of which they stay the owner."""
    conversation_id = await make_conversation(person, workspace_id)
    events = await say(person, conversation_id, "hello")
    ids = {"org_id": org_id, "workspace_id": workspace_id, "conversation_id": conversation_id}
    ids |= await keep_documents(person, workspace_id)
    ids["upload_id"] = await begin(person, workspace_id, b"on its way")
    return Persona(person, ids | {"run_id": events[0].run_id, "user_id": boss.user_id})


async def in_org(boss: Person, person: Person, role: int) -> Persona:
    org_id = await make_org(boss)
    await join(boss, org_id, person, MEMBER)
    persona = await settle(boss, person, org_id, await make_workspace(boss, org_id))
    await assign(boss, org_id, person, role)
    return persona


async def in_workspace(boss: Person, person: Person, role: str, stores: Stores) -> Persona:
    """Somebody whose role in the organization counts for nothing in the workspace."""
    org_id = await make_org(boss)
    await join(boss, org_id, person, MEMBER)
    workspace_id = await make_workspace(boss, org_id, visibility=workspace_pb2.WORKSPACE_VISIBILITY_ORG)
    persona = await settle(boss, person, org_id, workspace_id)
    await sql(stores, "UPDATE workspaces SET visibility = 'members' WHERE id = %s", workspace_id)
    await sql(
        stores,
        "INSERT INTO workspace_members (org_id, workspace_id, user_id, role, create_time)"
        " VALUES (%s, %s, %s, %s, now())",
        *(org_id, workspace_id, person.user_id, role),
    )
    await asyncio.sleep(1.1)  # the server remembers for a second what a workspace is to somebody
    return persona


# Asking


def spoil(request: Any, *kept: str) -> bool:
    """Makes the request break a rule, but for the kept fields. False when it has no other field to break."""
    for holder, path in holders(request):
        for field in holder.DESCRIPTOR.fields:
            if path + field.name in kept or field.is_repeated:
                continue
            for value in BROKEN.get(field.type, ()):
                before = getattr(holder, field.name)
                setattr(holder, field.name, value)
                if _validator.collect_violations(request):
                    return True
                setattr(holder, field.name, before)
    return bool(_validator.collect_violations(request))


BROKEN: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.TYPE_STRING: ("", "x", "x" * 2000),
    FieldDescriptor.TYPE_INT32: (-1,),
    FieldDescriptor.TYPE_INT64: (-1,),
}


def holders(request: Any) -> list[tuple[Any, str]]:
    """The request and the resource in it, with the paths to their fields."""
    inner = [
        (getattr(request, field.name), f"{field.name}.")
        for field in request.DESCRIPTOR.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE
        and not field.is_repeated
        and field.message_type.full_name.startswith("aiworkspace.")
    ]
    return [(request, ""), *inner]


def is_spoilable(endpoint: Endpoint) -> bool:
    return spoil(endpoint.request(dict.fromkeys(DEPTH, str(uuid4()))), endpoint.access.scope)


def scope_of(endpoint: Endpoint) -> str:
    return str(endpoint.access.scope.rpartition(".")[2])


def by_harm(endpoint: Endpoint) -> tuple[bool, bool, int, bool]:
    harmful, leaves_nothing = not is_spoilable(endpoint) and not endpoint.reads, endpoint.descriptor.name == "DeleteOrg"
    return harmful, endpoint.access.mode != options.ACCESS_MODE_PERMISSION, DEPTH[scope_of(endpoint)], leaves_nothing


IN_ORDER = sorted(ENDPOINTS, key=by_harm)
HARMLESS = [endpoint for endpoint in ENDPOINTS if not by_harm(endpoint)[0]]


async def may(endpoint: Endpoint, persona: Persona) -> bool:
    """Whether the check of access lets the call pass."""
    request = endpoint.request(persona.ids)
    return await passes(endpoint, persona, request, spoiled=spoil(request, endpoint.access.scope))


async def may_to_oneself(endpoint: Endpoint, persona: Persona) -> bool:
    """The same of a call about the caller."""
    request = endpoint.request(persona.ids | {endpoint.access.self_field: persona.person.user_id})
    spoiled = spoil(request, endpoint.access.scope, endpoint.access.self_field)
    return await passes(endpoint, persona, request, spoiled=spoiled)


async def passes(endpoint: Endpoint, persona: Persona, request: Any, *, spoiled: bool) -> bool:
    outcome = await endpoint.call(persona.person, request)
    if endpoint.access.mode == options.ACCESS_MODE_PUBLIC:
        return True  # whatever the method itself says of the credentials in the request
    if spoiled:
        assert outcome.code in REFUSED | {grpc.StatusCode.INVALID_ARGUMENT}, outcome
    unknown = outcome.message == f"{endpoint.access.scope}: not found."
    return outcome.code not in REFUSED or (outcome.code == grpc.StatusCode.NOT_FOUND and not unknown)


REFUSED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED}


async def explained(endpoint: Endpoint, persona: Persona) -> bool:
    """What ExplainAccess says about it."""
    method = name_of(endpoint).replace(".", "/")
    request = access_pb2.ExplainAccessRequest(method=method, resource_id=persona.ids.get(scope_of(endpoint), ""))
    refused = await refusal(persona.person.access.ExplainAccess(request))
    if refused:
        assert refused.code == "NOT_FOUND", method
        return False
    answer = await persona.person.access.ExplainAccess(request)
    assert answer.permission == endpoint.access.permission
    assert answer.allowed != bool(answer.refusal)
    return bool(answer.allowed)


async def find_out(persona: Persona) -> dict[str, str]:
    """What the server really does, in the words of the table."""
    found = {}
    for endpoint in IN_ORDER:
        foretold = await explained(endpoint, persona)
        found[name_of(endpoint)] = "yes" if await may(endpoint, persona) else "-"
        assert foretold == (found[name_of(endpoint)] == "yes"), name_of(endpoint)
        if by_harm(endpoint)[:2] == (True, True) and persona.person.tokens.access_token:
            await persona.person.log_in()  # the session may be over
    for endpoint in sorted(IN_ORDER, key=lambda endpoint: endpoint.descriptor.name == "RemoveMember"):  # the last thing
        refused = endpoint.access.self_field and found[name_of(endpoint)] == "-"
        if refused and await may_to_oneself(endpoint, persona):
            found[name_of(endpoint)] = "self"
    return found


def column(name: str) -> dict[str, str]:
    return {method: cells[name] for method, cells in TABLE.items()}


# The tests


@pytest.mark.parametrize("role", [role for role in ROLES if role != "custom"])
async def test_roles_in_the_organization_may_what_the_table_says(
    role: str, boss: Person, new_person: NewPerson
) -> None:
    number = org_pb2.Role.Value(f"ROLE_{role.upper()}")
    assert await find_out(await in_org(boss, await new_person(), number)) == column(role)


@pytest.mark.parametrize("role", WORKSPACE_ROLES)
async def test_roles_in_the_workspace_may_what_the_table_says(
    role: str, boss: Person, new_person: NewPerson, stores: Stores
) -> None:
    persona = await in_workspace(boss, await new_person(), role, stores)
    found, said = await find_out(persona), column(f"ws {role}")
    assert {method: found[method] for method, cell in said.items() if cell} == {
        method: cell for method, cell in said.items() if cell
    }


async def test_keys_may_what_the_table_says(boss: Person, stranger: Person, stores: Stores) -> None:
    org_id = await make_org(boss)
    await insert_account(stores, org_id, "admin", stranger, *ALL)
    persona = await settle(boss, stranger, org_id, await make_workspace(boss, org_id))
    await insert_key(stores, org_id, stranger)
    unscoped = {name_of(endpoint): await may(endpoint, persona) for endpoint in IN_ORDER}
    await insert_key(stores, org_id, stranger, *ALL)
    found = await find_out(persona)
    for method, cells in TABLE.items():
        match cells["API keys"]:
            case "scoped":
                assert (found[method], unscoped[method]) == (cells["admin"].replace("self", "-"), False), method
            case "no":
                assert (found[method], unscoped[method]) == ("-", False), method
            case _:
                assert (found[method], unscoped[method]) == ("yes", True), method


@pytest.fixture(scope="module")
async def custom(boss: Person, new_person: NewPerson) -> tuple[Persona, Callable[[list[str]], Any]]:
    """Somebody whose role is changed again and again."""
    persona = await in_org(boss, await new_person(), MEMBER)
    org_id, person = persona.ids["org_id"], persona.person
    role_id = await restrict(Team(org_id, boss, boss, person, person, boss), person, "org.read")
    return persona, lambda permissions: update(boss, org_id, role_id, permissions=permissions)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(permissions=st.sets(st.sampled_from(ALL), min_size=1))
async def test_whatever_a_custom_role_includes_the_explanation_is_what_happens(
    permissions: set[str], custom: tuple[Persona, Callable[[list[str]], Any]]
) -> None:
    persona, change = custom
    await change(sorted(permissions))
    for endpoint in HARMLESS:
        allowed = await may(endpoint, persona)
        assert await explained(endpoint, persona) == allowed, name_of(endpoint)
        if scope_of(endpoint) == "org_id":
            assert allowed == (endpoint.access.permission in permissions), name_of(endpoint)
