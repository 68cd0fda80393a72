from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm import catalog
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import (
    PRICE_LIST,
    SELF_HOSTED,
    Price,
    UnknownPrice,
    embedding_price,
    most,
    price,
    usd,
)

# Prices change; those of a day in the past do not.
DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "usage", "nanos"),
    [
        # $0.15 in, $0.075 cached, $0.60 out per million.
        ("openai/gpt-4o-mini", TokenUsage(1000, 0, 0, 500, 0), 1000 * 150 + 500 * 600),
        ("openai/gpt-4o-mini", TokenUsage(1000, 200, 0, 500, 300), 800 * 150 + 200 * 75 + 500 * 600),
        ("openai/gpt-4o-mini", TokenUsage(1, 1, 0, 0, 0), 75),
        ("openai/gpt-4o-mini", TokenUsage(0, 0, 0, 0, 0), 0),
        # $30 in, $60 out, nothing for cached: it costs what input costs.
        ("openai/gpt-4", TokenUsage(1000, 400, 0, 10, 0), 1000 * 30_000 + 10 * 60_000),
        # $3 in, $0.30 cached, $3.75 written, $15 out.
        (
            "anthropic/claude-sonnet-4-0",
            TokenUsage(10_000, 6_000, 1_000, 200, 0),
            3_000 * 3_000 + 6_000 * 300 + 1_000 * 3_750 + 200 * 15_000,
        ),
    ],
)
def test_by_hand(model: str, usage: TokenUsage, nanos: int) -> None:
    assert price(model, usage, DAY) == Price(nanos, PRICE_LIST, "USD")


def test_the_size_of_the_request_decides_the_tier() -> None:
    # $3 in and $15 out up to 200,000 tokens of input; $6 and $22.50 for all of them above.
    below, above = TokenUsage(200_000, 0, 0, 100, 0), TokenUsage(200_001, 0, 0, 100, 0)
    assert price("anthropic/claude-sonnet-4-5", below, DAY).nanos == 200_000 * 3_000 + 100 * 15_000
    assert price("anthropic/claude-sonnet-4-5", above, DAY).nanos == 200_001 * 6_000 + 100 * 22_500


def test_the_price_is_that_of_the_day() -> None:
    usage = TokenUsage(1_000_000, 0, 0, 0, 0)
    assert price("openai/o3", usage, datetime(2025, 5, 1, tzinfo=UTC)).nanos == 10 * 10**9
    assert price("openai/o3", usage, DAY).nanos == 2 * 10**9


def test_the_price_is_that_of_the_hour() -> None:
    usage = TokenUsage(1_000_000, 0, 0, 0, 0)
    assert price("deepseek/deepseek-chat", usage, DAY.replace(hour=12)).nanos == 270_000_000
    assert price("deepseek/deepseek-chat", usage, DAY.replace(hour=20)).nanos == 135_000_000


@pytest.mark.parametrize(
    ("model", "usage", "nanos"),
    [
        # $2.50 in, $32 for audio in, $10 out, $64 for audio out per million; cached tokens have no price of their own.
        ("openai/gpt-audio", TokenUsage(1000, 0, 0, 100, 0, False, 1000, 100), 1000 * 32_000 + 100 * 64_000),
        (
            "openai/gpt-audio",
            TokenUsage(1000, 0, 0, 100, 0, False, 700, 40),
            300 * 2_500 + 700 * 32_000 + 60 * 10_000 + 40 * 64_000,
        ),
        # $4 in, $0.40 cached, $32 for audio, $0.40 for cached audio: what is cached is taken for text as far as it can.
        (
            "openai/gpt-realtime",
            TokenUsage(1000, 400, 0, 0, 0, False, 700),
            300 * 400 + 100 * 400 + 600 * 32_000,
        ),
        # None for audio: it costs what text costs, and never nothing.
        ("openai/gpt-4o-mini", TokenUsage(1000, 0, 0, 100, 0, False, 1000, 100), 1000 * 150 + 100 * 600),
        ("openai/gpt-4o-mini", TokenUsage(1000, 400, 0, 100, 0, False, 800, 50), 600 * 150 + 400 * 75 + 100 * 600),
    ],
)
def test_audio_has_its_own_price_where_the_list_has_one(model: str, usage: TokenUsage, nanos: int) -> None:
    assert price(model, usage, DAY).nanos == nanos


@pytest.mark.parametrize("audio", [TokenUsage(10, 0, 0, 5, 0, False, 11, 0), TokenUsage(10, 0, 0, 5, 0, False, 0, 6)])
def test_more_audio_than_tokens_cannot_be_true(audio: TokenUsage) -> None:
    with pytest.raises(ValueError, match="is impossible"):
        price("openai/gpt-audio", audio, DAY)


@pytest.mark.parametrize(("tokens", "nanos"), [(1, 4), (4, 14), (12, 44)])
def test_rounded_once_half_to_even(tokens: int, nanos: int) -> None:
    # $0.003625 a million cached tokens until August 2026: 3.625, 14.5 and 43.5 nano-USD.
    july = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert price("deepseek/deepseek-v4-pro", TokenUsage(tokens, tokens, 0, 0, 0), july).nanos == nanos


