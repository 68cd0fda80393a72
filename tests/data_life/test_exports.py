"""Exports: what is in them, who gets them, and what stays when they are gone."""

import asyncio
import uuid
from datetime import timedelta
from random import randbytes
from uuid import UUID

import grpc
import pytest

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace.v1 import document_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit.timestamps import now
from tests.support.belongings import furnish
from tests.support.data_policies import hold
from tests.support.documents import download, read, replace, upload
from tests.support.exports import (
    PIECE,
    begin_export,
    delete_export,
    download_export,
    ended,
    export_jobs,
    export_org,
    exported,
    get_export,
    list_exports,
    opened,
    responses,
    stored_pieces,
)
from tests.support.orgs import delete_org
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, outcome, refusal
from tests.support.people import NewPerson, Person, Place, make_conversation, make_place, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import NewBackend
from tests.support.staff import Team
from tests.support.stores import Stores
from tests.support.waiting import until

IN_PROGRESS = "FAILED_PRECONDITION EXPORT_IN_PROGRESS"
NOT_READY = "FAILED_PRECONDITION EXPORT_NOT_READY"
LIMIT = "RESOURCE_EXHAUSTED EXPORT_LIMIT"


async def test_an_export_has_one_of_everything(new_person: NewPerson) -> None:
    estate = await furnish(new_person)
    ids, owner = estate.ids, estate.owner
    found = await exported(owner, ids["org_id"])
    assert (found.manifest["format_version"], found.manifest["org_id"]) == (1, ids["org_id"])
    empty = {name for name in found.members if name.endswith(".jsonl") and not found.members[name]}
    assert empty == {"usage_rollups.jsonl", "budget_windows.jsonl"} & empty, "the ledger may not be summed up yet"
    [org] = found.rows("org")
    assert (org["id"], org["name"]) == (ids["org_id"], "Acme")
    assert owner.email in {each["email"] for each in found.rows("members")}
    assert [each["user_id"] for each in found.rows("service_accounts")] == [ids["service_account_id"]]
    assert "i@example.com" in {each["email"] for each in found.rows("invitations")}
    assert [each["name"] for each in found.rows("custom_roles")] == ["Reader"]
    assert [(each["id"], each["prefix"]) for each in found.rows("api_keys")] == [
        (ids["api_key_id"], estate.secret[: len(found.rows("api_keys")[0]["prefix"])])
    ]
    assert {each["id"] for each in found.rows("workspaces")} == {ids["workspace_id"], estate.closed["workspace_id"]}
    assert [each["provider"] for each in found.rows("provider_keys")] == ["deepseek"]
    assert {each["id"] for each in found.rows("documents")} == {ids["document_id"], estate.closed["document_id"]}
    assert {each["id"] for each in found.rows("collections")} == {ids["collection_id"], estate.closed["collection_id"]}
    assert "DataService/ExportOrg" in {each["method"] for each in found.rows("audit_events")}


async def test_what_was_said_is_in_an_export_of_everybody(new_person: NewPerson) -> None:
    estate = await furnish(new_person)
    found = await exported(estate.owner, estate.ids["org_id"])
    whose = {each["conversation_id"]: each["user_id"] for each in found.rows("conversations")}
    assert whose == {
        estate.owners["conversation_id"]: estate.owner.user_id,
        estate.members["conversation_id"]: estate.member.user_id,
        estate.closed["conversation_id"]: estate.owner.user_id,
    }
    said = [each for each in found.rows("messages") if each["run_id"] == estate.members["run_id"]]
    assert [each["role"] for each in said] == ["MESSAGE_ROLE_USER", "MESSAGE_ROLE_ASSISTANT"]
    assert said[0]["contents"][0]["text"] == "hello"
    assert said[1]["contents"][0]["text"]
    [run] = [each for each in found.rows("runs") if each["run_id"] == estate.members["run_id"]]
    assert (run["state"], run["user_id"]) == ("RUN_STATE_COMPLETED", estate.member.user_id)
    assert [each["state"] for each in run["attempts"]] == ["ATTEMPT_STATE_COMPLETED"]


async def test_documents_are_in_an_export_with_their_latest_bytes(place: Place) -> None:
    first = await read(place.owner, place.workspace_id, b"old words", name="a.txt")
    await replace(place.owner, first.document_id, b"new words")
    found = await exported(place.owner, place.org_id)
    assert found.members[f"documents/{first.document_id}/a.txt"] == b"new words"
    [version] = [each for each in found.rows("document_versions") if each["number"] == 2]
    assert version["size_bytes"] == len(b"new words")


