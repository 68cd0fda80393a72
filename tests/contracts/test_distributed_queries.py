"""Every statement of the whole surface says whose rows it wants, so that one shard can answer it; or it is listed."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.belongings import furnish
from tests.support.distribution import ACROSS, distributed_tables
from tests.support.operators import appoint
from tests.support.people import people
from tests.support.plans import Plans, print_plans, scans, parse
from tests.support.postgres import as_owner
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.surface import ENDPOINTS, calling_order


async def test_probe(stores: Stores, standin: Standin) -> None:
    own = await other_databases(stores, "distributed")
    await print_plans(own)
    plans = Plans()
    import time
    with plans.recording():
        async with running(Settings.model_validate(store_settings(own) | provider_settings(standin)), migrating=True) as app:
            t=time.time()
            async with people(app.address) as new_person:
                b = await furnish(new_person, "openai/gpt-4o-mini")
                print("furnish", time.time()-t); t=time.time()
                for endpoint in sorted(ENDPOINTS, key=calling_order):
                    for optional in (True, False):
                        o = await endpoint.call(b.owner, endpoint.request(b.ids, optional=optional))
                        print(endpoint.path, o.code.name)
            print("surface", time.time()-t)
    print(len(plans.found))
    async with as_owner(own) as c:
        rows = await (await c.execute("select relname, oid::int from pg_class where relnamespace='public'::regnamespace and relkind='r'")).fetchall()
        json.dump(dict(rows), open("/tmp/scale-oids.json","w"))
    json.dump([[p.statement,"plan",p.context,p.plan] for p in plans.found], open("/tmp/scale-plans.json","w"))
