from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiworkspace_server.app import App
from tests.people import Person

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

    async def sign_in(person: Person, device_name: str = "") -> Person:
        device = Person(app.address)
        device.email = person.email
        devices.append(device)
        return await device.log_in(device_name)

    yield sign_in
    for device in devices:
        await device.channel.close()