NAMES = {
    "../../etc/passwd": "_.._etc_passwd",
    "a/b\\c.txt": "a_b_c.txt",
    "..": "document",
    "Überblick, 概要.txt": "Überblick, 概要.txt",
    'what? "yes" <no>|*.md': "what_ _yes_ _no___.md",
    "con.txt": "_con.txt",
    "same.txt": "same.txt",
    "x" * 250 + ".txt": "x" * 196 + ".txt",
}


async def test_names_of_documents_lead_out_of_no_folder(place: Place) -> None:
    owner, workspace_id = place.owner, place.workspace_id
    made = {name: (await upload(owner, workspace_id, name.encode(), name=name)).document_id for name in NAMES}
    other = (await upload(owner, workspace_id, b"another", name="same.txt")).document_id
    found = await exported(owner, place.org_id)
    for name, safe in NAMES.items():
        assert found.members[f"documents/{made[name]}/{safe}"] == name.encode()
    assert found.members[f"documents/{other}/same.txt"] == b"another"
    assert {each["name"] for each in found.rows("documents")} == NAMES.keys()


async def test_deleted_things_are_in_no_export(place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, b"deleted words")
    delete = document_pb2.DeleteDocumentRequest(document_id=document.document_id)
    await place.owner.documents.DeleteDocument(delete)
    found = await exported(place.owner, place.org_id)
    assert "deleted words" not in found.text
    assert not found.rows("documents")


async def test_nothing_of_another_organization_is_in_an_export(new_person: NewPerson) -> None:
    ours, theirs = await furnish(new_person), await furnish(new_person)
    text = (await exported(ours.owner, ours.ids["org_id"])).text
    foreign = {*theirs.ids.values(), *theirs.owners.values(), *theirs.members.values(), *theirs.closed.values()}
    foreign -= {theirs.ids["job_id"]}
    assert not [each for each in (*foreign, theirs.owner.email, theirs.member.email) if each in text]
    assert ours.owner.email in text


async def test_somebody_in_two_organizations_exports_one(owner: Person) -> None:
    here, there = await make_place(owner), await make_place(owner)
    await say(owner, there.conversation_id, "said there")
    assert "said there" not in (await exported(owner, here.org_id)).text


async def test_only_owners_may(team: Team, new_backend: NewBackend) -> None:
    export = await export_org(team.owner, team.org_id)
    whose = team.org_id, export.export_id
    for person in (team.admin, team.member, team.viewer):
        for call in (
            begin_export(person, team.org_id),
            get_export(person, *whose),
            list_exports(person, team.org_id),
            delete_export(person, *whose),
            responses(person, *whose),
        ):
            assert await outcome(call) == PERMISSION_MISSING
    for call in (begin_export(team.outsider, team.org_id), responses(team.outsider, *whose)):
        assert await outcome(call) == NOT_FOUND
    assert await outcome(responses(team.owner, *whose)) == OK


async def test_exports_of_others_are_unknown(place: Place, new_person: NewPerson) -> None:
    other = await make_place(await new_person())
    export = await export_org(other.owner, other.org_id)
    for call in (get_export, delete_export, responses):
        assert await outcome(call(place.owner, place.org_id, export.export_id)) == NOT_FOUND
    assert not (await list_exports(place.owner, place.org_id)).exports


async def test_a_large_export_comes_in_pieces_from_any_offset(place: Place) -> None:
    await upload(place.owner, place.workspace_id, randbytes(1_600_000), name="noise.bin")
    export = await export_org(place.owner, place.org_id)
    whole = await responses(place.owner, place.org_id, export.export_id)
    assert len(whole) > 2
    assert (whole[0].size_bytes, whole[0].sha256, whole[0].offset) == (export.size_bytes, export.sha256, 0)
    assert {len(each.data) for each in whole[:-1]} == {PIECE}
    assert not any(each.sha256 or each.size_bytes for each in whole[1:])
    data = b"".join(each.data for each in whole)
    assert opened(data).members
    for offset in (1, PIECE, PIECE + 7, len(data) - 1, len(data)):
        rest = await responses(place.owner, place.org_id, export.export_id, offset)
        assert b"".join(each.data for each in rest) == data[offset:]
        assert (rest[0].offset, rest[0].sha256) == (offset, export.sha256)
    beyond = responses(place.owner, place.org_id, export.export_id, len(data) + 1)
    assert await outcome(beyond) == "OUT_OF_RANGE OFFSET_TOO_LARGE"


