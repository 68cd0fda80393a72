"""Operators of the server: the commands that appoint them, and their calls."""

import asyncio
import os
import subprocess
import sys
from typing import Any

from aiworkspace.v1 import admin_pb2, audit_pb2
from tests.support.mailbox import Mailbox
from tests.support.people import NewPerson, Person
from tests.support.postgres import sql
from tests.support.settings import mail_settings, store_settings
from tests.support.stores import Stores

Ran = subprocess.CompletedProcess[str]


async def run(stores: Stores, mailbox: Mailbox, *arguments: str) -> Ran:
    """Runs a command of the server's program."""
    values = store_settings(stores) | mail_settings(mailbox)
    environment = {**os.environ, **{name.upper(): str(value) for name, value in values.items()}}
    command = [sys.executable, "-m", "aiworkspace_server", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=100
    )


async def verify(stores: Stores, person: Person) -> Person:
    """Has the address of the person count as verified."""
    await sql(stores, "UPDATE users SET verify_time = now() WHERE id = %s", person.user_id)
    return person


async def appoint(stores: Stores, new_person: NewPerson) -> Person:
    """Somebody new who is an operator, as after the command."""
    person = await verify(stores, await new_person())
    await sql(stores, "INSERT INTO operators VALUES (%s, now())", person.user_id)
    return person


def list_all(operator: Person, **fields: Any) -> Any:
    return operator.admin.ListAllOrgs(admin_pb2.ListAllOrgsRequest(page_size=1000, **fields))


async def suspend_org(operator: Person, org_id: str, reason: str = "Unpaid.") -> admin_pb2.AdminOrg:
    request = admin_pb2.SuspendOrgRequest(org_id=org_id, reason=reason)
    org: admin_pb2.AdminOrg = (await operator.admin.SuspendOrg(request)).org
    return org


async def reinstate_org(operator: Person, org_id: str, reason: str = "Paid.") -> admin_pb2.AdminOrg:
    request = admin_pb2.ReinstateOrgRequest(org_id=org_id, reason=reason)
    org: admin_pb2.AdminOrg = (await operator.admin.ReinstateOrg(request)).org
    return org


async def operator_events(operator: Person, resource_id: str = "") -> list[Any]:
    """At most a thousand, the latest first."""
    request = audit_pb2.ListOperatorEventsRequest(resource_id=resource_id, page_size=1000)
    return list((await operator.audit.ListOperatorEvents(request)).events)
