"""Email verification: register, read the mail, verify."""

from aiworkspace.v1 import account_pb2, auth_pb2
from tests.mailbox import VERIFY, Mailbox, token_in
from tests.people import NewPerson


async def test_x(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    mail = await mailbox.wait(person.email, VERIFY)
    print(mail)
    await person.accounts.VerifyEmail(account_pb2.VerifyEmailRequest(token=token_in(mail)))
    assert (await person.auth.GetMe(auth_pb2.GetMeRequest())).user.email_verified
