"""How each statement of a server is planned, also inside functions: which scans of a table name which organization.

PostgreSQL sends the plans itself (`debug_print_plan`), as trees of its own nodes.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import pytest
from psycopg import AsyncCursor
from psycopg.errors import Diagnostic
from sqlalchemy import make_url

from aiworkspace_server.kit.context import current
from tests.support.postgres import as_owner
from tests.support.stores import Stores

_TOKEN = re.compile(r"[{}()]|(?:\\.|[^\s{}()\\])+")


@dataclass(frozen=True)
class Node:
    """`fields` has lists: of nodes, of lists, and of words."""

    kind: str
    fields: Mapping[str, list[Any]]

    def named(self, name: str) -> list[Any]:
        """The field of this name, whichever node it is inherited from."""
        return next((value for field, value in self.fields.items() if field.rpartition(".")[2] == name), [])

    def number(self, name: str) -> int:
        word = self.named(name)
        return int(word[0]) if word else 0


def parse(text: str) -> Node:
    """The tree that PostgreSQL writes as text."""
    (root,) = _items(iter(_TOKEN.findall(text)), "")
    assert isinstance(root, Node)
    return root


def _items(tokens: Iterator[str], end: str) -> list[Any]:
    found: list[Any] = []
    for token in tokens:
        if token == end:
            break
        found.append(_node(tokens) if token == "{" else _items(tokens, ")") if token == "(" else token)
    return found


def _node(tokens: Iterator[str]) -> Node:
    kind, *items = _items(tokens, "}")
    fields: dict[str, list[Any]] = {}
    name = ""
    for item in items:
        if isinstance(item, str) and item.startswith(":"):
            name = item[1:]
            fields[name] = []
        else:
            fields[name].append(item)
    return Node(kind, fields)


def within(item: Any, kinds: set[str] | None = None) -> Iterator[Node]:
    """The node and all nodes in it."""
    if isinstance(item, Node):
        if kinds is None or item.kind in kinds:
            yield item
        for value in item.fields.values():
            yield from within(value, kinds)
    elif isinstance(item, list):
        for each in item:
            yield from within(each, kinds)


_UUID_EQUALS = "2972"
_CURRENT_SETTING = {"2077", "3294"}
_CHANGING = re.compile(r":\S*(?:cost|rows|location) [^\s{}()]+")  # from one planning to the next
_ACCESSES = {"SEQSCAN", "INDEXSCAN", "INDEXONLYSCAN", "BITMAPHEAPSCAN", "TIDSCAN", "TIDRANGESCAN", "SAMPLESCAN"}


class How(StrEnum):
    """How a scan of a table says whose rows it wants, best first."""

    NAMED = "named"  # the statement compares the column with one value
    POLICY = "policy"  # only row-level security does, with the organization of the transaction
    SEVERAL = "several"  # with one of a list of values
    NOT = "not"


def scans(plan: Node, columns: Mapping[int, int]) -> Iterator[tuple[int, How]]:
    """Every scan of these tables, by oid, and how it names the column, by its number in each table."""
    tables = [entry.number("relid") for entry in plan.named("rtable")[0]]
    for scan in within(plan, _ACCESSES):
        place = scan.number("scanrelid")
        oid = tables[place - 1]
        if oid in columns:
            yield oid, min((_how(each, place, columns[oid]) for each in _conditions(scan)), default=How.NOT, key=_ORDER)


_ORDER = list(How).index


def _conditions(scan: Node) -> Iterator[Node]:
    """What all rows of a scan fulfil."""
    for name in ("qual", "indexqualorig", "recheckqual", "bitmapqualorig"):
        for value in scan.named(name):
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, Node))


def _how(condition: Node, place: int, column: int) -> How:
    if condition.kind not in ("OPEXPR", "SCALARARRAYOPEXPR") or condition.named("opno") != [_UUID_EQUALS]:
        return How.NOT
    (sides,) = condition.named("args")
    if not any(_is_column(side, place, column) for side in sides):
        return How.NOT
    if any(node.named("funcid")[0] in _CURRENT_SETTING for node in within(sides, {"FUNCEXPR"})):
        return How.POLICY
    return How.NAMED if condition.kind == "OPEXPR" else How.SEVERAL


def _is_column(side: Node, place: int, column: int) -> bool:
    names = (("varno", "varattno"), ("varnosyn", "varattnosyn"))
    return side.kind == "VAR" and any((side.number(a), side.number(b)) == (place, column) for a, b in names)


class Planned(NamedTuple):
    statement: str
    context: str  # the functions in which it was planned, the innermost first
    plan: str


class Plans:
    """The plans of all statements that this process sends to a database."""

    def __init__(self) -> None:
        self.found: set[Planned] = set()
        self.sent: set[str] = set()  # by calls and their runs, since it was cleared
        self._last: dict[int, str] = {}  # by connection, what is sent on it

    @contextmanager
    def recording(self) -> Iterator[None]:
        execute = AsyncCursor.execute

        async def noting(cursor: AsyncCursor[Any], query: Any, *more: Any, **options: Any) -> Any:
            connection, statement = cursor.connection, str(query)
            if id(connection) not in self._last:
                connection.add_notice_handler(lambda notice: self._note(id(connection), notice))
            self._last[id(connection)] = statement
            if current.get(None) is not None:
                self.sent.add(statement)
            return await execute(cursor, query, *more, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AsyncCursor, "execute", noting)
            yield

    def _note(self, connection: int, notice: Diagnostic) -> None:
        if notice.message_primary == "plan:":
            plan = _CHANGING.sub("", notice.message_detail or "")
            self.found.add(Planned(self._last[connection], notice.context or "", plan))


async def print_plans(stores: Stores) -> None:
    """Make PostgreSQL send the plans of all statements to those who connect to the database from now on."""
    async with as_owner(stores) as owner:
        name = make_url(stores.postgres).database
        for setting in ("debug_print_plan = on", "debug_pretty_print = off", "client_min_messages = 'log'"):
            await owner.execute(f"ALTER DATABASE {name} SET {setting}".encode())