async def test_a_repeated_call_begins_no_other_export(place: Place) -> None:
    request_id = str(uuid.uuid4())
    first, again = [await begin_export(place.owner, place.org_id, request_id) for _ in range(2)]
    assert first == again
    assert first.export.state == pb.EXPORT_STATE_PENDING
    await ended(place.owner, place.org_id, first.export.export_id)
    assert len((await list_exports(place.owner, place.org_id)).exports) == 1


async def in_progress(stores: Stores, place: Place) -> str:
    """An export that no job writes."""
    export_id = str(uuid.uuid4())
    row = "INSERT INTO exports (org_id, id, user_id, state, create_time) VALUES (%s, %s, %s, 'pending', now())"
    await sql(stores, row, place.org_id, export_id, place.owner.user_id)
    return export_id


async def test_one_export_is_in_progress_at_a_time(place: Place, stores: Stores) -> None:
    export_id = await in_progress(stores, place)
    refused = await refusal(begin_export(place.owner, place.org_id))
    assert refused
    assert (f"{refused.code} {refused.reason}", refused.metadata["export_id"]) == (IN_PROGRESS, export_id)
    assert await outcome(responses(place.owner, place.org_id, export_id)) == NOT_READY
    await delete_export(place.owner, place.org_id, export_id)
    assert (await export_org(place.owner, place.org_id)).state == pb.EXPORT_STATE_READY


async def test_of_calls_at_the_same_time_one_begins(place: Place) -> None:
    calls = [outcome(begin_export(place.owner, place.org_id)) for _ in range(4)]
    outcomes = await asyncio.gather(*calls)
    made = (await list_exports(place.owner, place.org_id)).exports
    assert outcomes.count(OK) == len(made)
    assert set(outcomes) <= {OK, IN_PROGRESS, "RESOURCE_EXHAUSTED TOO_MANY_CALLS"}


async def test_an_organization_keeps_ten_exports(place: Place, stores: Stores) -> None:
    await sql(
        stores,
        "INSERT INTO exports (org_id, id, user_id, state, create_time, end_time, expire_time)"
        " SELECT %s, gen_random_uuid(), %s, state, now(), now(), now() + interval '1 hour'"
        " FROM (VALUES ('ready', 10), ('failed', 5)) kinds (state, many), generate_series(1, many)",
        place.org_id,
        place.owner.user_id,
    )
    refused = await refusal(begin_export(place.owner, place.org_id))
    assert refused
    assert (f"{refused.code} {refused.reason}", refused.metadata) == (LIMIT, {"limit": "10"})
    ready = [e for e in (await list_exports(place.owner, place.org_id)).exports if e.state == pb.EXPORT_STATE_READY]
    await delete_export(place.owner, place.org_id, ready[0].export_id)
    assert await outcome(begin_export(place.owner, place.org_id)) == OK


async def test_exports_are_listed_page_by_page(place: Place) -> None:
    made = [(await export_org(place.owner, place.org_id)).export_id for _ in range(3)]
    first = await list_exports(place.owner, place.org_id, page_size=2)
    rest = await list_exports(place.owner, place.org_id, page_size=2, page_token=first.next_page_token)
    assert [each.export_id for each in (*first.exports, *rest.exports)] == made[::-1]
    assert not rest.next_page_token


async def test_exports_take_no_room_of_documents(place: Place, stores: Stores) -> None:
    await upload(place.owner, place.workspace_id, b"words")
    used = "SELECT size_bytes, document_count FROM document_usage WHERE org_id = %s"
    before = await sql(stores, used, place.org_id)
    await export_org(place.owner, place.org_id)
    assert await sql(stores, used, place.org_id) == before == [(5, 1)]


