"""Erasures that owners ask for: who may, what goes, what stays, and what the receipt says of it."""

import asyncio
from typing import Any

import pytest

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_server.erasure.receipts import COLLECTIONS, KEPT, KEPT_OF_PERSON, OF_PERSON
from tests.erasure.canaries import IN_ORG, endpoints, new_canary, write
from tests.erasure.conftest import Site
from tests.support.audit_log import Log
from tests.support.belongings import Belongings, furnish
from tests.support.catalog import tenant_tables
from tests.support.data_policies import hold, release
from tests.support.erasures import cancel_erasure, erase_org, erase_user, get_receipt, list_erasures
from tests.support.exports import begin_export, export_org, get_export
from tests.support.mailbox import Mailbox
from tests.support.orgs import delete_org, remove_member
from tests.support.outcomes import LEGAL_HOLD, NOT_FOUND, OK, PERMISSION_MISSING, outcome, refusal
from tests.support.people import Person, join, make_conversation, make_org, make_place
from tests.support.postgres import as_owner, sql, until_no_jobs
from tests.support.runs import say
from tests.support.staff import Team
from tests.support.waiting import until

pytestmark = pytest.mark.waits

ERASURE_RUNNING = "FAILED_PRECONDITION ERASURE_RUNNING"


async def receipt_of(site: Site, person: Person, erasure: pb.Erasure) -> pb.GetErasureReceiptResponse:
    """Waits for the last pass of an erasure, and returns its receipt."""

    async def is_done() -> bool:
        return bool((await get_receipt(person, erasure)).erasure.state == pb.ERASURE_STATE_DONE)

    await until(
        lambda: sql(site.stores, "SELECT 1 FROM erasures WHERE id = %s AND found IS NOT NULL", erasure.erasure_id)
    )
    await site.come_due(erasure.erasure_id)
    await until(is_done)
    receipt: pb.GetErasureReceiptResponse = await get_receipt(person, erasure)
    return receipt


def counts(receipt: pb.GetErasureReceiptResponse) -> dict[str, tuple[int, int]]:
    return {line.name: (line.erased_count, line.kept_count) for line in receipt.lines}


async def check_lines(receipt: pb.GetErasureReceiptResponse) -> None:
    for line in receipt.lines:
        assert bool(line.kept_count) == bool(line.reason), line


async def test_an_organization_is_erased_after_seven_days(site: Site, mailbox: Mailbox) -> None:
    canary, estate = new_canary(), await furnish(site.person)
    owner, org_id = estate.owner, estate.ids["org_id"]
    await write(owner, endpoints(*IN_ORG), estate.ids, canary)
    erasure = (await erase_org(owner, org_id)).erasure
    assert erasure.due_time.seconds - erasure.create_time.seconds == 7 * 24 * 3600
    assert (erasure.state, erasure.user_id, erasure.requester_id) == (pb.ERASURE_STATE_SCHEDULED, "", owner.user_id)
    await mailbox.wait(owner.email, "An organization will be erased")
    assert (await erase_org(owner, org_id)).erasure == erasure, "asked for twice, it is one"
    assert (await list_erasures(owner, org_id)).erasures[0] == erasure
    assert (await get_receipt(owner, erasure)).lines == []
    await say(owner, estate.ids["conversation_id"], "everything goes on")
    addresses = await sql(site.stores, "SELECT count(*) FROM audit_origins WHERE chain_id = %s", org_id)
    await site.come_due(erasure.erasure_id)
    await until(lambda: sql(site.stores, "SELECT 1 FROM orgs WHERE id = %s AND delete_time IS NOT NULL", org_id))
    assert await outcome(erase_org(owner, org_id)) == NOT_FOUND
    await site.first_pass(org_id)
    await site.last_pass("org", org_id)
    receipt = await receipt_of(site, owner, erasure)
    await check_lines(receipt)
    await until_no_jobs(site.stores)
    assert await site.find(canary) == {}
    assert await sql(site.stores, "SELECT 1 FROM audit_origins WHERE chain_id = %s", org_id) == []
    found = counts(receipt)
    assert found["audit_origins"] == (addresses[0][0], 0)
    for name in ("conversations", "runs", "documents", "chunks", "memberships", "api_keys", "documents.files"):
        assert (found[name][0] > 0, found[name][1]) == (True, 0), name
    for name in KEPT:
        assert (found[name][0], found[name][1] > 0) == (0, True), name
    assert {line.name for line in receipt.lines if line.kept_count} == KEPT.keys()


