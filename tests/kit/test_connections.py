"""How the connections of a process are divided, and the warning before PostgreSQL has no room for them."""

from typing import Any

import pytest
from pydantic import ValidationError

from aiworkspace_server.kit import connections
from aiworkspace_server.kit.connections import Connections, warn_if_short
from aiworkspace_server.settings import LEAST_POOL, Deployment
from tests.support.logged import logged_by
from tests.support.postgres import sql
from tests.support.stores import Stores


@pytest.mark.parametrize("total", [LEAST_POOL, 16, 22, 57, 400])
def test_parts_add_up_to_the_whole(total: int) -> None:
    parts = Connections.divide(total)
    assert parts.total == total
    assert min(parts.transactions, parts.statements, parts.queue) >= 2


def test_fewer_than_the_parts_need_are_refused() -> None:
    with pytest.raises(ValidationError, match="postgres_pool"):
        Deployment(postgres_pool=LEAST_POOL - 1)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return logged_by(connections, monkeypatch)


async def _room(stores: Stores) -> tuple[int, int]:
    """max_connections, and how many of them are free."""
    query = """
      SELECT current_setting('max_connections')::int, current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int - current_setting('reserved_connections')::int
        - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int"""
    ((most, free),) = await sql(stores, query)
    return most, free


async def test_processes_that_do_not_fit_are_warned_of_with_what_to_set(stores: Stores, logged: list[Any]) -> None:
    most, free = await _room(stores)
    await warn_if_short(stores.postgres, Connections.divide(200), 4, pooled=False)
    (entry,) = logged
    assert (entry["event"], entry["log_level"], entry["needed"]) == ("postgres_connections_short", "warning", 800)
    assert entry["max_connections"] == most
    assert abs(entry["free"] - free) <= 5  # other connections come and go
    missing = 800 - entry["free"]
    assert entry["advice"] == (
        f"set POSTGRES_POOL to at most {entry['free'] // 4},"
        f" or PostgreSQL's max_connections to at least {most + missing}"
    )


async def test_more_processes_than_fit_with_the_least_pool_are_warned_of(stores: Stores, logged: list[Any]) -> None:
    await warn_if_short(stores.postgres, Connections.divide(LEAST_POOL), 100, pooled=False)
    assert logged[0]["advice"].endswith("or start fewer processes")


async def test_processes_that_fit_are_not_warned_of(stores: Stores, logged: list[Any]) -> None:
    await warn_if_short(stores.postgres, Connections.divide(20), 4, pooled=False)
    assert logged == []


async def test_behind_a_pooler_only_sessions_count(stores: Stores, logged: list[Any]) -> None:
    await warn_if_short(stores.postgres, Connections.divide(200), 4, pooled=True)
    assert logged == []
