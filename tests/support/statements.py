"""What a server asks PostgreSQL, statement by statement."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event

from aiworkspace_server.app import App
from aiworkspace_server.kit.context import current


class Statement(NamedTuple):
    text: str
    rows: int  # that it changed or found


@contextmanager
def statements(app: App, part: str = "", *, calls_only: bool = False) -> Iterator[list[Statement]]:
    """Collects the statements with this text in them that the server sends while the context lasts.

    With calls_only, what jobs send is left out.
    """
    found: list[Statement] = []

    def note(_connection: object, cursor: Any, statement: str, *_more: object) -> None:
        if part in statement and not (calls_only and current.get(None) is None):
            found.append(Statement(statement, cursor.rowcount))

    fetch = app.db.fetch

    async def noted(statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        rows = await fetch(statement, values)
        if part in statement:
            found.append(Statement(statement, len(rows)))
        return rows

    event.listen(app.db.engine.sync_engine, "after_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app.db, "fetch", noted)
            yield found
    finally:
        event.remove(app.db.engine.sync_engine, "after_cursor_execute", note)