async def test_the_receipt_has_every_table_and_collection(site: Site) -> None:
    async with as_owner(site.stores) as owner:
        tables = (await tenant_tables(owner)).keys()
        people = await owner.execute(
            "SELECT DISTINCT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND (a.attname = ANY (%s)"
            "  OR EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.confrelid = 'users'::regclass))",
            (["user_id", "creator_id", "subject_id"],),
        )
        naming = {name for (name,) in await people.fetchall()} & tables
    estate = await furnish(site.person)
    erasure = (await erase_org(estate.owner, estate.ids["org_id"])).erasure
    await site.come_due(erasure.erasure_id)
    await until(
        lambda: sql(site.stores, "SELECT 1 FROM erasures WHERE id = %s AND found IS NOT NULL", erasure.erasure_id)
    )
    ((found,),) = await sql(site.stores, "SELECT found FROM erasures WHERE id = %s", erasure.erasure_id)
    assert {name for store, name, _ in found if store == "postgresql"} == tables - {"replies"}
    collections = {name for store, name, _ in found if store == "mongodb"}
    assert collections == {*COLLECTIONS}
    assert {*await site.documents.list_collection_names()} - {"migrations"} <= collections
    assert naming - {"replies"} == OF_PERSON.keys() - {"audit_origins"}
    assert KEPT_OF_PERSON.keys() <= OF_PERSON.keys()


async def test_an_erasure_that_is_cancelled_changes_nothing(site: Site) -> None:
    owner = await site.person()
    place = await make_place(owner)
    erasure = (await erase_org(owner, place.org_id)).erasure
    cancelled = (await cancel_erasure(owner, erasure)).erasure
    assert cancelled.state == pb.ERASURE_STATE_CANCELLED
    assert (await cancel_erasure(owner, erasure)).erasure == cancelled
    await site.come_due(erasure.erasure_id)
    later = (await erase_org(owner, place.org_id)).erasure
    assert later.erasure_id != erasure.erasure_id
    await site.come_due(later.erasure_id)
    await until(lambda: sql(site.stores, "SELECT 1 FROM orgs WHERE id = %s AND delete_time IS NOT NULL", place.org_id))
    cancels = "SELECT begin_time FROM erasures WHERE id = %s"
    assert await sql(site.stores, cancels, erasure.erasure_id) == [(None,)]


async def test_a_hold_delays_an_erasure_that_is_due(site: Site) -> None:
    owner = await site.person()
    place = await make_place(owner)
    erasure = (await erase_org(owner, place.org_id)).erasure
    await hold(owner, place.org_id, place.workspace_id)
    assert await outcome(erase_org(owner, place.org_id)) == LEGAL_HOLD
    await site.come_due(erasure.erasure_id)
    assert await due(site, erasure) == []
    runs = "SELECT 1 FROM procrastinate_periodic_defers WHERE task_name = 'erasure.begin' AND defer_timestamp >= %s"
    ((now,),) = await sql(site.stores, "SELECT extract(epoch FROM now())::bigint + 1")
    await until(lambda: sql(site.stores, runs, now))
    await until_no_jobs(site.stores)
    assert (await list_erasures(owner, place.org_id)).erasures[0].state == pb.ERASURE_STATE_SCHEDULED
    await release(owner, place.org_id, place.workspace_id)
    await until(lambda: sql(site.stores, "SELECT 1 FROM orgs WHERE id = %s AND delete_time IS NOT NULL", place.org_id))


async def test_a_suspension_delays_an_erasure_that_is_due(site: Site) -> None:
    owner = await site.person()
    place = await make_place(owner)
    erasure = (await erase_org(owner, place.org_id)).erasure
    suspend = "UPDATE orgs SET suspend_time = CASE WHEN %s THEN now() END WHERE id = %s"
    await sql(site.stores, suspend, True, place.org_id)
    await site.come_due(erasure.erasure_id)
    assert await due(site, erasure) == []
    await sql(site.stores, suspend, False, place.org_id)
    await until(lambda: sql(site.stores, "SELECT 1 FROM orgs WHERE id = %s AND delete_time IS NOT NULL", place.org_id))


async def due(site: Site, erasure: pb.Erasure) -> list[tuple[Any, ...]]:
    """The erasure, if nothing delays it. Those that something delays take no place in the list."""
    return await sql(site.stores, "SELECT id FROM list_due_erasures(now(), 9999) WHERE id = %s", erasure.erasure_id)


async def leave(estate: Belongings, person: Person) -> None:
    """The person becomes a member, says something there with an agent of their own, and is removed."""
    org_id = estate.ids["org_id"]
    await join(estate.owner, org_id, person, org_pb2.ROLE_MEMBER)
    await say(person, await make_conversation(person, estate.ids["workspace_id"]), f"secret of {person.user_id}")
    await remove_member(estate.owner, org_id, person)


