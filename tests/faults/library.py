"""Documents that are read while something breaks."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import grpc

from aiworkspace.v1 import document_pb2 as pb
from tests.support.documents import begin, messages, replace, upload, watch
from tests.support.files import distinct_words

from .trial import Trial

# Vectors come from the stand-in: they are not what is tried, and the built-in model would take most of the time.
SETTINGS = {"embedding_model": "openai/text-embedding-3-small", "embedding_dimension": 16}
_LONG = distinct_words(70_000)  # several pieces of text, parts of the embedding, and blocks of postings
_LATE = distinct_words(2_000)  # enough that databases need room for it
_UNREADABLE = b"\x00\x01\x02\x03" * 100
_SMALL = 10
ANSWER_SECONDS = 60.0  # of a call, whatever is broken
_AGAIN_SECONDS = 0.1  # between two attempts of a caller
_TRY_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
_numbers = count(1)


@dataclass
class Held:
    """A document, and the word that only its present text has. Without one, no parser can read it."""

    id: str
    word: str
    text: str


@dataclass
class Unfinished:
    """An upload that nobody has acknowledged. Its caller repeats each call until it is."""

    word: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    upload_id: str = ""

    @property
    def text(self) -> str:
        return f"{self.word} {_LATE}"


@dataclass
class Library:
    """What somebody has uploaded in a trial, and what is to be left of it."""

    at: Trial
    held: list[Held] = field(default_factory=list)
    deleted: list[Held] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    refusals: Counter[grpc.StatusCode] = field(default_factory=Counter)  # of uploads

    async def prepare(self) -> None:
        """Upload two documents that are READY before anything breaks."""
        for _ in range(2):
            document = await self._add(word := _word(), f"{word} is replaced")
            await watch(self._person, document.id)

    async def fill(self) -> None:
        """Upload documents: a long one first, many small ones, an unreadable one, and new versions of those at hand."""
        old = list(self.held)
        await self._add(word := _word(), f"{word} {_LONG}")
        await asyncio.gather(*(self._add(word := _word(), f"{word} stands alone") for _ in range(_SMALL)))
        unreadable = await upload(self._person, self.at.workspace_id, _UNREADABLE, name="unreadable")
        self.held.append(Held(unreadable.document_id, "", ""))
        for each in old:
            if not each.word:
                continue
            each.word = _word()
            each.text = f"{each.word} takes its place"
            await replace(self._person, each.id, each.text.encode())

    def begin(self) -> None:
        """Have one more document to upload."""
        self.unfinished.append(Unfinished(_word()))

    async def go_on(self, each: Unfinished) -> None:
        """Try to finish an upload. It may be refused, but only so that the caller knows to try again."""
        data = each.text.encode()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with self.at.calls.call("BeginUpload and UploadDocument"):
                    response = await self._upload(each, data)
        except TimeoutError:
            self.at.wrong.append(f"{each.word}: its upload got no answer in {ANSWER_SECONDS:g} s")
        except grpc.aio.AioRpcError as error:
            self.refusals[error.code()] += 1
            if error.code() not in _TRY_AGAIN:
                self.at.wrong.append(f"{each.word}: its upload was refused with {error.code().name}: {error.details()}")
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            self.unfinished.remove(each)
            self.held.append(Held(response.document.document_id, each.word, each.text))

    async def _upload(self, each: Unfinished, data: bytes) -> Any:
        person = self._person
        each.upload_id = each.upload_id or await begin(
            person, self.at.workspace_id, data, name=each.word, request_id=each.request_id
        )
        return await person.documents.UploadDocument(messages(each.upload_id, data))

    async def complete(self) -> None:
        """Finish what is not finished."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while self.unfinished:
                await self.go_on(self.unfinished[0])

    async def delete(self, chance: Random, number: int) -> None:
        """Delete some of the short ones, whatever state they are in. Repeats what gets no answer."""
        for each in chance.sample([each for each in self.held if len(each.text) < len(_LONG)], number):
            self.held.remove(each)
            self.deleted.append(each)
            await self._delete(each)

    async def find(self, word: str) -> list[str]:
        """The documents in which a search finds a word, one for each passage."""
        request = pb.SearchDocumentsRequest(workspace_id=self.at.workspace_id, query=word, limit=100)
        passages = (await self._person.documents.SearchDocuments(request)).passages
        return [each.document_id for each in passages if word in each.text]

    @property
    def _person(self) -> Any:
        return self.at.asker.now

    async def _add(self, word: str, text: str) -> Held:
        document = await upload(self._person, self.at.workspace_id, text.encode(), name=word)
        added = Held(document.document_id, word, text)
        self.held.append(added)
        return added

    async def _delete(self, each: Held) -> None:
        while True:
            try:
                await self._person.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=each.id))
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:  # the first attempt had done it
                    return
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


def _word() -> str:
    return f"canary{next(_numbers):05}"


def ids(documents: Sequence[Held]) -> list[str]:
    return [each.id for each in documents]
