"""The text models of the hosted providers and their prices, from the data in genai-prices."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from ..kit.caches import TtlCache
from .base import ModelInfo

# Names that have prices but cannot chat: other kinds of models, models that OpenAI serves only through another
# interface, and retired families and models.
_NO_CHAT = {
    "openai": re.compile(
        r"^(?:ft:|gpt-oss|gpt-3\.5-\d|gpt-3\.5-turbo-|gpt-4-32k|text-|computer-use)|:|\.ft-"
        r"|audio|realtime|transcribe|tts|image|vision|instruct|codex|search|deep-research|-pro$|o1-(?:mini|preview)"
    ),
    "anthropic": re.compile(r"^claude-v?[123]\b"),
    "deepseek": re.compile(r"-v3"),
}

_priced: TtlCache[str, Sequence[ModelInfo]] = TtlCache(len(_NO_CHAT), 1.0)


def models(provider: str) -> Sequence[ModelInfo]:
    """Return the models of one provider by name, at the prices of this second: some depend on the time of day."""
    found = _priced.get(provider)
    if found is None:
        now = datetime.now(UTC)
        found = tuple(_info(provider, model, model.get_prices(now)) for model in _chat_models(provider).values())
        _priced[provider] = found
    return found


def context_tokens(provider: str, name: str) -> int | None:
    """Return the size of the model's context in tokens; None if it is unknown."""
    model = _chat_models(provider).get(name) if provider in _NO_CHAT else None
    return model.context_window if model else None


@cache
def names(provider: str) -> frozenset[str]:
    """Return the provider's own names of its models."""
    return frozenset(_chat_models(provider))


@lru_cache(maxsize=1024)
def find(provider: str, name: str) -> types.ModelInfo | None:
    """Return the entry that prices `name`, which may be dated or not listed."""
    entry = _provider(provider)
    exact = (model for model in entry.models if model.id == name)
    return next(exact, None) or entry.find_model(name)


@cache
def _provider(provider: str) -> types.Provider:
    return next(entry for entry in get_snapshot().providers if entry.id == provider)


@cache
def _chat_models(provider: str) -> Mapping[str, types.ModelInfo]:
    return {
        model.id: model
        for model in sorted(_provider(provider).models, key=lambda model: model.id)
        if _chats(provider, model)
    }


def _chats(provider: str, model: types.ModelInfo) -> bool:
    """Return whether a model is a current, priced chat model. Chat models have a context window in the data."""
    no_chat = _NO_CHAT[provider]
    if model.deprecated or model.context_window is None or no_chat.search(model.id):
        return False
    prices = model.get_prices(datetime.now(UTC))
    return prices.input_mtok is not None and prices.output_mtok is not None


def _info(provider: str, model: types.ModelInfo, prices: types.ModelPrice) -> ModelInfo:
    return ModelInfo(
        id=f"{provider}/{model.id}",
        provider=provider,
        name=model.id,
        display_name=model.name or model.id,
        context_tokens=model.context_window,
        input_price=_nanos(prices.input_mtok),
        cached_input_price=_nanos(prices.cache_read_mtok),
        cache_write_price=_nanos(prices.cache_write_mtok),
        output_price=_nanos(prices.output_mtok),
    )


def _nanos(price: Decimal | types.TieredPrices | None) -> int | None:
    """Return a price in nano-USD; None for tiers, which depend on the size of the request."""
    return int(price * 10**9) if isinstance(price, Decimal) else None
