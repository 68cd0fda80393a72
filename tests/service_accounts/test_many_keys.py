"""A key that made thousands of others ends in time, whatever these may do, also when whoever revokes it goes away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiworkspace.v1 import auth_pb2, org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.app import App
from tests.support.loop_time import watching_loop
from tests.support.people import NewPerson, Person, make_org
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.service_accounts import OF_ADMINS, make_account, make_key
from tests.support.statements import statements
from tests.support.stores import Stores
from tests.support.waiting import until

MANY = 2000
MOST_STATEMENTS = 200  # one for each key would be ten times as many

# Copies of the key that were made with it. No two of them may do the same.
COPY = """
INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited,
                      creator_id, creator_key_id, create_time)
SELECT org_id, gen_random_uuid(), user_id, name, prefix, sha256(n::text::bytea || %s), permissions[1 + n %% 9:],
       false, user_id, id, now()
FROM api_keys, generate_series(1, %s) AS n WHERE id = %s
"""


class Stolen:
    """An organization whose service account has a key that made many others."""

    def __init__(self, owner: Person, org_id: str, key: pb.ApiKey) -> None:
        self.owner = owner
        self.key_id = key.api_key_id
        self.ids: dict[str, Any] = {"org_id": org_id, "user_id": key.user_id}

    async def revoke(self) -> None:
        request = pb.RevokeApiKeyRequest(org_id=self.ids["org_id"], api_key_id=self.key_id)
        await self.owner.service_accounts.RevokeApiKey(request)

    async def delete(self) -> None:
        await self.owner.service_accounts.DeleteServiceAccount(pb.DeleteServiceAccountRequest(**self.ids))

    async def suspend(self) -> None:
        await self.owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(**self.ids))

    async def remove(self) -> None:
        await self.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(**self.ids))


WAYS = [Stolen.revoke, Stolen.delete, Stolen.suspend, Stolen.remove]


@pytest.fixture
async def stolen(new_person: NewPerson) -> Stolen:
    owner = await new_person()
    org_id = await make_org(owner)
    made = await make_key(owner, org_id, await make_account(owner, org_id), OF_ADMINS)
    return Stolen(owner, org_id, made.api_key)


async def working(stores: Stores, org_id: str) -> int:
    [(count,)] = await sql(stores, "SELECT count(*) FROM api_keys WHERE org_id = %s AND revoke_time IS NULL", org_id)
    return int(count)


@pytest.mark.parametrize("way", WAYS)
async def test_thousands_of_keys_end_with_the_one_that_made_them_in_few_statements(
    way: Callable[[Stolen], Awaitable[None]], app: App, stolen: Stolen, stores: Stores
) -> None:
    await sql(stores, COPY, stolen.key_id.encode(), MANY, stolen.key_id)
    with statements(app) as sent, watching_loop() as loop:
        await way(stolen)
    assert await working(stores, stolen.ids["org_id"]) == (way is Stolen.suspend)  # which makes its own key useless
    assert sum("api_key" in statement.text for statement in sent) < MOST_STATEMENTS  # the server sends others, too
    assert loop.longest < 0.1, loop.what


@pytest.mark.parametrize("way", WAYS)
async def test_what_takes_keys_away_is_brought_to_its_end_when_its_caller_goes_away(
    way: Callable[[Stolen], Awaitable[None]], stolen: Stolen, stores: Stores
) -> None:
    await sql(stores, COPY, stolen.key_id.encode(), 10, stolen.key_id)
    async with as_owner(stores) as owner, owner.transaction():
        await owner.execute("SELECT 1 FROM orgs WHERE id = %s FOR UPDATE", (stolen.ids["org_id"],))
        call = asyncio.ensure_future(way(stolen))
        await until_blocked(stores, call)
        call.cancel()
        await asyncio.wait([call])
        await stolen.owner.auth.GetMe(auth_pb2.GetMeRequest())  # on the same connection, so after the cancellation
    ended = way is Stolen.suspend

    async def done() -> bool:
        return await working(stores, stolen.ids["org_id"]) == ended

    assert await until(done)
