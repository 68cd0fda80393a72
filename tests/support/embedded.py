"""What embedded databases are told, and have kept."""

from pathlib import Path
from typing import NamedTuple

from psycopg import AsyncConnection
from pymongo import AsyncMongoClient
from redis.asyncio import Redis


class Urls(NamedTuple):
    postgres: str  # without the name of the driver
    mongo: str
    redis: str


def urls_of(postgres: str, mongo: str, redis: str) -> Urls:
    return Urls(postgres.replace("+psycopg", ""), mongo, redis)


async def write(urls: Urls, value: str) -> None:
    async with await AsyncConnection.connect(urls.postgres) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        await connection.execute("INSERT INTO kept VALUES (%s)", [value])
    async with (
        AsyncMongoClient[dict[str, str]](urls.mongo) as client,
        client.start_session() as session,
        await session.start_transaction(),
    ):
        await client.get_default_database().kept.insert_one({"value": value}, session=session)
    async with Redis.from_url(urls.redis, decode_responses=True) as redis:
        await redis.rpush("kept", value)


async def read(urls: Urls) -> list[list[str]]:
    """What each database has kept, in order."""
    async with await AsyncConnection.connect(urls.postgres) as connection:
        rows = await (await connection.execute("SELECT value FROM kept")).fetchall()
    async with AsyncMongoClient[dict[str, str]](urls.mongo) as client:
        documents = await client.get_default_database().kept.find().to_list()
    async with Redis.from_url(urls.redis, decode_responses=True) as redis:
        items = await redis.lrange("kept", 0, -1)
    return [[row[0] for row in rows], [document["value"] for document in documents], items]


def leader_of(data_dir: Path, name: str) -> int:
    return int((data_dir / name / "process.lock").read_text())