async def test_a_deleted_export_leaves_nothing(place: Place, app: App, stores: Stores) -> None:
    export = await export_org(place.owner, place.org_id)
    assert await stored_pieces(app, place.org_id) == 1
    await hold(place.owner, place.org_id)
    await delete_export(place.owner, place.org_id, export.export_id)
    for call in (get_export, delete_export, responses):
        assert await outcome(call(place.owner, place.org_id, export.export_id)) == NOT_FOUND
    assert not (await list_exports(place.owner, place.org_id)).exports

    async def erased() -> bool:
        return await stored_pieces(app, place.org_id) == 0

    await until(erased)
    await export_jobs(app).purge()
    assert await rows(stores, place), "a server may still write"
    await sql(stores, "UPDATE exports SET delete_time = %s WHERE org_id = %s", now() - timedelta(hours=1), place.org_id)
    await export_jobs(app).purge()
    assert not await rows(stores, place)


async def test_an_export_expires(place: Place, app: App, stores: Stores) -> None:
    export = await export_org(place.owner, place.org_id)
    lifetime = export.expire_time.ToDatetime() - export.end_time.ToDatetime()
    assert lifetime == timedelta(hours=72)
    await export_jobs(app).purge()
    assert await outcome(responses(place.owner, place.org_id, export.export_id)) == OK
    await sql(stores, "UPDATE exports SET expire_time = %s WHERE org_id = %s", now(), place.org_id)
    assert await outcome(get_export(place.owner, place.org_id, export.export_id)) == NOT_FOUND
    assert await outcome(responses(place.owner, place.org_id, export.export_id)) == NOT_FOUND
    await export_jobs(app).purge()
    assert (await rows(stores, place), await stored_pieces(app, place.org_id)) == ([], 0)


async def test_a_deleted_organization_leaves_no_export(place: Place, app: App, stores: Stores) -> None:
    await export_org(place.owner, place.org_id)
    await in_progress(stores, place)
    await delete_org(place.owner, place.org_id)

    async def erased() -> bool:
        return (await rows(stores, place), await stored_pieces(app, place.org_id)) == ([], 0)

    assert await until(erased)


async def rows(stores: Stores, place: Place) -> list[tuple[object, ...]]:
    return await sql(stores, "SELECT id FROM exports WHERE org_id = %s", place.org_id)


async def test_each_row_that_is_there_all_the_time_is_in_the_file_once(place: Place, stores: Stores) -> None:
    """While others write beside it, before and behind where it reads."""
    owner, before = place.owner, {place.conversation_id}
    for number in range(30):
        before.add(await make_conversation(owner, place.workspace_id))
        await say(owner, place.conversation_id, f"question {number}")
    many = "INSERT INTO teams SELECT %s, gen_random_uuid(), 'before', 1, now(), now() FROM generate_series(1, 1500)"
    await sql(stores, many, place.org_id)
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            await say(owner, await make_conversation(owner, place.workspace_id), "meanwhile")
            beside = "INSERT INTO teams VALUES (%s, gen_random_uuid(), 'beside', 1, now(), now())"
            await sql(stores, beside, place.org_id)
            touch = "UPDATE teams SET name = 'changed' WHERE org_id = %s AND id > gen_random_uuid() AND name = 'before'"
            await sql(stores, touch, place.org_id)

    writing = asyncio.create_task(write())
    found = await exported(owner, place.org_id)
    done.set()
    await writing
    teams = [each["id"] for each in found.rows("teams") if each["name"] != "beside"]
    assert (len(teams), len(set(teams))) == (1500, 1500)
    conversations = [each["conversation_id"] for each in found.rows("conversations")]
    assert len(set(conversations)) == len(conversations)
    assert before <= set(conversations)
    said = [each for each in found.rows("messages") if each["conversation_id"] == place.conversation_id]
    questions = [each["contents"][0]["text"] for each in said]
    assert questions[::2] == [f"question {number}" for number in range(30)]


async def test_downloads_of_a_document_and_its_member_are_the_same(place: Place) -> None:
    data = bytes(range(256)) * 5000
    document = await upload(place.owner, await make_workspace(place.owner, place.org_id), data, name="bytes.bin")
    found = await exported(place.owner, place.org_id)
    member = found.members[f"documents/{document.document_id}/bytes.bin"]
    assert member == await download(place.owner, document.document_id) == data


async def test_a_download_ends_when_the_export_is_deleted(place: Place, app: App) -> None:
    await upload(place.owner, place.workspace_id, randbytes(4_000_000), name="noise.bin")
    export = await export_org(place.owner, place.org_id)
    await app.mongo.database["documents.chunks"].delete_many({"org_id": UUID(place.org_id), "n": {"$gte": 2}})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await download_export(place.owner, export)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
