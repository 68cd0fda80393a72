"""Jobs that erase deleted content, and periodic jobs that complete every deletion.

A deletion leaves a tombstone: a row or document with a delete_time. Its job is enqueued in the same transaction and
erases everything at once. A call or run that was in progress may still store something afterwards, so the job runs
again a minute later, until a pass finds nothing; then it sets erase_time. A periodic job finds tombstones without it,
whatever happened to their job. An erasure that an owner asked for is such a tombstone, too: it ends with a receipt.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from ..accounts import store as accounts
from ..auth.former_addresses import forget_former_addresses
from ..auth.models import User
from ..chat.erasure import SETTLED, ChatEraser
from ..documents.erasure import DocumentEraser
from ..kit.idempotency import purge_idempotent_replies
from ..kit.jobs import SLOW_QUEUE, Jobs, Work
from ..kit.passes import Pass
from ..kit.postgres import Database, ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs.holds import OnHold
from ..orgs.models import Org
from ..workspaces.models import Workspace
from . import requests, store
from .receipts import Receipts

_ORG, _WORKSPACE, _ACCOUNT = "erasure.org", "erasure.workspace", "erasure.account"
_CONVERSATION, _REQUESTED = "erasure.conversation", "erasure.requested"
_ALL = _ORG, _WORKSPACE, _ACCOUNT, _CONVERSATION, _REQUESTED
_RECONCILE, _PURGE, _BEGIN = "erasure.reconcile", "erasure.purge", "erasure.begin"
_TOKENS_KEPT = timedelta(days=2)  # longer than the lifetime of any of them
_MOST_ENQUEUED = 500  # in one pass of `reconcile`
_MOST_BEGUN = 100  # in one pass of `begin_due`
_EVERY_15_SECONDS, _EVERY_10_MINUTES = "* * * * * */15", "*/10 * * * *"

log = structlog.get_logger("erasure")


class ErasureJobs:
    """Enqueues and runs the jobs that erase."""

    def __init__(
        self, db: Database, jobs: Jobs, chats: ChatEraser, documents: DocumentEraser, receipts: Receipts
    ) -> None:
        self._db = db
        self._jobs = jobs
        self._chats = chats
        self._documents = documents
        self._receipts = receipts

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs and the periodic ones. Needed to enqueue them, too."""
        jobs.add(_ORG, self._erase_org, SLOW_QUEUE)
        jobs.add(_WORKSPACE, self._erase_workspace, SLOW_QUEUE)
        jobs.add(_ACCOUNT, self._erase_account, SLOW_QUEUE)
        jobs.add(_CONVERSATION, self._erase_conversation, SLOW_QUEUE)
        jobs.add(_REQUESTED, self._erase_requested, SLOW_QUEUE)
        jobs.every(_EVERY_15_SECONDS, _RECONCILE, self.reconcile)
        jobs.every(_EVERY_15_SECONDS, _BEGIN, self.begin_due)
        jobs.every(_EVERY_10_MINUTES, _PURGE, self.purge)

    async def ask_org(self, tx: WriteSession, org_id: UUID) -> None:
        await self._jobs.enqueue(tx, _ORG, org_id=org_id)

    async def ask_workspace(self, tx: WriteSession, org_id: UUID, workspace_id: UUID) -> None:
        await self._jobs.enqueue(tx, _WORKSPACE, org_id=org_id, workspace_id=workspace_id)

    async def ask_account(self, tx: WriteSession, user_id: UUID) -> None:
        """Enqueue the erasure of a person or a service account."""
        await self._jobs.enqueue(tx, _ACCOUNT, user_id=user_id)

    async def ask_requested(self, tx: WriteSession, org_id: UUID, erasure_id: UUID) -> None:
        """Enqueue an erasure that has begun."""
        await self._jobs.enqueue(tx, _REQUESTED, org_id=org_id, erasure_id=erasure_id)

    async def begin_due(self) -> None:
        """Delete the organizations whose erasure is due. Those with a legal hold are tried again until it ends."""
        this = Pass(_BEGIN)
        async with self._db.read() as tx:
            due = await requests.list_due(tx, _MOST_BEGUN)
        for org_id, erasure_id in due:
            with this.item(org_id=org_id, erasure_id=erasure_id), suppress(OnHold):
                async with self._db.write(org_id) as tx:
                    if await requests.begin(tx, org_id, erasure_id):
                        await self.ask_requested(tx, org_id, erasure_id)

    async def reconcile(self) -> None:
        """Enqueue missing jobs of tombstones, a limited number in one pass.

        Passes of several servers may overlap. Only one at a time enqueues, because it would not see the uncommitted
        rows of another one.
        """
        missing = await self._list_missing()
        async with self._db.write() as tx:
            if await store.reconciles_alone(tx):
                at_work = await self._jobs.at_work(tx, *_ALL)
                for name, arguments in missing:
                    if (name, arguments) not in at_work:
                        await self._jobs.enqueue(tx, name, **dict(arguments))

    async def _list_missing(self) -> list[Work]:
        async with self._db.read() as tx:
            at_work = await self._jobs.at_work(tx, *_ALL)
            missing = [each for each in await _list_unerased(tx) if each not in at_work][:_MOST_ENQUEUED]
        if len(missing) < _MOST_ENQUEUED:
            async for org_id, conversation_id in self._chats.list_deleted():
                each = _work(_CONVERSATION, org_id=org_id, conversation_id=conversation_id)
                if each not in at_work:
                    missing.append(each)
                if len(missing) == _MOST_ENQUEUED:
                    break
        return missing

    async def purge(self) -> None:
        """Delete rows whose retention has ended."""
        this = Pass(_PURGE)
        with this.item(table="replies"):
            await purge_idempotent_replies(self._db, this)
        with this.item(table="tokens"):
            async with self._db.write() as tx:
                await accounts.delete_old_tokens(tx, now() - _TOKENS_KEPT)
        with this.item(table="former_addresses"):
            async with self._db.write() as tx:
                await forget_former_addresses(tx)

    async def _erase_org(self, org_id: str) -> None:
        id = UUID(org_id)

        async def erase() -> bool:
            found = await store.erase_org(self._db, id)
            found = await self._documents.erase_org(id) or found
            return await self._chats.erase_org(id) or found

        await self._pass(Org, id, id, erase)

    async def _erase_workspace(self, org_id: str, workspace_id: str) -> None:
        org, id = UUID(org_id), UUID(workspace_id)

        async def erase() -> bool:
            found = await store.erase_workspace(self._db, org, id)
            found = await self._documents.erase_workspace(org, id) or found
            return await self._chats.erase_workspace(org, id) or found

        await self._pass(Workspace, id, org, erase)

    async def _erase_account(self, user_id: str) -> None:
        id = UUID(user_id)

        async def erase() -> bool:
            found = await store.erase_account(self._db, id)
            for org_id in await self._chats.list_orgs_of(id):
                found = await self._chats.erase_person(org_id, id) or found
            for org_id in await self._documents.list_orgs_of(id):
                found = await self._documents.erase_person(org_id, id) or found
            return found

        await self._pass(User, id, None, erase)

    async def _erase_requested(self, org_id: str, erasure_id: str) -> None:
        """Run one pass of an erasure that was asked for. One that starts late enough and finds nothing completes it."""
        org, begin = UUID(org_id), now()
        async with self._db.read(org) as tx:
            erasure = await requests.find_erasure(tx, UUID(erasure_id))
            org_erased = await store.is_erased(tx, org)
        if erasure is None or erasure.begin_time is None or erasure.end_time:
            return
        if erasure.found is None:
            erasure.found = await self._receipts.count(org, erasure.user_id)
            async with self._db.write(org) as tx:
                await requests.note_found(tx, erasure.id, erasure.found)
                if not erasure.user_id:
                    await self.ask_org(tx, org)
        found = await store.erase_origins(self._db, org, erasure.user_id)
        if erasure.user_id:
            found = await self._erase_person(org, erasure.user_id) or found
        if found or begin - erasure.begin_time < SETTLED or not (erasure.user_id or org_erased):
            return
        receipt = await self._receipts.write(org, erasure.user_id, erasure.found)
        async with self._db.write(org) as tx:
            await requests.note_end(tx, erasure.id, receipt)
        log.info("erased", kind="request", id=erasure_id)

    async def _erase_person(self, org_id: UUID, user_id: UUID) -> bool:
        found = await store.erase_traces(self._db, org_id, user_id)
        found = await self._chats.erase_person(org_id, user_id) or found
        return await self._documents.erase_person(org_id, user_id) or found

    async def _erase_conversation(self, org_id: str, conversation_id: str) -> None:
        await self._chats.erase_conversation(UUID(org_id), UUID(conversation_id))

    async def _pass(
        self,
        table: type[Org | Workspace | User],
        row_id: UUID,
        org_id: UUID | None,
        erase: Callable[[], Awaitable[bool]],
    ) -> None:
        """Run one pass for a tombstone. A pass that starts late enough and finds nothing completes it."""
        begin = now()
        deleted = await self._find(table, row_id, org_id)
        if deleted is None:
            return
        found = await erase()
        if not found and begin - deleted >= SETTLED:
            async with self._db.write(org_id) as tx:
                await store.note_erased(tx, table, row_id)
            log.info("erased", kind=table.__tablename__, id=str(row_id))

    async def _find(self, table: type[Org | Workspace | User], row_id: UUID, org_id: UUID | None) -> datetime | None:
        async with self._db.read(org_id) as tx:
            return await store.find_unerased(tx, table, row_id)


async def _list_unerased(tx: ReadSession) -> list[Work]:
    before = now() - SETTLED
    found = [
        _work(_WORKSPACE, org_id=row.org_id, workspace_id=row.workspace_id)
        if row.workspace_id
        else _work(_ORG, org_id=row.org_id)
        for row in await store.list_unerased(tx, before)
    ]
    found += [_work(_ACCOUNT, user_id=user_id) for user_id in await store.list_unerased_users(tx, before)]
    return found + [
        _work(_REQUESTED, org_id=row.org_id, erasure_id=row.id)
        for row in await requests.list_open(tx, before, _MOST_ENQUEUED)
    ]


def _work(name: str, **ids: UUID) -> Work:
    return name, frozenset((key, str(id)) for key, id in ids.items())
