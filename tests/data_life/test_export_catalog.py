"""Nothing that is stored of an organization is forgotten by exports, or gets into them by itself."""

from typing import Any

from aiworkspace_server.app import App
from aiworkspace_server.conversations.models import Conversation
from aiworkspace_server.data_life.exports.catalog import (
    CONVERSATION_FIELDS,
    MESSAGE_FIELDS,
    RUN_FIELDS,
    TABLES,
    WITHHELD,
    WITHHELD_DOCUMENTS,
)
from aiworkspace_server.runs.models import AttemptRecord, Run
from tests.support.belongings import furnish
from tests.support.catalog import tenant_tables
from tests.support.exports import exported
from tests.support.people import NewPerson
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores

_COLUMNS = "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'"
EXPORTED = {f"{column.class_.__tablename__}.{column.key}" for table in TABLES for column in table.columns}
EXPORTED_COLLECTIONS = {"conversations", "runs"}
# The server's own, and not of one organization.
_OF_THE_SERVER = {"migrations"}


async def test_each_column_is_exported_or_withheld_with_a_reason(app: App, stores: Stores) -> None:
    async with as_owner(stores) as connection:
        tenants = await tenant_tables(connection)
    columns = {name for (name,) in await sql(stores, _COLUMNS)}
    concerned = tenants.keys() | {name.partition(".")[0] for name in EXPORTED}
    own = {f"{table}.{column}" for table, column in tenants.items() if table != "orgs"}
    wanted = {name for name in columns - own if name.partition(".")[0] in concerned}
    withheld = {name for name in wanted if name in WITHHELD or name.partition(".")[0] in WITHHELD}
    assert wanted - EXPORTED - withheld == set(), "neither exported nor withheld"
    assert EXPORTED & withheld == set()
    assert wanted >= EXPORTED
    assert {name for name in WITHHELD if "." in name} <= wanted, "withheld, but does not exist"
    assert {name for name in WITHHELD if "." not in name} <= tenants.keys()


async def test_each_collection_is_exported_or_withheld_with_a_reason(app: App, new_person: NewPerson) -> None:
    await furnish(new_person)
    fields = tuple(f"{collection}." for collection in EXPORTED_COLLECTIONS)
    known = EXPORTED_COLLECTIONS | {name for name in WITHHELD_DOCUMENTS if not name.startswith(fields)}
    assert {*await app.mongo.database.list_collection_names()} - known - _OF_THE_SERVER == set()


def _withheld(collection: str) -> set[str]:
    return {name.removeprefix(f"{collection}.") for name in WITHHELD_DOCUMENTS if name.startswith(f"{collection}.")}


async def test_each_field_of_a_document_is_exported_or_withheld(app: App, new_person: NewPerson) -> None:
    """What the models declare, and what is stored."""
    await furnish(new_person)
    read = {"conversations": {*CONVERSATION_FIELDS}, "runs": {*MESSAGE_FIELDS, *RUN_FIELDS}}
    declared: dict[str, Any] = {"conversations": Conversation.__annotations__, "runs": Run.__annotations__}
    for collection, fields in read.items():
        withheld = _withheld(collection) - {"attempts.error"}
        assert declared[collection].keys() == fields | withheld
        assert not fields & withheld
        async for document in app.mongo.database[collection].find({}):
            assert document.keys() - {"org_id"} <= fields | withheld


async def test_an_attempt_is_exported_but_for_what_a_provider_said(new_person: NewPerson) -> None:
    estate = await furnish(new_person)
    found = await exported(estate.owner, estate.ids["org_id"])
    [attempt] = found.rows("runs")[0]["attempts"]
    names = {name: {"number": "attempt"}.get(name, name) for name in AttemptRecord.__annotations__}
    assert {name for name, field in names.items() if field not in attempt} == {"error", "failure"}, "it did not fail"


async def test_the_manifest_says_what_is_withheld(new_person: NewPerson) -> None:
    estate = await furnish(new_person)
    found = await exported(estate.owner, estate.ids["org_id"])
    assert found.manifest["withheld"] == WITHHELD | WITHHELD_DOCUMENTS
    assert all(found.manifest["withheld"].values())
