"""Prices of requests, in integers of nano-USD, with the version of the price list."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from importlib.metadata import version

from genai_prices import Usage
from genai_prices.types import ModelPrice, TieredPrices

from . import catalog
from .base import TokenUsage

PRICE_LIST = f"genai-prices/{version('genai-prices')}"
SELF_HOSTED = "self-hosted"
NOMINAL = "nominal"

# The nominal price of an echo token, so that budgets and bills can be tried without paying.
ECHO_INPUT_NANOS = 1_000
ECHO_OUTPUT_NANOS = 2_000

_HOSTED = frozenset({"openai", "anthropic", "deepseek"})
# The rates of the list, in USD per million tokens, that `price` uses for input and for output.
_INPUT_RATES = "input_mtok", "cache_read_mtok", "cache_write_mtok", "input_audio_mtok", "cache_audio_read_mtok"
_OUTPUT_RATES = "output_mtok", "output_audio_mtok"
_NANOS_PER_RATE = 1_000  # of a token at 1 USD for a million


@dataclass(frozen=True, slots=True)
class Price:
    """An amount, and its source: a price list with its version, "self-hosted" (free) or "nominal" (echo)."""

    nanos: int  # 10⁻⁹ of the currency
    version: str
    currency: str = "USD"


class UnknownPrice(LookupError):
    """There is no price for this model, so it must not be used."""


def price(model_id: str, usage: TokenUsage, at: datetime | None = None) -> Price:
    """Return the price of one request that was sent `at` (now), rounded once, on the total, half to even.

    Cached, written and audio tokens are priced separately if the list has prices for them, and otherwise like other
    tokens. Raises UnknownPrice, or ValueError for impossible usage.
    """
    if not usage.plausible:
        raise ValueError(f"usage of {model_id} is impossible: {usage}")
    provider, _, name = model_id.partition("/")
    if provider == "local":
        return Price(0, SELF_HOSTED)
    if model_id == "echo/echo":
        return Price(usage.input_tokens * ECHO_INPUT_NANOS + usage.output_tokens * ECHO_OUTPUT_NANOS, NOMINAL)
    return Price(_listed(provider, name, usage, at or datetime.now(UTC)), PRICE_LIST)


def embedding_price(model_id: str, tokens: int, at: datetime | None = None) -> Price:
    """Return the price of embedding so many tokens `at` (now), rounded half to even. Raises UnknownPrice."""
    provider, _, name = model_id.partition("/")
    if provider == "local":
        return Price(0, SELF_HOSTED)
    model = catalog.find(provider, name) if provider in _HOSTED else None
    rate = model.get_prices(at or datetime.now(UTC)).input_mtok if model else None
    if not isinstance(rate, Decimal):
        raise UnknownPrice(model_id)
    return Price(int((tokens * rate * _NANOS_PER_RATE).quantize(Decimal(1), ROUND_HALF_EVEN)), PRICE_LIST)


def most(model_id: str, input_tokens: int, output_tokens: int, at: datetime) -> Price:
    """Return the most that at most so many tokens can cost by `price`: each at its highest possible rate, rounded up.

    Input may be written to the provider's cache or be audio, and a tier for smaller requests may be more expensive.
    """
    provider, _, name = model_id.partition("/")
    if provider not in _HOSTED:
        return price(model_id, TokenUsage(input_tokens, 0, 0, output_tokens, 0), at)
    prices = _prices(provider, name, at)
    dearest = (
        tokens * max(_highest(rate, input_tokens) for each in rates if (rate := getattr(prices, each)) is not None)
        for tokens, rates in ((input_tokens, _INPUT_RATES), (output_tokens, _OUTPUT_RATES))
    )
    nanos = (sum(dearest, Decimal(0)) * _NANOS_PER_RATE).to_integral_value(ROUND_CEILING)
    return Price(int(nanos), PRICE_LIST)


def usd(nanos: int) -> str:
    """Return the exact amount in USD, with two decimal places or as many as needed."""
    whole, rest = divmod(abs(nanos), 10**9)
    return f"{'-' if nanos < 0 else ''}{whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def _prices(provider: str, name: str, at: datetime) -> ModelPrice:
    model = catalog.find(provider, name) if provider in _HOSTED else None
    prices = model.get_prices(at) if model else None
    if prices is None or prices.input_mtok is None or prices.output_mtok is None:
        raise UnknownPrice(f"{provider}/{name}")
    return prices


def _highest(rate: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    """Return the highest rate of the tiers that a request with at most so much input can be in."""
    if isinstance(rate, Decimal):
        return rate
    return max(rate.base, *(tier.price for tier in rate.tiers if tier.start < input_tokens), Decimal(0))


def _listed(provider: str, name: str, usage: TokenUsage, at: datetime) -> int:
    prices = _prices(provider, name, at)
    counts = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        # Providers do not report which cached tokens were audio. Assume as few as possible, which costs most.
        cache_audio_read_tokens=max(0, usage.cached_input_tokens + usage.input_audio_tokens - usage.input_tokens),
    )
    total = prices.calc_price(counts)["total_price"]
    return int((total * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))