def test_a_dated_name_costs_what_its_model_costs() -> None:
    usage = TokenUsage(1000, 0, 0, 10, 0)
    assert price("openai/gpt-4o-mini-2024-07-18", usage, DAY) == price("openai/gpt-4o-mini", usage, DAY)


def test_local_models_cost_nothing_and_say_why() -> None:
    assert price("local/anything/at-all", TokenUsage(10**6, 0, 0, 10**6, 0)) == Price(0, SELF_HOSTED)


def test_embedding_has_the_price_of_its_tokens() -> None:
    assert embedding_price("openai/text-embedding-3-small", 10**6, DAY) == Price(20_000_000, PRICE_LIST)
    assert embedding_price("openai/text-embedding-3-large", 3, DAY).nanos == 390
    assert embedding_price("local/all-minilm-l6-v2", 10**6) == Price(0, SELF_HOSTED)


@pytest.mark.parametrize("model", ["openai/text-embedding-9", "nobody/x", "none", ""])
def test_unknown_price_of_an_embedding_is_never_zero(model: str) -> None:
    with pytest.raises(UnknownPrice):
        embedding_price(model, 1)


@pytest.mark.parametrize(
    "model", ["openai/gpt-9000", "nobody/gpt-4o", "gpt-4o", "", "echo/other", "openai/", "google/gemini-2.5-pro"]
)
def test_an_unknown_price_is_never_zero(model: str) -> None:
    with pytest.raises(UnknownPrice):
        price(model, TokenUsage(1, 0, 0, 1, 0))


@pytest.mark.parametrize(
    "usage",
    [
        TokenUsage(-1, 0, 0, 0, 0),
        TokenUsage(10, 11, 0, 0, 0),
        TokenUsage(10, 6, 5, 0, 0),
        TokenUsage(10, -1, 0, 0, 0),
        TokenUsage(10, 0, 0, 1, 2),
        TokenUsage(10**9, 0, 0, 0, 0),
    ],
)
@pytest.mark.parametrize("model", ["openai/gpt-4o", "local/x", "echo/echo"])
def test_usage_that_cannot_be_true_is_refused(model: str, usage: TokenUsage) -> None:
    with pytest.raises(ValueError, match="is impossible"):
        price(model, usage)


def test_every_listed_model_has_a_price() -> None:
    for provider in ("openai", "anthropic", "deepseek"):
        for model in catalog.models(provider):
            assert price(model.id, TokenUsage(1000, 0, 0, 1000, 0)).nanos > 0


LISTED = [f"{provider}/{name}" for provider in ("openai", "anthropic", "deepseek") for name in catalog.names(provider)]


@given(
    st.sampled_from(sorted([*LISTED, "openai/gpt-audio", "openai/gpt-realtime", "echo/echo", "local/any"])),
    st.lists(st.integers(0, 300_000), min_size=5, max_size=5),
    st.lists(st.integers(0, 200_000), min_size=3, max_size=3),
    st.integers(0, 300_000),
    st.integers(0, 23),
)
def test_what_is_reserved_is_enough(model: str, given: list[int], said: list[int], audio: int, hour: int) -> None:
    """Whatever part of the tokens that were reserved for is used, cached, written to the cache, or audio."""
    cached, written, used, bound = sorted(given)[1:]
    reasoning, output, limit = sorted(said)
    at = DAY.replace(hour=hour)
    usage = TokenUsage(used, cached, min(written, used - cached), output, reasoning, False, min(audio, used), reasoning)
    assert price(model, usage, at).nanos <= most(model, bound, limit, at).nanos


def test_the_most_is_at_the_dearest_rate() -> None:
    # $3.75 for what is written to the cache instead of $3.
    assert most("anthropic/claude-sonnet-4-0", 1000, 10, DAY) == Price(1000 * 3_750 + 10 * 15_000, PRICE_LIST, "USD")
    # Twice that above 200,000 tokens.
    assert most("anthropic/claude-sonnet-4-5", 200_000, 10, DAY).nanos == 200_000 * 3_750 + 10 * 15_000
    assert most("anthropic/claude-sonnet-4-5", 200_001, 10, DAY).nanos == 200_001 * 7_500 + 10 * 22_500
    # $0.003 for what comes from the cache, which is never dearer.
    assert most("deepseek/deepseek-v4-flash", 3, 0, DAY).nanos == 450
    assert most("local/any", 10**6, 10**6, DAY) == Price(0, SELF_HOSTED)
    with pytest.raises(UnknownPrice):
        most("openai/gpt-9000", 1, 1, DAY)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (1, "0.000000001"), (10**9, "1.00"), (1_234_567_890_100, "1,234.5678901"), (-15 * 10**8, "-1.50")],
)
def test_amounts_are_written_exactly(nanos: int, text: str) -> None:
    assert usd(nanos) == text


@given(
    st.sampled_from(sorted(catalog.names("openai"))),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_the_list_itself_agrees(model: str, fresh: int, cached: int, output: int) -> None:
    usage = Usage(input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=output)
    theirs = calc_price(usage, model, provider_id="openai", genai_request_timestamp=DAY).total_price
    ours = price(f"openai/{model}", TokenUsage(fresh + cached, cached, 0, output, 0), DAY)
    assert abs(Decimal(ours.nanos) - theirs * 10**9) <= Decimal("0.5")
