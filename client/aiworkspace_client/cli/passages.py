"""aiws documents search, similar and text: what the server has read in documents."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.text import Text

from aiworkspace.v1.document_pb2 import GetDocumentTextResponse
from aiworkspace_client.cli import output, sources
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import Session, connected
from aiworkspace_client.types import Passage, SearchFilter, SearchOmission

_SHOWN = 300  # characters of a passage
_PART = 65_536  # characters of a text in one response, the most that there may be

LEFT_OUT = {
    SearchOmission.SEARCH_OMISSION_NO_EMBEDDER: "the server has no embedding model, so words alone were searched",
    SearchOmission.SEARCH_OMISSION_EMBEDDING_UNAVAILABLE: "the embedding model did not answer, so words alone were "
    "searched",
    SearchOmission.SEARCH_OMISSION_NOT_EMBEDDED_YET: "some documents are not embedded yet, so only their words were "
    "searched",
    SearchOmission.SEARCH_OMISSION_VECTOR_INDEX_BUILDING: "the index of vectors is being built, so the search was slow",
    SearchOmission.SEARCH_OMISSION_RERANKER_UNAVAILABLE: "the reranker did not answer",
}

Limit = Annotated[int, typer.Option(help="Maximum number.", min=1, max=100)]


def search(
    ctx: typer.Context,
    query: Annotated[list[str], typer.Argument(help="Words or a question.")],
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="Only this collection; may be repeated.")
    ] = None,
    document: Annotated[
        list[str] | None, typer.Option("--document", "-d", help="Only this document; may be repeated.")
    ] = None,
    limit: Limit = 5,
    workspace: Workspace = "",
    json: Json = False,
) -> None:
    """Find the passages that answer a query, the best first."""
    with connected(ctx) as session:
        found = session.client.documents.search(
            workspace_id=session.workspace_id(workspace),
            query=" ".join(query),
            filter=SearchFilter(collection_ids=collection or [], document_ids=document or []),
            limit=limit,
        )
        if json:
            return output.as_json(found)
        for number, passage in enumerate(found.passages, 1):
            _show(number, passage)
        if not found.passages:
            output.say("Nothing was found.")
        _say_left_out(found.omissions)


def similar(ctx: typer.Context, document_id: str, limit: Limit = 10, json: Json = False) -> None:
    """List the documents of the workspace that are most like a document."""
    with connected(ctx) as session:
        found = session.client.documents.get_similar(document_id, limit=limit)
        if json:
            return output.as_json(found)
        rows = ((each.document_id, each.document_name, f"{each.score:.3f}") for each in found.documents)
        output.table(("DOCUMENT", "NAME", "SCORE"), rows, right=["SCORE"])
        _say_left_out(found.omissions)


def text(
    ctx: typer.Context,
    document_id: str,
    offset: Annotated[int, typer.Option(help="The first character to print, from 0.", min=0)] = 0,
    length: Annotated[int, typer.Option(help="How many characters to print. 0 means all.", min=0)] = 0,
    version: Annotated[int, typer.Option(help="Number of the version. 0 means the one that is searched.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Print the text of a document as the server has read it. Citations and search results point into it."""
    with connected(ctx) as session:
        parts = _parts(session, document_id, version, offset, length)
        if json:
            return output.as_json(parts)
        end = "\n"
        for part in parts:
            output.write(part.text)
            end = part.text[-1:] or end
        if end != "\n":
            output.write("\n")


def _parts(
    session: Session, document_id: str, version: int, offset: int, length: int
) -> Iterator[GetDocumentTextResponse]:
    """Yield the parts of a text, all of one version."""
    end = offset + length if length else None
    while True:
        size = _PART if end is None else min(_PART, end - offset)
        part = session.client.documents.get_text(document_id, version=version, offset=offset, length=size)
        yield part
        offset, version = part.offset + len(part.text), part.version
        if not part.text or offset >= (part.text_length if end is None else min(end, part.text_length)):
            return


def _show(number: int, passage: Passage) -> None:
    place = sources.describe(passage.place)
    name = output.one_line(f"{passage.document_name}, {place}" if place else passage.document_name)
    output.out.print(Text(f"{number}. {name}", "bold"))
    quote = output.one_line(passage.text)
    output.write(f"   {quote if len(quote) <= _SHOWN else f'{quote[:_SHOWN]}…'}\n")


def _say_left_out(omissions: Iterable[SearchOmission.ValueType]) -> None:
    for each in omissions:
        output.say(f"[{LEFT_OUT.get(each, 'the search is incomplete')}]", "dim")
