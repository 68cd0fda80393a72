"""The steps of reading a document: each takes what the one before has stored, and can be repeated."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

from ..embedding.base import Chunk, EmbeddingRefused, EmbeddingUnavailable
from ..embedding.process import TextProcess
from ..kit.mongo import Mongo
from ..parsing.failures import FailureReason, ParseFailed
from ..parsing.parser import Parser
from ..search import generations, index, postings
from ..search.languages import detect_language
from ..search.models import IndexedChunk, IndexedVersion
from . import store, versions
from .claims import Claim, ClaimLost, StepFailed
from .content import Files
from .ending import Ending
from .models import DocumentVersion, Reason, Step
from .scanning import Outcome, scan
from .texts import Piece, Texts
from .vectors import Vectors

_CHUNKS_AT_ONCE = 100  # stored in one transaction
# A file may fail for want of memory or time because the machine is busy.
_RETRIED = {FailureReason.PARSER_TIMEOUT, FailureReason.PARSER_MEMORY, FailureReason.PARSER_CRASHED}


class Steps:
    def __init__(
        self,
        mongo: Mongo,
        files: Files,
        parser: Parser,
        texts: TextProcess,
        vectors: Vectors | None,
        ending: Ending,
        clamd_address: str | None,
    ) -> None:
        self._mongo = mongo
        self._files = files
        self._parser = parser
        self._process = texts
        self._vectors = vectors
        self._ending = ending
        self._clamd_address = clamd_address

    async def do(self, claim: Claim, step: Step) -> None:
        """Do a step, or a part of it, and record that. Raises StepFailed and ClaimLost."""
        match step:
            case Step.CHECKED:
                await self._check(claim)
            case Step.PARSED:
                await self._parse(claim)
            case Step.CHUNKED:
                await self._chunk(claim)
            case Step.EMBEDDED:
                await self._embed(claim)
            case Step.INDEXED:
                await self._index(claim)
            case Step.RECEIVED:
                raise AssertionError("a version is received before it exists")

    async def _check(self, claim: Claim) -> None:
        """Scan the file, if there is a scanner."""
        if self._clamd_address:
            async with self._reading(claim.version) as parts:
                verdict = await scan(self._clamd_address, parts)
            if verdict.outcome == Outcome.INFECTED:
                raise StepFailed(Reason.INFECTED, verdict.detail, retried=False)
            if verdict.outcome == Outcome.TOO_LARGE:
                raise StepFailed(Reason.TOO_LARGE_TO_SCAN, verdict.detail, retried=False)
            if verdict.outcome == Outcome.UNAVAILABLE:
                raise StepFailed(Reason.SCANNER_UNAVAILABLE, verdict.detail, retried=True)
        await self._complete(claim)

    def _reading(self, version: DocumentVersion) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        assert version.blob_id
        return aclosing(self._files.of(version.org_id).read(version.blob_id))

    async def _parse(self, claim: Claim) -> None:
        version, texts = claim.version, Texts(self._mongo, claim.org_id)
        async with claim.db.read(claim.org_id) as tx:
            found = await versions.find_file(tx, version)
        if found is None:
            raise ClaimLost
        name, size = found
        with tempfile.NamedTemporaryFile(prefix="aiworkspace-") as file:
            if await self._download(version, Path(file.name)) != size:
                raise StepFailed(Reason.INTERNAL, "The stored file is not complete.", retried=True)
            try:
                parsed = await self._parser.parse(Path(file.name), name, version.media_type)
            except ParseFailed as failed:
                retried = failed.reason in _RETRIED
                raise StepFailed(Reason[failed.reason.name], failed.detail, retried=retried) from None
        await claim.check()
        try:
            await texts.store(version.id, claim.id, parsed.text, parsed.blocks)
            async with claim.holding() as (_, version, step):
                version.media_type, version.text_id = parsed.media_type, claim.id
                version.text_length, version.page_count = len(parsed.text), parsed.page_count
                version.unread_pages = list(parsed.unread_pages)
                version.language = detect_language(parsed.text)
                versions.advance(version, step)
        except ClaimLost:
            await texts.delete_attempt(version.id, claim.id)
            raise
        await texts.delete(version.id, keep=claim.id)

    async def _download(self, version: DocumentVersion, path: Path) -> int:
        """Return the number of bytes."""
        size = 0
        with path.open("wb") as file:
            async with self._reading(version) as parts:
                async for part in parts:
                    size += await asyncio.to_thread(file.write, part)
        return size

    async def _chunk(self, claim: Claim) -> None:
        version = claim.version
        await index.erase_version(claim.writing, claim.org_id, version.workspace_id, version.id)
        number = 0
        async with aclosing(self._pieces(version)) as pieces:
            async for piece in pieces:
                found = await self._split(piece)
                chunks = [_indexed(chunk, piece, number + position) for position, chunk in enumerate(found)]
                for first in range(0, len(chunks), _CHUNKS_AT_ONCE):
                    async with claim.holding() as (tx, held, step):
                        await index.put_chunks(tx, _indexed_version(held), chunks[first : first + _CHUNKS_AT_ONCE])
                        step.fraction = piece.end / max(held.text_length, piece.end)
                number += len(chunks)
        if number == 0:
            raise StepFailed(Reason.NO_TEXT, "The text has no chunk.", retried=False)
        async with claim.holding() as (tx, held, step):
            if self._vectors is None and not await index.has_words(tx, held.org_id, held.id):
                raise StepFailed(Reason.NO_TEXT, "The text has no word that a search could find.", retried=False)
            held.chunk_count = number
            versions.advance(held, step)

    async def _split(self, piece: Piece) -> Sequence[Chunk]:
        blocks = [(block.start - piece.start, block.end - piece.start, block.place) for block in piece.blocks]
        try:
            return await self._process.split(piece.text, blocks)
        except EmbeddingUnavailable as failed:
            raise StepFailed(Reason.INTERNAL, str(failed), retried=True) from None
        except EmbeddingRefused as failed:
            raise StepFailed(Reason.INTERNAL, str(failed), retried=False) from None

    def _pieces(self, version: DocumentVersion) -> AsyncGenerator[Piece, None]:
        assert version.text_id
        return Texts(self._mongo, version.org_id).read(version.id, version.text_id)

    async def _embed(self, claim: Claim) -> None:
        """Embed the next chunks. The last of them completes the step."""
        if self._vectors is None:
            await self._complete(claim)
            return
        batch = await self._vectors.embed_next(claim.version)
        async with claim.holding() as (tx, held, step):
            await batch.store(tx)
            if batch.done < held.chunk_count:
                step.fraction, step.attempt_count, step.reason = batch.done / held.chunk_count, 0, None
                versions.pause(held)
            else:
                versions.advance(held, step)

    async def _index(self, claim: Claim) -> None:
        """Write the postings, and let the version answer searches."""
        blocks = postings.blocks(claim.version.chunk_count)
        for block in blocks:
            async with claim.holding() as (tx, held, step):
                await postings.write_postings(tx, _indexed_version(held), block)
                step.fraction = block / len(blocks)
        async with claim.db.write(claim.org_id) as tx:
            document = await store.lock_document(
                tx, claim.version.live_document_id
            )  # before its versions, as everywhere
            version = await claim.lock(tx)
            assert document  # otherwise the version has ended
            await index.publish(tx, _indexed_version(version))
            await self._ending.publish(tx, document, version)
            versions.advance(version, await versions.find_step(tx, version))
        async with claim.db.write(claim.org_id) as tx:
            await generations.activate(tx, claim.org_id)  # if this was the last version that it lacked

    async def _complete(self, claim: Claim) -> None:
        async with claim.holding() as (_, version, step):
            versions.advance(version, step)


def _indexed_version(version: DocumentVersion) -> IndexedVersion:
    return IndexedVersion(
        version.org_id,
        version.workspace_id,
        version.live_document_id,
        version.id,
        version.media_type,
        version.create_time,
        version.language,
    )


def _indexed(chunk: Chunk, piece: Piece, number: int) -> IndexedChunk:
    return IndexedChunk(
        number,
        piece.start + chunk.start,
        piece.start + chunk.end,
        piece.text[chunk.start : chunk.end],
        chunk.heading,
        chunk.place,
        chunk.token_count,
    )
