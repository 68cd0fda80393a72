from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiworkspace.v1 import auth_pb2
from aiworkspace_server.app import App
from tests.support.people import PASSWORD, Person

SignIn = Callable[..., Awaitable[Person]]


@pytest.fixture
async def sign_in(app: App) -> AsyncIterator[SignIn]:
    """Signs a person in on one more device."""
    devices: list[Person] = []

    async def sign_in(person: Person, password: str = PASSWORD) -> Person:
        devices.append(Person(app.address))
        devices[-1].sign_in(await person.auth.Login(auth_pb2.LoginRequest(email=person.email, password=password)))
        return devices[-1]

    yield sign_in
    for device in devices:
        await device.channel.close()
