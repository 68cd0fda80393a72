"""Keeps vectors as searches need them: those of a new embedding model, and the indexes of large organizations."""

from uuid import UUID

import structlog

from ..kit.jobs import READING_QUEUE, SLOW_QUEUE, Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database
from ..search import generations
from ..search.vector_index import LEAST_INDEXED, VectorIndexes, is_large, needs_index
from . import versions
from .claims import ClaimLost, StepFailed
from .models import DocumentVersion
from .vectors import Vectors

_EMBED_AGAIN, _BUILD_INDEX = "documents.embed_again", "documents.build_vector_index"
_TEND, _DROP = "documents.tend_vectors", "documents.drop_vector_indexes"
_EVERY_15_SECONDS, _EVERY_HOUR = "* * * * * */15", "7 * * * *"
_MOST_ORGS = 500  # in one pass
_ERASED_AT_ONCE = 1000  # vectors
MOST_FAILURES = 20

log = structlog.get_logger("documents")


class Upkeep:
    """Finds organizations that need something, every 15 seconds; a job for each of them does it."""

    def __init__(
        self,
        db: Database,
        jobs: Jobs,
        vectors: Vectors | None,
        indexes: VectorIndexes,
        most_failures: int = MOST_FAILURES,
    ) -> None:
        """`most_failures`: of versions in one job. The next one goes on behind them."""
        self._db = db
        self._jobs = jobs
        self._vectors = vectors
        self._indexes = indexes
        self._most_failures = most_failures
        self._failed: dict[UUID, set[UUID]] = {}  # versions of organizations, until all others were tried

    def register(self) -> None:
        self._jobs.add(_EMBED_AGAIN, self.embed_again, READING_QUEUE, once=True)
        self._jobs.add(_BUILD_INDEX, self.build_index, SLOW_QUEUE, once=True)
        self._jobs.every(_EVERY_15_SECONDS, _TEND, self.tend)
        self._jobs.every(_EVERY_HOUR, _DROP, self.drop_unused)

    async def tend(self) -> None:
        async with self._db.write() as tx:
            generation = await self._vectors.generation(tx) if self._vectors else None
            to_embed = await generations.list_orgs_to_embed(tx, generation, _MOST_ORGS) if generation else ()
            large = await generations.list_large_orgs(tx, LEAST_INDEXED, _MOST_ORGS)
        this = Pass(_TEND)
        for org_id in to_embed:
            with this.item(org_id=org_id):
                async with self._db.write(org_id) as tx:
                    await self._jobs.enqueue_once(tx, _EMBED_AGAIN, org_id=org_id)
        for org_id in large:
            with this.item(org_id=org_id):
                await self._index_soon(org_id)

    async def _index_soon(self, org_id: UUID) -> None:
        async with self._db.write(org_id) as tx:
            active = await generations.active_generation(tx, org_id)
            if active and await needs_index(tx, org_id, active.id):
                await self._jobs.enqueue_once(tx, _BUILD_INDEX, org_id=org_id)

    async def drop_unused(self) -> None:
        """Drop indexes of organizations that are gone or have become small, and of models that are replaced."""
        this = Pass(_DROP)
        for org_id, number in await self._indexes.list():
            with this.item(org_id=org_id, generation=number):
                async with self._db.read(org_id) as tx:
                    active = await generations.active_generation(tx, org_id)
                    used = active and active.id == number and await is_large(tx, org_id)
                if not used:
                    await self._indexes.drop(org_id, number)

    async def embed_again(self, org_id: str) -> None:
        """Embed what answers searches with the server's model. The old vectors answer until all is done. A job.

        Versions that cannot be embedded keep the old vectors in use, but not others from being embedded. `tend` has
        them tried again.
        """
        if self._vectors is None:
            return
        id, failures = UUID(org_id), 0
        while version_id := await self._find_next(self._vectors, id):
            if not await self._embed(self._vectors, id, version_id):
                failures += 1
                if failures == self._most_failures:
                    return
                continue
            async with self._db.write() as tx:
                if await self._jobs.others_wait(tx, READING_QUEUE, _EMBED_AGAIN, org_id=org_id):
                    await self._jobs.enqueue_once(tx, _EMBED_AGAIN, org_id=org_id)
                    return
        self._failed.pop(id, None)
        await self._activate(id)
        await self._erase_old(id)

    async def _find_next(self, vectors: Vectors, org_id: UUID) -> UUID | None:
        """Return a version that lacks vectors and has not failed."""
        async with self._db.write(org_id) as tx:
            generation = await vectors.generation(tx)
            await generations.build_next(tx, org_id, generation)
            failed = self._failed.get(org_id, ())
            missing = await generations.list_unembedded(tx, org_id, generation, 1, failed)
        return missing[0].version_id if missing else None

    async def _embed(self, vectors: Vectors, org_id: UUID, version_id: UUID) -> bool:
        """Embed a batch of a version. Return False if that failed. Raises StepFailed if nothing can be embedded now."""
        async with self._db.read(org_id) as tx:
            version = await versions.find_ready(tx, version_id)
        failed = self._failed.setdefault(org_id, set())
        failed.add(version_id)  # until it is known that it has not
        try:
            if version is None:
                raise ClaimLost
            await self._embed_batch(vectors, version)
        except ClaimLost:
            log.info("document_deleted", version_id=str(version_id))
            return False
        except StepFailed as failure:
            if failure.retried:
                raise
            log.warning("document_not_embedded", version_id=str(version_id), reason=str(failure.reason))
            return False
        failed.remove(version_id)
        return True

    async def _embed_batch(self, vectors: Vectors, version: DocumentVersion) -> None:
        batch = await vectors.embed_next(version)
        async with self._db.write(version.org_id) as tx:
            if await versions.hold(tx, version.id):
                await batch.store(tx)
            else:
                await batch.settle(tx)

    async def _activate(self, org_id: UUID) -> None:
        async with self._db.write(org_id) as tx:
            old = await generations.active_generation(tx, org_id)
            activated = await generations.activate(tx, org_id)
        if activated:
            log.info("embedding_model_changed", org_id=str(org_id))
            if old:
                await self._indexes.drop(org_id, old.id)

    async def _erase_old(self, org_id: UUID) -> None:
        erased = 1
        while erased:
            async with self._db.write(org_id) as tx:
                erased = await generations.erase_old(tx, org_id, _ERASED_AT_ONCE)

    async def build_index(self, org_id: str) -> None:
        """Build the index of an organization's vectors. A job."""
        id = UUID(org_id)
        async with self._db.read(id) as tx:
            generation = await generations.active_generation(tx, id)
        if generation:
            await self._indexes.build(id, generation)
