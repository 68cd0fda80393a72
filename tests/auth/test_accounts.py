"""Registration, sign-in with a password, and the account itself."""

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import auth_pb2 as pb
from tests.support.accounts import SignIn, login, registration
from tests.support.outcomes import (
    ALREADY_EXISTS,
    ETAG_MISMATCH,
    INVALID,
    OK,
    PASSWORD_WRONG,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.people import PASSWORD, NewPerson, Person
from tests.support.postgres import as_owner, sql, until_blocked, until_no_jobs
from tests.support.stores import Stores

LONG = "naïve façades éclair over the unlikely canal " * 23


# Registration


async def test_registration_makes_an_account_and_signs_it_in(stranger: Person) -> None:
    request = registration(device_name="desk")
    response = await stranger.auth.Register(request)
    stranger_signed_in = (("authorization", f"Bearer {response.tokens.access_token}"),)
    me = (await stranger.auth.GetMe(pb.GetMeRequest(), metadata=stranger_signed_in)).user
    assert me == response.user
    assert (me.email, me.display_name, me.etag) == (request.email, "Somebody", "1")
    tokens = response.tokens
    assert tokens.refresh_expire_time.seconds > tokens.access_expire_time.seconds > me.create_time.seconds > 0


async def test_the_case_of_an_address_makes_no_difference(stranger: Person) -> None:
    name = uuid.uuid4().hex
    response = await stranger.auth.Register(registration(email=f"Ann.{name}@Example.COM"))
    assert response.user.email == f"ann.{name}@example.com"
    assert await outcome(stranger.auth.Register(registration(email=f"ANN.{name}@example.com"))) == ALREADY_EXISTS
    signed_in = await stranger.auth.Login(pb.LoginRequest(email=f"aNN.{name}@eXample.com", password=PASSWORD))
    assert signed_in.user.user_id == response.user.user_id


async def test_a_repeated_registration_signs_in_to_the_account_of_the_first(stranger: Person) -> None:
    request = registration(request_id=str(uuid.uuid4()))
    first, second = await stranger.auth.Register(request), await stranger.auth.Register(request)
    assert second.user == first.user
    assert second.tokens.session_id != first.tokens.session_id


async def test_fifty_times_the_same_registration_at_once_make_one_account(stranger: Person) -> None:
    request = registration(request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(stranger.auth.Register(request) for _ in range(50)))
    assert len({answer.user.user_id for answer in answers}) == 1
    assert len({answer.tokens.session_id for answer in answers}) == 50


@pytest.mark.parametrize(
    "changed",
    [{"password": "another passphrase"}, {"request_id": str(uuid.uuid4())}, {"request_id": ""}],
    ids=["password", "request_id", "no request_id"],
)
async def test_whoever_registers_an_address_again_learns_that_it_is_taken(
    changed: dict[str, str], stranger: Person
) -> None:
    fields = {"email": f"{uuid.uuid4().hex}@example.com", "request_id": str(uuid.uuid4())}
    await stranger.auth.Register(registration(**fields))
    assert await outcome(stranger.auth.Register(registration(**fields | changed))) == ALREADY_EXISTS


async def test_of_fifty_registrations_of_one_address_at_once_one_succeeds(stranger: Person, stores: Stores) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    calls = [stranger.auth.Register(registration(email=email, request_id=str(uuid.uuid4()))) for _ in range(50)]
    assert await outcomes(calls) == {OK: 1, ALREADY_EXISTS: 49}
    assert await sql(stores, "SELECT count(*) FROM users WHERE email = %s", email) == [(1,)]


@pytest.mark.parametrize(
    ("password", "nearly"),
    [
        (LONG[:72] + "y", LONG[:72] + "z"),  # bcrypt reads 72 bytes
        ("before\0after it", "before\0after IT"),  # and stops at NUL
        (LONG[:1024], LONG[:1023]),
        ("  spaces  that count  ", "  spaces  that count "),
        ("パスワードはひみつです。", "パスワードはひみつです、"),
    ],
    ids=["73 bytes", "NUL", "1024 characters", "spaces", "not Latin"],
)
async def test_every_character_of_a_password_counts(password: str, nearly: str, stranger: Person) -> None:
    request = registration(password=password)
    await stranger.auth.Register(request)
    assert await outcome(stranger.auth.Login(pb.LoginRequest(email=request.email, password=password))) == OK
    refused = await outcome(stranger.auth.Login(pb.LoginRequest(email=request.email, password=nearly)))
    assert refused == PASSWORD_WRONG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", ""),
        ("email", "nobody"),
        ("email", "a\0b@example.com"),
        ("email", "ä@example.com"),
        ("email", f"{'a' * 250}@example.com"),
        ("password", ""),
        ("password", "x" * 11),
        ("password", "x" * 1025),
        ("display_name", ""),
        ("display_name", "x" * 101),
        ("display_name", "new\nline"),
        ("display_name", "an end\0"),
        ("device_name", "x" * 101),
        ("device_name", "\x1b[31m"),
        ("request_id", "1"),
    ],
)
async def test_a_registration_that_breaks_a_rule_is_refused_by_the_name_of_the_field(
    field: str, value: str, stranger: Person
) -> None:
    assert await named(stranger.auth.Register(registration(**{field: value}))) == (field,)


