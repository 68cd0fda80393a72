"""The call in progress: what was never set is an error that says who should have set it."""

from collections.abc import Iterator
from typing import Any, TypedDict, cast
from uuid import UUID

import pytest
from google.protobuf.empty_pb2 import Empty

from aiworkspace.v1 import options_pb2
from aiworkspace_server.kit.context import Call, caller_id, caller_session_id, current, tenant_id
from aiworkspace_server.kit.contract import Method

SOMEBODY = UUID(int=1)


class Document(TypedDict):
    name: str


@pytest.fixture
def call() -> Iterator[Call]:
    call = Call(Method("/test.Service/Do", Empty, options_pb2.Access(), 0, 0), cast(Any, None), {})
    token = current.set(call)
    yield call
    current.reset(token)


@pytest.mark.parametrize(
    ("read", "missing"),
    [
        (caller_id, "has no caller: authentication"),
        (caller_session_id, "has no session: authentication"),
        (tenant_id, "has no tenant: authorization"),
    ],
)
def test_ids_before_they_are_set_raise_an_error_that_names_the_step(read: Any, missing: str, call: Call) -> None:
    with pytest.raises(RuntimeError, match=f"Service/Do {missing}"):
        read()
    call.user_id = call.session_id = call.org_id = SOMEBODY
    assert read() == SOMEBODY


def test_found_returns_what_was_put_by_its_type(call: Call) -> None:
    with pytest.raises(RuntimeError, match="Service/Do has no Document: authorization did not"):
        call.found(Document)
    assert call.get(Document) is None
    call.put(Document, {"name": "mine"})
    assert call.found(Document)["name"] == "mine"
    call.put(Document, None)  # a second attempt found nothing
    with pytest.raises(RuntimeError):
        call.found(Document)


def test_account_is_the_callers_before_the_one_that_a_public_method_is_about(call: Call) -> None:
    assert call.account_id is None
    call.subject = SOMEBODY
    assert call.account_id == SOMEBODY
    call.user_id = UUID(int=2)
    assert call.account_id == UUID(int=2)
