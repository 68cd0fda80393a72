"""A model provider for tests: speaks both wire formats and embeddings, over real HTTP, and misbehaves on request.

    async with Standin() as standin:
        standin.script("gpt-4o-mini", Script(tokens=("Hi", "!"), fault=Cut(after=1)))

Scripts are chosen by the model's name in the request, or by what the person says in it, so that the server that asks
may be another process. `standin.bill` is what it charged. Texts of equal words have equal vectors.
"""

from .bill import Charge
from .embeddings import EmbeddingScript, vector
from .script import BYTES, Cut, ErrorEvent, HttpError, Script, Stall
from .server import Received, Standin

__all__ = [
    "BYTES",
    "Charge",
    "Cut",
    "EmbeddingScript",
    "ErrorEvent",
    "HttpError",
    "Received",
    "Script",
    "Stall",
    "Standin",
    "vector",
]
