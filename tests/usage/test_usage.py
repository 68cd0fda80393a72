"""Usage: that the sums, however they are grouped, filtered and paged, are those of the entries, and these those of
the runs."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2, common_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.usage.models import TOKENS
from aiworkspace_server.usage.rebuild import rebuild
from tests.standin import Script, Standin
from tests.support.ledger import get_usage, usage_entries
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, named, outcome
from tests.support.pagination import few, read_all
from tests.support.people import Person, make_conversation, make_org, make_place, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import make_robot
from tests.support.staff import Team, make_team
from tests.support.stores import Stores

MODELS = "echo/echo", "openai/gpt-4o-mini"
DIMENSIONS: dict[str, pb.UsageDimension.ValueType] = {
    "workspace_id": pb.USAGE_DIMENSION_WORKSPACE,
    "user_id": pb.USAGE_DIMENSION_USER,
    "model": pb.USAGE_DIMENSION_MODEL,
    "day": pb.USAGE_DIMENSION_DAY,
    "hour": pb.USAGE_DIMENSION_HOUR,
    "api_key_id": pb.USAGE_DIMENSION_API_KEY,
}
KINDS = [kind for kind in pb.UsageEntryKind.values() if kind]
EVERY_GROUPING = list(chain.from_iterable(combinations(DIMENSIONS, size) for size in range(1, 7)))


@dataclass(frozen=True)
class Ledger:
    """A team and a backend that used two models in two workspaces on two days."""

    team: Team
    workspace_ids: list[str]
    runs: dict[str, chat_pb2.Run]
    request_ids: dict[str, str]
    entries: list[pb.UsageEntry]


@pytest.fixture(scope="module")
async def ledger(staff: dict[str, Person], standin: Standin, stores: Stores, app: App) -> Ledger:
    standin.script("gpt-4o-mini", Script(usage=TokenUsage(100, 40, 0, 10, 5)))
    team = await make_team(staff)
    workspace_ids = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    robot = await make_robot(stores, app.address, team.org_id, "member", ["workspace.read", "chat.read", "chat.send"])
    runs, request_ids = {}, {}
    people = team.owner, team.member, robot
    for number, (person, workspace_id, model) in enumerate(product(people, workspace_ids, MODELS)):
        conversation_id, request_id = await make_conversation(person, workspace_id, model), str(uuid.uuid4())
        events = await say(person, conversation_id, "word " * (number + 1), request_id=request_id)
        run = events[-1].run_completed.run
        runs[run.run_id], request_ids[run.run_id] = run, request_id
    await robot.channel.close()
    earlier = "UPDATE ledger_entries SET run_time = run_time - %s::interval WHERE run_id = ANY(%s::uuid[])"
    await sql(stores, earlier, "1 day", list(runs)[1:8])
    await sql(stores, earlier, "2 hours", list(runs)[4:10])
    async with app.db.write(uuid.UUID(team.org_id)) as tx:
        await rebuild(tx, uuid.UUID(team.org_id))
    return Ledger(team, workspace_ids, runs, request_ids, await usage_entries(team.owner, team.org_id))


def added_up(found: Iterable[pb.UsageEntry]) -> pb.UsageTotal:
    total = pb.UsageTotal()
    total.tokens.SetInParent()
    total.cost.currency_code = "USD"
    for entry in found:
        total.request_count += 1
        total.cost.nanos += entry.cost.nanos
        for name in TOKENS:
            setattr(total.tokens, name, getattr(total.tokens, name) + getattr(entry.tokens, name))
    return total


def value(entry: pb.UsageEntry, dimension: str) -> str:
    formats = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}
    if dimension in formats:
        return entry.run_time.ToDatetime().strftime(formats[dimension])
    return str(getattr(entry, dimension))


# Entries


def test_every_run_has_an_entry_that_says_what_the_run_says(ledger: Ledger) -> None:
    assert {entry.run_id for entry in ledger.entries} == set(ledger.runs)
    assert len(ledger.entries) == len(ledger.runs) == 12
    for entry in ledger.entries:
        run = ledger.runs[entry.run_id]
        assert (entry.tokens, entry.cost, entry.estimated) == (run.usage, run.cost, run.usage_estimated)
        assert (entry.model, entry.workspace_id) == (run.model, run.workspace_id)
        assert (entry.conversation_id, entry.org_id) == (run.conversation_id, ledger.team.org_id)
        assert entry.request_id == ledger.request_ids[entry.run_id]
        assert entry.cost.nanos > 0
        assert entry.tokens.output_tokens > 0


def test_entries_say_by_which_prices_they_were_computed(ledger: Ledger) -> None:
    versions = {entry.model: entry.price_version for entry in ledger.entries}
    assert versions["echo/echo"] == "nominal"
    assert versions["openai/gpt-4o-mini"].startswith("genai-prices/")


def test_entries_end_what_was_reserved_and_say_with_which_key(ledger: Ledger) -> None:
    for entry in ledger.entries:
        assert (entry.kind, entry.attempt, entry.own_key) == (pb.USAGE_ENTRY_KIND_SETTLE, 1, False)
        assert entry.reserved.nanos <= -entry.cost.nanos
    assert len({entry.api_key_id for entry in ledger.entries if entry.api_key_id}) == 1
    assert len([entry for entry in ledger.entries if entry.api_key_id]) == 4


async def test_a_run_has_the_entry_that_reserves_and_the_one_that_settles(ledger: Ledger) -> None:
    team, settled = ledger.team, ledger.entries[3]
    both = await usage_entries(team.owner, team.org_id, run_id=settled.run_id, kinds=KINDS)
    assert [entry.kind for entry in both] == [pb.USAGE_ENTRY_KIND_SETTLE, pb.USAGE_ENTRY_KIND_RESERVE]
    assert both[0] == settled
    assert both[0].reserved.nanos + both[1].reserved.nanos == 0
    assert (both[1].cost.nanos, both[1].tokens) == (0, common_pb2.TokenUsage())
    assert both[1].reserved.nanos >= settled.cost.nanos
    assert (
        await usage_entries(team.owner, team.org_id, kinds=[pb.USAGE_ENTRY_KIND_RELEASE, pb.USAGE_ENTRY_KIND_ADJUST])
        == []
    )
    assert len(await usage_entries(team.owner, team.org_id, kinds=[pb.USAGE_ENTRY_KIND_RESERVE])) == 12


def test_the_latest_entry_comes_first(ledger: Ledger) -> None:
    assert [entry.run_id for entry in reversed(ledger.entries)] == list(ledger.runs)


# Sums


async def test_the_total_is_the_sum_of_the_entries(ledger: Ledger) -> None:
    response = await get_usage(ledger.team.owner, ledger.team.org_id)
    assert response.total == added_up(ledger.entries)
    assert response.total.request_count == 12
    assert response.total.tokens.cached_input_tokens == 6 * 40
    assert response.total.cost.nanos == sum(run.cost.nanos for run in ledger.runs.values())
    assert list(response.rows) == []


async def test_an_organization_that_used_nothing_used_nothing(ledger: Ledger) -> None:
    org_id = await make_org(ledger.team.owner)
    response = await get_usage(ledger.team.owner, org_id, group_by=DIMENSIONS.values())
    assert response.total == added_up([])
    assert list(response.rows) == []


@pytest.mark.parametrize("by", EVERY_GROUPING, ids="+".join)
async def test_every_grouping_has_the_sums_of_its_groups(by: tuple[str, ...], ledger: Ledger) -> None:
    groups = sorted(grouped(ledger.entries, by).items())
    expected = [pb.UsageRow(**dict(zip(by, key, strict=True)), total=added_up(group)) for key, group in groups]
    response = await get_usage(ledger.team.owner, ledger.team.org_id, group_by=[DIMENSIONS[name] for name in by])
    assert list(response.rows) == expected
    assert response.total == added_up(ledger.entries)


async def test_the_order_of_the_dimensions_in_the_request_makes_no_difference(ledger: Ledger) -> None:
    team, numbers = ledger.team, list(DIMENSIONS.values())
    assert await get_usage(team.owner, team.org_id, group_by=numbers) == await get_usage(
        team.owner, team.org_id, group_by=numbers[::-1]
    )


# Filters


@pytest.mark.parametrize(
    "names",
    [(), ("workspace_id",), ("user_id",), ("model",), ("api_key_id",), ("workspace_id", "model")],
    ids="+".join,
)
async def test_filters_let_through_what_they_name(names: tuple[str, ...], ledger: Ledger) -> None:
    team, example = ledger.team, ledger.entries[0]
    wanted = {name: getattr(example, name) for name in names}
    expected = [entry for entry in ledger.entries if all(getattr(entry, n) == v for n, v in wanted.items())]
    assert await usage_entries(team.owner, team.org_id, **wanted) == expected
    assert (await get_usage(team.owner, team.org_id, **wanted)).total == added_up(expected)


async def test_all_filters_together_leave_one_entry(ledger: Ledger) -> None:
    team, example = ledger.team, ledger.entries[3]
    wanted = {name: getattr(example, name) for name in ("workspace_id", "user_id", "model")}
    assert await usage_entries(team.owner, team.org_id, **wanted, start_time=example.run_time) == [example]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), by=st.sampled_from([(), ("day",), ("hour",), ("model", "hour")]))
async def test_times_are_from_and_before_to_the_nanosecond(
    data: st.DataObject, by: tuple[str, ...], ledger: Ledger
) -> None:
    """Times around entries, hours and days, so that sums are put together from days, hours and entries."""
    team, hour = ledger.team, 3600 * 10**9
    times = [entry.run_time.ToNanoseconds() for entry in ledger.entries]
    marks = {mark for time in times for mark in (time, time // hour * hour, time // (24 * hour) * 24 * hour)}
    marks |= {mark + hour for mark in marks} | {mark + 24 * hour for mark in marks}
    near = [mark + step for mark in sorted(marks) for step in (-1000, 0, 1000)]
    start, end = data.draw(st.none() | st.sampled_from(near)), data.draw(st.none() | st.sampled_from(near))
    given_times = {name: at(nanos) for name, nanos in (("start_time", start), ("end_time", end)) if nanos is not None}
    expected = [
        entry
        for entry in ledger.entries
        if (start or 0) <= entry.run_time.ToNanoseconds() < (10**20 if end is None else end)
    ]
    assert await usage_entries(team.owner, team.org_id, **given_times) == expected
    response = await get_usage(team.owner, team.org_id, **given_times, group_by=[DIMENSIONS[name] for name in by])
    assert response.total == added_up(expected)
    groups = {tuple(getattr(row, name) for name in by): row.total for row in response.rows}
    assert groups == ({key: added_up(group) for key, group in grouped(expected, by).items()} if by else {})


def at(nanos: int) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(nanos)
    return time


def grouped(found: Iterable[pb.UsageEntry], by: tuple[str, ...]) -> dict[tuple[str, ...], list[pb.UsageEntry]]:
    groups: dict[tuple[str, ...], list[pb.UsageEntry]] = defaultdict(list)
    for entry in found:
        groups[tuple(value(entry, name) for name in by)].append(entry)
    return groups


async def test_a_range_that_ends_before_it_begins_holds_nothing(ledger: Ledger) -> None:
    team, start, end = ledger.team, Timestamp(seconds=2_000_000_000), Timestamp(seconds=1)
    assert await usage_entries(team.owner, team.org_id, start_time=start, end_time=end) == []
    assert (await get_usage(team.owner, team.org_id, start_time=start, end_time=end)).total == added_up([])


@pytest.mark.parametrize("seconds", [-62135596800, 253402300799], ids=["year 1", "year 9999"])
async def test_the_first_and_the_last_time_of_the_calendar_are_good(seconds: int, ledger: Ledger) -> None:
    time = Timestamp(seconds=seconds)
    after, before = [
        len(await usage_entries(ledger.team.owner, ledger.team.org_id, **{name: time}))
        for name in ("start_time", "end_time")
    ]
    assert [
        (await get_usage(ledger.team.owner, ledger.team.org_id, **{name: time})).total.request_count
        for name in ("start_time", "end_time")
    ] == [after, before]
    assert (after, before) == ((12, 0) if seconds < 0 else (0, 12))


@pytest.mark.parametrize("name", ["start_time", "end_time"])
@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=253402300800),
        Timestamp(seconds=-62135596801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=2_000_000_000),
    ],
    ids=["year 10000", "year 0", "end of integers", "negative nanos", "too many nanos"],
)
async def test_times_that_no_calendar_has_are_refused_by_name(name: str, time: Timestamp, ledger: Ledger) -> None:
    team = ledger.team
    assert await named(usage_entries(team.owner, team.org_id, **{name: time})) == (name,)
    assert await named(get_usage(team.owner, team.org_id, **{name: time})) == (name,)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"workspace_id": "1"}, "workspace_id"),
        ({"user_id": "' OR true --"}, "user_id"),
        ({"model": "a\0b"}, "model"),
        ({"group_by": [1, 1]}, "group_by"),
        ({"group_by": [0]}, "group_by[0]"),
        ({"group_by": [1, 7]}, "group_by[1]"),
        ({"api_key_id": "1"}, "api_key_id"),
        ({"page_size": 1001}, "page_size"),
    ],
    ids=str,
)
async def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, Any], field: str, ledger: Ledger) -> None:
    assert await named(get_usage(ledger.team.owner, ledger.team.org_id, **fields)) == (field,)


async def test_ids_of_another_organization_let_nothing_through(ledger: Ledger, owner: Person) -> None:
    place = await make_place(owner)
    await say(owner, place.conversation_id, "hello")
    for foreign in ({"workspace_id": place.workspace_id}, {"user_id": owner.user_id}):
        assert await usage_entries(ledger.team.owner, ledger.team.org_id, **foreign) == []
        assert (await get_usage(ledger.team.owner, ledger.team.org_id, **foreign)).total == added_up([])


# Pages


@few
@given(size=st.integers(1, 9))
async def test_pages_of_entries_add_up(size: int, ledger: Ledger) -> None:
    request = pb.ListUsageEntriesRequest(org_id=ledger.team.org_id)
    assert await read_all(ledger.team.owner.usage.ListUsageEntries, request, "entries", size) == ledger.entries


@few
@given(size=st.integers(1, 9), by=st.sampled_from(EVERY_GROUPING))
async def test_pages_of_rows_add_up_and_each_has_the_whole_total(
    size: int, by: tuple[str, ...], ledger: Ledger
) -> None:
    team = ledger.team
    request = pb.GetUsageRequest(org_id=team.org_id, group_by=[DIMENSIONS[name] for name in by])
    rows = await read_all(team.owner.usage.GetUsage, request, "rows", size)
    assert rows == list((await team.owner.usage.GetUsage(request)).rows)
    assert sum(row.total.cost.nanos for row in rows) == added_up(ledger.entries).cost.nanos


async def test_a_page_token_belongs_to_its_filters_and_groups(ledger: Ledger) -> None:
    team = ledger.team
    first = await get_usage(team.owner, team.org_id, group_by=[1, 2], page_size=1)
    assert first.total == added_up(ledger.entries)
    token = first.next_page_token
    for other in ({"group_by": [2, 1]}, {"group_by": [1, 2], "model": "echo/echo"}, {"group_by": [1]}):
        assert await named(get_usage(team.owner, team.org_id, **other, page_token=token)) == ("page_token",)


# Who may


ASKED: dict[str, Callable[[Person, str, str], Any]] = {
    "GetUsage": lambda person, org_id, user_id: get_usage(person, org_id, user_id=user_id),
    "ListUsageEntries": lambda person, org_id, user_id: usage_entries(person, org_id, user_id=user_id),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("who", "whose", "expected"),
    [
        ("owner", "everybody's", OK),
        ("admin", "everybody's", OK),
        ("admin", "member", OK),
        ("member", "everybody's", PERMISSION_MISSING),
        ("member", "owner", PERMISSION_MISSING),
        ("member", "member", OK),
        ("viewer", "viewer", OK),
        ("viewer", "member", PERMISSION_MISSING),
        ("outsider", "outsider", NOT_FOUND),
        ("outsider", "everybody's", NOT_FOUND),
    ],
)
async def test_who_may_read_whose_usage(
    ask: Callable[[Person, str, str], Any], who: str, whose: str, expected: str, ledger: Ledger
) -> None:
    team = ledger.team
    user_id = "" if whose == "everybody's" else team.somebody(whose).user_id
    assert await outcome(ask(team.somebody(who), team.org_id, user_id)) == expected


@pytest.mark.parametrize("spell", [str.lower, str.upper], ids=["lower case", "upper case"])
async def test_a_member_reads_their_own_entries_and_no_others(spell: Callable[[str], str], ledger: Ledger) -> None:
    member = ledger.team.member
    own = [entry for entry in ledger.entries if entry.user_id == member.user_id]
    assert await usage_entries(member, ledger.team.org_id, user_id=spell(member.user_id)) == own
    assert (await get_usage(member, ledger.team.org_id, user_id=spell(member.user_id))).total == added_up(own)
    assert len(own) == 4