async def test_a_former_member_is_erased(site: Site) -> None:
    estate, person = await furnish(site.person), await site.person()
    owner, org_id = estate.owner, estate.ids["org_id"]
    await leave(estate, person)
    log = Log(owner, org_id)
    (before, *_) = [event for event in await log.events() if event.user_id == person.user_id]
    assert (before.address, bool(before.user_agent)) == ("127.0.0.1", True)
    noted = await log.verify()
    copy = await export_org(owner, org_id)
    used = "UPDATE api_keys SET creator_id = %s, last_use_address = '192.0.2.9' WHERE org_id = %s"
    await sql(site.stores, used, person.user_id, org_id)
    erasure = (await erase_user(owner, org_id, person.user_id)).erasure
    assert await outcome(get_export(owner, org_id, copy.export_id)) == NOT_FOUND, "what the person said is in it"
    assert await outcome(begin_export(owner, org_id)) == ERASURE_RUNNING
    assert await outcome(join(owner, org_id, person, org_pb2.ROLE_MEMBER)) in (ERASURE_RUNNING, NOT_FOUND)
    assert (erasure.state, erasure.user_id) == (pb.ERASURE_STATE_RUNNING, person.user_id)
    assert (await erase_user(owner, org_id, person.user_id)).erasure.erasure_id == erasure.erasure_id
    refused = await refusal(cancel_erasure(owner, erasure))
    assert refused
    assert refused.reason == "ERASURE_CLOSED"
    receipt = await receipt_of(site, owner, erasure)
    await check_lines(receipt)
    found = counts(receipt)
    assert found["conversations"] == found["runs"] == (1, 0)
    assert found["invitations"] == (1, 0)
    assert found["audit_origins"][0] >= 1
    assert found["run_claims"] == found["usage_rollups"] or found["run_claims"] == (0, 1)
    places = await site.find(f"secret of {person.user_id}")
    assert places.keys() <= {"redis"}, "streams of runs end by themselves"
    assert await site.find("192.0.2.9") == {}
    for event in await log.events(user_id=person.user_id):
        assert (event.address, event.user_agent) == ("", "")
    (other, *_) = [event for event in await log.events() if event.user_id == owner.user_id]
    assert other.address == "127.0.0.1", "that of others stays"
    assert (await log.verify(noted.sequence, noted.hash)).valid
    assert await outcome(begin_export(owner, org_id)) == OK


async def test_members_and_strangers_are_not_erased(site: Site) -> None:
    estate, stranger = await furnish(site.person), await site.person()
    owner, org_id = estate.owner, estate.ids["org_id"]
    refused = await refusal(erase_user(owner, org_id, estate.member.user_id))
    assert refused
    assert refused.reason == "STILL_MEMBER"
    assert await outcome(erase_user(owner, org_id, stranger.user_id)) == NOT_FOUND
    await leave(estate, stranger)
    await hold(owner, org_id)
    assert await outcome(erase_user(owner, org_id, stranger.user_id)) == LEGAL_HOLD
    await release(owner, org_id)
    asked = await asyncio.gather(*(erase_user(owner, org_id, stranger.user_id) for _ in range(2)))
    assert len({each.erasure.erasure_id for each in asked}) == 1


async def test_nobody_comes_back_while_being_erased(site: Site) -> None:
    owner, person = await site.person(), await site.person()
    place = await make_place(owner)
    values = "VALUES (%s, gen_random_uuid(), %s, %s, now(), now() + interval '1 day')"  # so that it goes on
    columns = "org_id, id, user_id, requester_id, create_time, due_time"
    await sql(site.stores, f"INSERT INTO erasures ({columns}) {values}", place.org_id, person.user_id, owner.user_id)
    assert await outcome(join(owner, place.org_id, person, org_pb2.ROLE_MEMBER)) == ERASURE_RUNNING
    await sql(site.stores, "UPDATE erasures SET end_time = now() WHERE user_id = %s", person.user_id)
    assert await outcome(join(owner, place.org_id, person, org_pb2.ROLE_MEMBER)) == OK


async def test_only_owners_may(team: Team) -> None:
    for person in (team.admin, team.member, team.viewer):
        assert await outcome(erase_org(person, team.org_id)) == PERMISSION_MISSING
        assert await outcome(erase_user(person, team.org_id, team.outsider.user_id)) == PERMISSION_MISSING
        assert await outcome(list_erasures(person, team.org_id)) == PERMISSION_MISSING
    assert await outcome(erase_org(team.outsider, team.org_id)) == NOT_FOUND
    erasure = (await erase_org(team.owner, team.org_id)).erasure
    for person in (team.admin, team.member, team.viewer, team.outsider):
        assert await outcome(get_receipt(person, erasure)) == NOT_FOUND
    assert await outcome(cancel_erasure(team.admin, erasure)) == PERMISSION_MISSING
    elsewhere = pb.Erasure(org_id=await make_org(team.outsider), erasure_id=erasure.erasure_id)
    assert await outcome(cancel_erasure(team.outsider, elsewhere)) == NOT_FOUND
    assert await outcome(cancel_erasure(team.owner, erasure)) == OK


async def test_the_receipt_outlives_the_organization_for_who_asked(site: Site) -> None:
    first, second = await site.person(), await site.person()
    place = await make_place(first)
    await join(first, place.org_id, second, org_pb2.ROLE_OWNER)
    erasure = (await erase_org(first, place.org_id)).erasure
    assert await outcome(get_receipt(second, erasure)) == OK, "an owner, too"
    assert await outcome(delete_org(second, place.org_id)) == OK, "which need not wait for it"
    assert await outcome(get_receipt(second, erasure)) == NOT_FOUND
    assert (await get_receipt(first, erasure)).erasure.state == pb.ERASURE_STATE_SCHEDULED
    await site.come_due(erasure.erasure_id)
    await site.last_pass("org", place.org_id)
    assert counts(await receipt_of(site, first, erasure))["audit_origins"][1] == 0