async def test_a_registration_that_breaks_all_rules_names_all_fields(stranger: Person) -> None:
    bad = pb.RegisterRequest(email="x", password="x", device_name="\0", request_id="x")
    assert await named(stranger.auth.Register(bad)) == (
        "email",
        "password",
        "display_name",
        "device_name",
        "request_id",
    )


@pytest.mark.usefixtures("dear_hashes")
async def test_passwords_are_stored_as_hashes(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    ((stored,),) = await sql(stores, "SELECT password_hash FROM users WHERE id = %s", person.user_id)
    assert stored.startswith("$2b$10$")
    assert PASSWORD not in stored


# Sign-in


@pytest.mark.parametrize(
    "email",
    ["nobody@example.com", "not an address", "\0", "%", "' OR true --", "x" * 254, "İ@example.com"],
    ids=["unknown", "no address", "NUL", "wildcard", "SQL", "long", "not ASCII"],
)
async def test_an_unknown_address_is_refused_as_a_wrong_password_is(
    email: str, new_person: NewPerson, stranger: Person
) -> None:
    wrong = await refusal(stranger.auth.Login(login((await new_person()).email, "a wrong password")))
    unknown = await refusal(stranger.auth.Login(pb.LoginRequest(email=email, password=PASSWORD)))
    assert wrong is not None
    assert unknown == wrong
    assert (wrong.code, wrong.reason) == ("UNAUTHENTICATED", "PASSWORD_WRONG")


async def test_a_password_that_is_changed_while_it_is_checked_starts_no_session(
    new_person: NewPerson, stranger: Person, stores: Stores
) -> None:
    """The change would not see the session, and so not end it."""
    person = await new_person()
    await until_no_jobs(stores, person.user_id)  # one of which could wait for the account as the sign-in does
    async with as_owner(stores) as changing, changing.transaction():
        change = "UPDATE users SET password_hash = 'changed' WHERE id = %s"
        await changing.execute(change, [person.user_id])
        login_call = asyncio.create_task(outcome(stranger.auth.Login(login(person.email))))
        await until_blocked(stores, login_call)
    assert await login_call == PASSWORD_WRONG


# The account


async def update(person: Person, *paths: str, **fields: Any) -> pb.User:
    request = pb.UpdateMeRequest(user=pb.User(**fields), update_mask=FieldMask(paths=paths))
    user: pb.User = (await person.auth.UpdateMe(request)).user
    return user


@pytest.mark.parametrize("paths", [["display_name"], [], ["display_name", "display_name"]], ids=str)
async def test_the_display_name_can_be_changed(paths: list[str], owner: Person) -> None:
    name = f"Ann {uuid.uuid4()}"
    changed = await update(owner, *paths, display_name=name)
    assert changed.display_name == name
    assert (await owner.auth.GetMe(pb.GetMeRequest())).user == changed


async def test_a_change_counts_the_etag_up(owner: Person) -> None:
    before = (await owner.auth.GetMe(pb.GetMeRequest())).user
    after = await update(owner, display_name="Ann", etag=before.etag)
    assert int(after.etag) == int(before.etag) + 1
    assert after.update_time.ToDatetime() > before.update_time.ToDatetime()


async def test_output_only_fields_are_ignored(owner: Person) -> None:
    before = (await owner.auth.GetMe(pb.GetMeRequest())).user
    given = pb.User(
        user_id=str(uuid.uuid4()), email="x@example.com", display_name="New", update_time=before.create_time
    )
    given.create_time.FromSeconds(1)
    every_field = FieldMask(paths=[*pb.User.DESCRIPTOR.fields_by_name])
    after = (await owner.auth.UpdateMe(pb.UpdateMeRequest(user=given, update_mask=every_field))).user
    assert (after.user_id, after.email, after.create_time) == (before.user_id, before.email, before.create_time)
    assert after.display_name == "New"


@pytest.mark.parametrize("path", ["password_hash", "nothing", "user.display_name", "*", ""])
async def test_unknown_mask_paths_are_refused(path: str, owner: Person) -> None:
    assert await named(update(owner, path, display_name="New")) == ("update_mask",)


@pytest.mark.parametrize("name", ["", "x" * 101, "new\nline"])
async def test_a_display_name_that_breaks_a_rule_is_refused(name: str, owner: Person) -> None:
    assert await named(update(owner, "display_name", display_name=name)) == ("user.display_name",)


async def test_of_concurrent_changes_with_one_etag_one_succeeds(owner: Person) -> None:
    etag = (await owner.auth.GetMe(pb.GetMeRequest())).user.etag
    calls = [update(owner, display_name=f"Ann {number}", etag=etag) for number in range(10)]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 9}


async def test_an_update_without_a_user_is_refused(owner: Person) -> None:
    assert await outcome(owner.auth.UpdateMe(pb.UpdateMeRequest())) == INVALID


async def test_everybody_sees_their_own_account(new_person: NewPerson, sign_in: SignIn) -> None:
    ann, ben = await new_person(), await new_person()
    phone = await sign_in(ann)
    seen = [(await person.auth.GetMe(pb.GetMeRequest())).user.user_id for person in (ann, ben, phone)]
    assert seen == [ann.user_id, ben.user_id, ann.user_id]
