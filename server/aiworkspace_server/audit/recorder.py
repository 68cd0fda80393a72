"""Records audited calls: a change in its own transaction, everything else when the call has ended."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from google.protobuf.message import Message

from aiworkspace.v1 import options_pb2 as options

from ..kit.context import Call, current
from ..kit.contract import Method
from ..kit.errors import RateLimited
from ..kit.interceptors import Handler, outcome_of
from ..kit.postgres import Database, WriteSession
from ..kit.request_streams import message_of
from ..kit.stores import retry_until_available
from ..kit.tasks import Tasks
from . import store
from .calls import ActorOf, describe
from .models import OPERATORS
from .service import Chain

_AFTER_ANSWER_SECONDS = 0.05
_CLOSING_SECONDS = 3.0
# An organization learns what an operator did to it, not who that is.
_NOBODY = {"user_id": None, "session_id": None, "address": "", "user_agent": ""}

log = structlog.get_logger("audit")


@dataclass(slots=True)
class Recording:
    """The state of recording a call."""

    request: Message
    changing: bool = False  # whether the next transaction of the call's organization or account is its change
    done: bool = False


class Recorder:
    """The two steps around audited methods, and the hook that Database calls before a commit."""

    def __init__(self, db: Database, chain: Chain, actor_of: ActorOf, tasks: Tasks) -> None:
        self._db = db
        self._chain = chain
        self._actor_of = actor_of
        self._tasks = tasks

    def outcomes(self, method: Method, proceed: Handler) -> Handler:
        """Record how the call ended, unless that was committed with its change.

        Public methods are recorded after the response, whose time would otherwise reveal whether the account exists.
        """
        if not method.audited:
            return proceed
        public = method.access.mode == options.ACCESS_MODE_PUBLIC

        async def handler(call: Call, request: Any) -> Any:
            recording = Recording(message_of(request))
            call.put(Recording, recording)
            try:
                answer = await proceed(call, request)
            except RateLimited:
                raise  # not recorded: somebody who guesses passwords would fill the log of the account
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                if cancelled and call.work:
                    self._spawn(self._record_end(call, recording, call.work))
                elif not (cancelled and recording.done):  # otherwise it took effect before its caller disconnected
                    code, reason = outcome_of(error)
                    delay = _AFTER_ANSWER_SECONDS * public
                    task = self._spawn(self._record_failure(call, recording, code, reason, delay))
                    if not (public or cancelled):
                        await asyncio.shield(task)
                raise
            if not recording.done:
                await asyncio.shield(self._spawn(self._record_success(call, recording, answer)))
            return answer

        return handler

    def changes(self, method: Method, proceed: Handler) -> Handler:
        """Mark the start of the handler: what the call commits from here on is its change."""
        if not method.audited:
            return proceed

        async def handler(call: Call, request: Any) -> Any:
            call.found(Recording, "the step above").changing = True
            return await proceed(call, request)

        return handler

    async def before_commit(self, tx: WriteSession) -> None:
        """Add the entry of the call to the transaction that commits its change."""
        call = current.get(None)
        recording = call.get(Recording) if call else None
        if call is None or recording is None or not recording.changing or recording.done:
            return
        chain_id = _chain_of(call)
        if chain_id is None:
            return
        changed = {str(chain_id), *map(str, call.also_in if call.operator else ())}
        if changed.isdisjoint((tx.info["org"], tx.info["user"])):
            if call.user_id:
                return  # another transaction than that of the call's change
            await store.enter(tx, chain_id)
        for org_id in call.also_in:
            await store.enter(tx, org_id)
            await self._chain.append(tx, org_id, self._entry(call, org_id, recording, call.answer))
        if call.also_in or call.operator:
            await store.enter(tx, chain_id)
        await self._chain.append(tx, chain_id, self._entry(call, call.org_id, recording, call.answer))
        recording.done = True

    async def close(self) -> None:
        """Wait for the entries that are not yet stored."""
        await self._tasks.close(_CLOSING_SECONDS)

    async def _record_end(self, call: Call, recording: Recording, work: asyncio.Task[Any]) -> None:
        """Record the outcome of work that continues after its caller disconnected."""
        await asyncio.wait({work})
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error and not recording.done:
            await self._record_failure(call, recording, *outcome_of(error))
        elif not recording.done:
            await self._record_success(call, recording, call.answer)

    async def _record_failure(self, call: Call, recording: Recording, code: str, reason: str, delay: float = 0) -> None:
        """Record a refusal, in the organization's log only if authorization let the caller know of the organization."""
        await asyncio.sleep(delay)
        needs_org = call.method.access.mode == options.ACCESS_MODE_PERMISSION
        org_id = call.org_id if needs_org else None
        chain_id = org_id if needs_org else OPERATORS if call.operator else call.account_id
        if chain_id is None:
            return
        try:
            await self._record(chain_id, self._entry(call, org_id, recording, call.answer, code, reason))
        except Exception:
            about = {"method": call.method.path, "request_id": call.request_id, "code": code, "reason": reason}
            log.exception("audit_event_lost", chain_id=str(chain_id), **about)

    async def _record_success(self, call: Call, recording: Recording, answer: Message | None) -> None:
        """Record a call whose change is not in PostgreSQL. The change is made already, so this must succeed."""
        chain_id = _chain_of(call)
        if chain_id is None:
            raise call.unset("subject", "its handler")
        entry = self._entry(call, call.org_id, recording, answer)
        await retry_until_available(lambda: self._record(chain_id, entry))

    async def _record(self, chain_id: UUID, entry: dict[str, Any]) -> None:
        async with self._db.write(chain_id) as tx:  # chain_id may also be an account; the audit tables accept both
            await self._chain.append(tx, chain_id, entry)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task, so that the entry is written even if the caller goes away.

        It has an empty context: its own transaction must not count as the change of the call.
        """
        return self._tasks.spawn(work, context=Context())

    def _entry(
        self,
        call: Call,
        org_id: UUID | None,
        recording: Recording,
        answer: Message | None,
        code: str = "OK",
        reason: str = "",
    ) -> dict[str, Any]:
        """Return an entry for the log of the organization or, without one, of an account."""
        about = describe(call, self._actor_of(call, org_id), recording.request, answer)
        if call.operator and org_id:
            about |= _NOBODY
        return {**about, "code": code, "reason": reason}


def _chain_of(call: Call) -> UUID | None:
    """Return the id of the log in which the call is recorded."""
    return OPERATORS if call.operator else call.org_id or call.account_id
