from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiworkspace.v1 import auth_pb2
from aiworkspace_server.app import App
from tests.people import PASSWORD, Person

SignIn = Callable[..., Awaitable[Person]]


@pytest.fixture(scope="session")
async def stranger(app: App) -> AsyncIterator[Person]:
    """Somebody with a connection and nothing else."""
    person = Person(app.address)
    yield person
    await person.channel.close()


@pytest.fixture(scope="session")
async def sign_in(app: App) -> AsyncIterator[SignIn]:
    """Signs a person in on one more device: `await sign_in(person, "phone")`."""
    devices: list[Person] = []

    async def sign_in(person: Person, device_name: str = "", password: str = PASSWORD) -> Person:
        device = Person(app.address)
        devices.append(device)
        device.email = person.email
        request = auth_pb2.LoginRequest(email=person.email, password=password, device_name=device_name)
        device.sign_in(await device.auth.Login(request))
        return device

    yield sign_in
    for device in devices:
        await device.channel.close()
