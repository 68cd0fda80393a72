"""One real server for all tests: real databases and mail server, a real port, and a stand-in for the providers."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import bcrypt
import hypothesis
import pytest

from aiworkspace_server.app import App, running
from aiworkspace_server.kit import limits, logs
from aiworkspace_server.kit.embedded import embedded_mongo, embedded_postgres, embedded_redis
from aiworkspace_server.kit.memory import collect_rarely
from aiworkspace_server.kit.windows import WindowStorage
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.accounts import SignIn, login
from tests.support.mailbox import Mailbox
from tests.support.operators import appoint
from tests.support.order import in_order
from tests.support.passwords import real_salt
from tests.support.people import PASSWORD, NewPerson, Person, Place, connections, make_place, people
from tests.support.postgres import close_idle
from tests.support.service_accounts import NewBackend
from tests.support.settings import mail_settings, provider_settings, store_settings
from tests.support.staff import Team, hire, make_team
from tests.support.stores import Stores
from tests.support.waiting import until_true


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting and no key of the machine reaches a test. Programs that tests start keep what they have compiled."""
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling all modules again takes a program a second
    os.chdir(tmp_path_factory.mktemp("work"))
    logs.configure("json", "error")


def pytest_configure() -> None:
    """Collect garbage as rarely as a server: more often, that takes a tenth of the CPU of all tests."""
    collect_rarely()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = in_order(items)


# How long an example takes is a matter of the machine and of what else it does.
_slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=_slow)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _cheap_hashes() -> Iterator[None]:
    """Nearly every test registers people: with the least cost that settings allow that took a third of all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bcrypt, "gensalt", lambda rounds: real_salt(4))
        yield


@pytest.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    async with AsyncExitStack() as stack:
        yield Stores(
            await stack.enter_async_context(embedded_postgres(data_dir)),
            await stack.enter_async_context(embedded_mongo(data_dir)),
            await stack.enter_async_context(embedded_redis(data_dir)),
        )
        await close_idle()


@pytest.fixture(scope="session")
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as standin:
        yield standin


@pytest.fixture
def fresh_standin(standin: Standin) -> None:
    """Nothing is left of other tests, their requests included."""
    standin.reset()


@pytest.fixture(autouse=True)
def scripts_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The stand-in is shared: another test would get the slow answers of the one before."""
    yield
    if "standin" in request.fixturenames:
        request.getfixturevalue("standin").forget_scripts()


@pytest.fixture(scope="session")
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox().start()
    yield mailbox
    mailbox.stop()


@pytest.fixture(scope="session")
def settings(stores: Stores, standin: Standin, mailbox: Mailbox) -> Settings:
    values = provider_settings(standin) | store_settings(stores) | mail_settings(mailbox)
    return Settings.model_validate(values)


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[App]:
    async with running(settings, migrating=True) as app:
        yield app


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of servers that start now stay in the minute in which the test began, however long it takes."""
    begin = time.time()
    monkeypatch.setattr(limits, "WindowStorage", lambda: WindowStorage(lambda: begin))


@pytest.fixture(scope="session")
async def new_person(app: App) -> AsyncIterator[NewPerson]:
    """Registers people: `await new_person()`."""
    async with people(app.address) as new_person:
        yield new_person


@pytest.fixture
async def stranger(app: App) -> AsyncIterator[Person]:
    """Somebody with a connection and nothing else."""
    async with connections(app.address) as connect:
        yield connect()


@pytest.fixture(scope="session")
async def sign_in(app: App) -> AsyncIterator[SignIn]:
    """Signs a person in on one more device: `await sign_in(person, device_name="phone")`."""
    async with connections(app.address) as connect:

        async def sign_in(person: Person, password: str = PASSWORD, device_name: str = "") -> Person:
            device = connect()
            device.email = person.email
            device.sign_in(await device.auth.Login(login(person.email, password, device_name=device_name)))
            return device

        yield sign_in


@pytest.fixture(scope="session")
async def new_backend(app: App) -> AsyncIterator[NewBackend]:
    """Somebody who calls with a key: `new_backend(secret)`."""
    async with connections(app.address) as connect:
        yield connect


@pytest.fixture(scope="session")
async def staff(new_person: NewPerson) -> dict[str, Person]:
    return await hire(new_person)


@pytest.fixture
async def team(staff: dict[str, Person]) -> Team:
    """A new organization of the same people."""
    return await make_team(staff)


@pytest.fixture(scope="session")
async def owner(new_person: NewPerson) -> Person:
    return await new_person()


@pytest.fixture(scope="session")
async def operator(stores: Stores, new_person: NewPerson) -> Person:
    """Somebody who is an operator of the server."""
    return await appoint(stores, new_person)


@pytest.fixture
async def place(app: App, owner: Person) -> Place:
    """A new organization with a workspace and a conversation, and no provider that the server has given up.

    A long test without `await` keeps the server from its event loop too: afterwards it renews its lease first.
    """
    app.engine.deps.breakers.forget()
    await until_true(app.engine.deps.lease.holds)
    return await make_place(owner)
