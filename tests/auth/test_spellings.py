"""An address, a password or a token in another spelling is the same one, at every door."""

import unicodedata
import uuid

import bcrypt
import pytest

from aiworkspace.v1 import account_pb2, chat_pb2, org_pb2
from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from tests.support.accounts import login, registration
from tests.support.mailbox import RESET, VERIFY, Mailbox
from tests.support.outcomes import ALREADY_EXISTS, OK, PASSWORD_WRONG, outcome
from tests.support.people import NewPerson, Person, make_conversation, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.stores import Stores

COMPOSED = unicodedata.normalize("NFC", "Zwölf Boxkämpfer jagen Viktor")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
SPACED = COMPOSED.replace(" ", "\u00a0")
OTHER = "another passphrase für tests"


def spellings(name: str) -> list[str]:
    return [
        f"{name}@bücher.example",
        f" {name.upper()}@BÜCHER.example\n",
        f"{name}@xn--bcher-kva.example",
        unicodedata.normalize("NFD", f"{name}@bücher.example"),
    ]


async def test_an_address_is_the_same_at_every_door(stranger: Person, new_person: NewPerson, mailbox: Mailbox) -> None:
    name = uuid.uuid4().hex
    address = f"{name}@xn--bcher-kva.example"
    first, *others = spellings(name)
    made = await stranger.auth.Register(registration(email=first))
    assert made.user.email == address
    for email in others:
        assert await outcome(stranger.auth.Register(registration(email=email))) == ALREADY_EXISTS
        assert (await stranger.auth.Login(login(email))).user.user_id == made.user.user_id
    await stranger.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=others[0]))
    await mailbox.wait(address, RESET)
    owner = await new_person()
    org_id = await make_org(owner)
    invited = await owner.orgs.CreateInvitation(
        org_pb2.CreateInvitationRequest(org_id=org_id, email=others[2], role=org_pb2.ROLE_VIEWER)
    )
    assert invited.invitation.email == address
    accept = org_pb2.AcceptInvitationRequest(token=f" {invited.token[:20]}\n{invited.token[20:]}\u200b ")
    bearer = (("authorization", f"Bearer {made.tokens.access_token}"),)
    assert await outcome(stranger.orgs.AcceptInvitation(accept, metadata=bearer)) == OK


@pytest.mark.parametrize("chosen", [COMPOSED, DECOMPOSED, SPACED], ids=["composed", "decomposed", "other spaces"])
async def test_a_password_is_the_same_however_a_keyboard_writes_it(
    stranger: Person, mailbox: Mailbox, chosen: str
) -> None:
    request = registration(password=chosen)
    registered = await stranger.auth.Register(request)
    for typed in (COMPOSED, DECOMPOSED, SPACED):
        assert await outcome(stranger.auth.Login(login(request.email, typed))) == OK
    for wrong in (COMPOSED.lower(), f" {COMPOSED}", f"{COMPOSED} ", COMPOSED.replace(" ", "")):
        assert await outcome(stranger.auth.Login(login(request.email, wrong))) == PASSWORD_WRONG
    bearer = (("authorization", f"Bearer {registered.tokens.access_token}"),)
    change = pb.ChangePasswordRequest(current_password=DECOMPOSED, new_password=unicodedata.normalize("NFD", OTHER))
    assert await outcome(stranger.auth.ChangePassword(change, metadata=bearer)) == OK
    assert await outcome(stranger.auth.Login(login(request.email, OTHER))) == OK
    await stranger.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=request.email))
    token = await mailbox.token(request.email, RESET)
    wrapped = f"  {token[:30]}\r\n{token[30:]}\n"
    reset = account_pb2.ResetPasswordRequest(token=wrapped, new_password=DECOMPOSED)
    assert await outcome(stranger.accounts.ResetPassword(reset)) == OK
    assert await outcome(stranger.auth.Login(login(request.email, SPACED))) == OK


async def test_a_password_that_was_stored_as_it_was_typed_still_works(
    app: App, stranger: Person, stores: Stores
) -> None:
    request = registration()
    user = (await stranger.auth.Register(request)).user
    old = bcrypt.hashpw(app.credentials.passwords.keyed(DECOMPOSED), bcrypt.gensalt(4)).decode()
    await sql(stores, "UPDATE users SET password_hash = %s WHERE id = %s", old, user.user_id)
    assert await outcome(stranger.auth.Login(login(request.email, DECOMPOSED))) == OK


async def test_a_mailed_token_is_taken_with_what_a_mail_program_puts_around_it(
    new_person: NewPerson, mailbox: Mailbox
) -> None:
    person = await new_person()
    token = await mailbox.token(person.email, VERIFY)
    verify = account_pb2.VerifyEmailRequest(token=f"\n {token[:10]}\t{token[10:]}\u00a0")
    assert await outcome(person.accounts.VerifyEmail(verify)) == OK


async def test_a_refresh_token_is_taken_with_a_line_break(new_person: NewPerson) -> None:
    person = await new_person()
    assert await outcome(person.auth.Refresh(pb.RefreshRequest(refresh_token=f"{person.tokens.refresh_token}\n"))) == OK


async def test_a_title_made_of_any_message_can_be_sent_back(new_person: NewPerson) -> None:
    person = await new_person()
    workspace_id = await make_workspace(person, await make_org(person))
    for content in ("a\x00b\x1b[31m\u202ec", "\u2028 \x07", "e\u0301" * 100, "Hello\nthere"):
        conversation_id = await make_conversation(person, workspace_id, "echo/echo")
        await say(person, conversation_id, content)
        found = (
            await person.chat.GetConversation(chat_pb2.GetConversationRequest(conversation_id=conversation_id))
        ).conversation
        update = chat_pb2.UpdateConversationRequest(conversation=found)
        update.update_mask.paths.append("title")
        changed = (await person.chat.UpdateConversation(update)).conversation
        assert changed.title == found.title
