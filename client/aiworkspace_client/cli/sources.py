"""The sources of an answer, for people."""

from collections.abc import Iterable

from aiworkspace_client.cli import output
from aiworkspace_client.types import Message, Place, RetrievalOmission

_LEFT_OUT = {
    RetrievalOmission.RETRIEVAL_OMISSION_PERMISSION: "you may not read documents here",
    RetrievalOmission.RETRIEVAL_OMISSION_UNAVAILABLE: "the search failed; ask again",
    RetrievalOmission.RETRIEVAL_OMISSION_TIMEOUT: "the search took too long; ask again",
    RetrievalOmission.RETRIEVAL_OMISSION_NO_ROOM: "the model has no room for all passages",
    RetrievalOmission.RETRIEVAL_OMISSION_VECTORS: "documents were searched by their words only",
}


def show(message: Message) -> None:
    """Print the sources that a message cites, numbered, and what was left out of its search."""
    for line in _lines(message):
        output.write(f"{line}\n")
    if message.retrieval_omissions:
        reasons = [_LEFT_OUT.get(each, "some passages are missing") for each in message.retrieval_omissions]
        output.say(f"[documents: {', '.join(reasons)}]", "dim")


def _lines(message: Message) -> Iterable[str]:
    quoted = dict.fromkeys((each.document_name, describe(each.place), each.quote) for each in message.citations)
    for number, (name, place, quote) in enumerate(quoted, 1):
        where = f", {place}" if place else ""
        yield f'[{number}] {output.one_line(name)}{where}: "{output.one_line(quote)}"'


def describe(place: Place) -> str:
    """Return a place in a file, "page 3" for example."""
    parts = [" > ".join(place.headings), place.sheet]
    numbers = {"page": place.page, "slide": place.slide, "chapter": place.chapter, "line": place.line}
    parts += [f"{name} {number}" for name, number in numbers.items() if number]
    if place.first_row:
        parts.append(f"rows {place.first_row} to {place.last_row}")
    return output.one_line(", ".join(part for part in parts if part))
