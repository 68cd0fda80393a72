"""One real server for all tests: real databases and mail server, a real port, and a stand-in for the providers."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import bcrypt
import hypothesis
import limits.aio.storage.memory
import psycopg
import pytest
from sqlalchemy import make_url

from aiworkspace_server.app import App, running
from aiworkspace_server.kit import logs
from aiworkspace_server.kit.embedded import embedded_mongo, embedded_postgres, embedded_redis
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate
from aiworkspace_server.settings import Settings
from tests.mailbox import Mailbox
from tests.people import NewPerson, Person, Place, make_place, people
from tests.standin import Standin


@dataclass(frozen=True)
class Stores:
    """Where the databases of the tests are. The PostgreSQL URL is the owner's."""

    postgres: str
    mongo: str
    redis: str


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting and no key of the machine reaches a test."""
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.chdir(tmp_path_factory.mktemp("work"))
    logs.configure("json", "error")


# How long an example takes is a matter of the machine and of what else it does.
_slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=_slow)
hypothesis.settings.load_profile("any machine")

real_salt = bcrypt.gensalt


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


@pytest.fixture(scope="session")
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as standin:
        yield standin


@pytest.fixture(scope="session")
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox().start()
    yield mailbox
    mailbox.stop()


@pytest.fixture(scope="session")
def settings(stores: Stores, standin: Standin, mailbox: Mailbox) -> Settings:
    values = provider_settings(standin) | store_settings(stores) | mail_settings(mailbox)
    return Settings.model_validate(values)


async def other_databases(stores: Stores, name: str) -> Stores:
    """Empty databases in the same stores, for another server: one server works on a database at a time."""
    url = make_url(stores.postgres)
    async with await psycopg.AsyncConnection.connect(url.set(drivername="postgresql").render_as_string(False)) as owner:
        await owner.set_autocommit(True)
        await owner.execute(f"CREATE DATABASE {name}")
    place, _, query = stores.mongo.partition("?")
    postgres = url.set(database=name).render_as_string(hide_password=False)
    return Stores(postgres, f"{place.rpartition('/')[0]}/{name}?{query}", stores.redis)


async def migrated_databases(stores: Stores, name: str) -> Stores:
    """Databases with every table and no rows, for a test that needs no server."""
    own = await other_databases(stores, name)
    mongo = Mongo(own.mongo)
    await migrate(own.postgres, mongo)
    await mongo.close()
    return own


def store_settings(stores: Stores) -> dict[str, object]:
    return {
        "port": 0,
        "database_url": stores.postgres,
        "mongo_uri": stores.mongo,
        "jwt_secret": "access-tokens-Xo4vKq7yPz0rGm2sLw8t",
        "jwt_refresh_secret": "refresh-tokens-Bd1hNj5uQe9aVc3fRk6i",
        "password_pepper": "pepper-Zt8wHs2xMg4pYl7oJb0nEv5kCq1d",
        "encryption_secret": "encryption-Gh3pWs8yVn5bRk0dLt6zQm",
        "password_hash_cost": 10,
        "access_token_seconds": 6 * 60 * 60,  # fixtures sign in once, and a busy machine takes its time
        "rate_limit_factor": 1000,
        "shutdown_seconds": 0.5,
        "invitations_per_hour": 1_000_000,
        "registration": "open",
        "require_verified_email": False,
        "org_allowance_usd": "unlimited",
    }


def provider_settings(standin: Standin) -> dict[str, object]:
    return {
        "openai_api_key": "sk-openai-canary",
        "openai_base_url": f"{standin.url}/v1",
        "anthropic_api_key": "sk-ant-canary",
        "anthropic_base_url": standin.url,
        "deepseek_api_key": "sk-deepseek-canary",
        "deepseek_base_url": f"{standin.url}/v1",
        "echo_tokens_per_second": 2000,
        "provider_first_token_seconds": 60,
        "provider_idle_seconds": 60,
    }


def mail_settings(mailbox: Mailbox) -> dict[str, object]:
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": mailbox.port,
        "smtp_tls": "none",
        "mail_from": "AI Workspace <workspace@example.org>",
    }


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[App]:
    async with running(settings, migrating=True) as app:
        yield app


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are counted in memory stay in the minute in which the test began, however long it takes."""
    begin = time.time()
    monkeypatch.setattr(limits.aio.storage.memory, "time", SimpleNamespace(time=lambda: begin))


@pytest.fixture(scope="session")
async def new_person(app: App) -> AsyncIterator[NewPerson]:
    """Registers people: `await new_person()`."""
    async with people(app.address) as new_person:
        yield new_person


@pytest.fixture(scope="session")
async def owner(new_person: NewPerson) -> Person:
    person: Person = await new_person()
    return person


@pytest.fixture
async def place(app: App, owner: Person) -> Place:
    """A new organization with a workspace and a conversation, and no provider that the server has given up."""
    app.engine.breakers.forget()
    return await make_place(owner)
