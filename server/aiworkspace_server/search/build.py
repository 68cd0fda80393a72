"""Creates the search that the settings describe."""

from collections.abc import Mapping

from ..embedding.base import Embedder
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..llm.clock import Clocks
from ..settings import Deployment, SettingsError
from ..usage.ledger import Ledger
from .query import Search
from .questions import QuestionEmbedder
from .reranker import Reranker


def build(
    settings: Deployment, db: Database, embedders: Mapping[str, Embedder], ledger: Ledger, tasks: Tasks
) -> Search:
    """Return the search; `embedders` by their model. Raises SettingsError if the settings do not agree."""
    return Search(db, QuestionEmbedder(db, embedders, ledger, tasks), _reranker(settings))


def _reranker(settings: Deployment) -> Reranker | None:
    base_url, model, key = settings.rerank_base_url, settings.rerank_model, settings.rerank_api_key
    if base_url is None:
        if model or key:
            raise SettingsError(
                ["RERANK_BASE_URL is not set; RERANK_MODEL and RERANK_API_KEY are of no use without it"]
            )
        return None
    if model is None:
        raise SettingsError(["RERANK_MODEL is not set; RERANK_BASE_URL needs it"])
    clocks = Clocks(
        settings.provider_connect_seconds, settings.provider_first_token_seconds, settings.provider_idle_seconds
    )
    return Reranker(base_url, model, key.get_secret_value() if key else None, clocks)
