"""The events namespace: the generated methods, and watching."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from aiworkspace.v1.event_pb2 import Event, WatchEventsRequest
from aiworkspace_client import errors
from aiworkspace_client._generated.aio import events as aio
from aiworkspace_client._generated.sync import events as sync
from aiworkspace_client.pager import anext_or_none
from aiworkspace_client.portal import Portal
from aiworkspace_client.reconnection import Reconnection
from aiworkspace_client.transport import Deadline

_GIVE_UP_SECONDS = 60.0  # without a connection
_CONNECTION_SECONDS = 900.0
_WORKING_SECONDS = 10.0  # after which a connection without an event counts as one that worked


class AsyncEvents(aio.AsyncEvents):
    __doc__ = aio.AsyncEvents.__doc__

    async def watch(
        self,
        org_id: str,
        *,
        after_sequence: int = 0,
        timeout: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield the events of an organization as they happen, in order, without gap or repetition.

        After a broken connection, it goes on after the last event. Raises OutOfRangeError if events after
        after_sequence are no longer kept.

        Args:
            org_id: The organization.
            after_sequence: Begin after this event. 0 means with the oldest that is kept.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        deadline = None if timeout is None else Deadline(timeout)
        overdue = "The time to watch events is over."
        reconnection = Reconnection(self._transport, deadline, _GIVE_UP_SECONDS, overdue, _is_cut)
        while True:
            began = time.monotonic()
            request = WatchEventsRequest(org_id=org_id, after_sequence=after_sequence)
            try:
                connection = reconnection.responses(aio.WATCH_EVENTS, request, _CONNECTION_SECONDS)
                async with aclosing(connection) as responses:
                    async for response in responses:
                        reconnection.progressed()
                        after_sequence = response.event.sequence
                        yield response.event
                raise errors.UnavailableError("The stream ended.")
            except errors.AiWorkspaceError as error:
                if time.monotonic() - began > _WORKING_SECONDS:
                    reconnection.progressed()
                await reconnection.recover(error)


class Events(sync.Events):
    __doc__ = sync.Events.__doc__

    def __init__(self, portal: Portal, namespace: AsyncEvents) -> None:
        super().__init__(portal, namespace)
        self._events = namespace

    def watch(self, org_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """Yield the events of an organization as they happen, in order, without gap or repetition.

        After a broken connection, it goes on after the last event. Raises OutOfRangeError if events after
        after_sequence are no longer kept.

        Args:
            org_id: The organization.
            after_sequence: Begin after this event. 0 means with the oldest that is kept.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        events = self._events.watch(org_id, after_sequence=after_sequence, timeout=timeout)
        try:
            while (event := self._portal.run(anext_or_none(events))) is not None:
                yield event
        finally:
            self._portal.run(events.aclose())


def _is_cut(error: errors.AiWorkspaceError) -> bool:
    """Return whether a reconnection may help: also after the end of the longest connection."""
    return errors.is_cut(error) or isinstance(error, errors.DeadlineExceededError)
