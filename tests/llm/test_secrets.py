"""Keys are in no error, no log and no other provider's request; the environment has no say."""

import logging
import traceback

import pytest

from aiworkspace_server.llm.base import ErrorKind, Provider
from aiworkspace_server.llm.failures import redact
from tests.standin import ErrorEvent, HttpError, Script, Standin

from .answers import MODEL, answer
from .conftest import ANTHROPIC_KEY, DEEPSEEK_KEY, OPENAI_KEY, anthropic_provider, deepseek_provider, openai_provider

KEYS = [OPENAI_KEY, ANTHROPIC_KEY, DEEPSEEK_KEY]


def leaks(text: str, key: str) -> list[str]:
    """The parts of a key that stand in a text, of six characters or more."""
    return [key[at : at + 6] for at in range(len(key) - 5) if key[at : at + 6] in text]


def echoes(key: str) -> list[str]:
    """How providers quote a key."""
    return [
        f"Incorrect API key provided: {key}.",
        f"Incorrect API key provided: {key[:8]}{'*' * 20}{key[-4:]}. You can find your key at …",
        f"key ending in {key[-8:]} is disabled",
        f"Authorization: Bearer {key}",
        f'{{"headers":{{"x-api-key":"{key}"}}}}',
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
@pytest.mark.parametrize("which", range(5))
async def test_an_error_never_quotes_the_key(
    standin: Standin, provider: Provider, status: int, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    key = OPENAI_KEY if provider.name == "openai" else ANTHROPIC_KEY
    caplog.set_level(logging.DEBUG)
    for fault in (HttpError(status, echoes(key)[which]), ErrorEvent(0, echoes(key)[which])):
        standin.script(MODEL, Script(fault=fault))
        error = (await answer(provider)).error
        assert error is not None
        everything = f"{error} {error!r} {error.__dict__} {''.join(traceback.format_exception(error))}"
        assert leaks(everything, key) == []
        assert error.__cause__ is None
        assert error.__context__ is None, "no way from here to the SDK's exceptions"
    assert leaks(caplog.text, key) == []
    assert standin.received[0].key == key


async def test_a_refused_key_is_named_without_a_word_of_the_body(standin: Standin, openai_wire: Provider) -> None:
    message = "Incorrect API key provided: abc. Ask Alice."
    standin.script(MODEL, Script(fault=HttpError(401, message, code="invalid_api_key")))
    error = (await answer(openai_wire)).error
    assert error is not None
    assert error.kind is ErrorKind.MISCONFIGURED
    assert "invalid_api_key" in error.message
    assert "Alice" not in error.message


async def test_what_people_say_is_in_no_log(
    standin: Standin, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    standin.script(MODEL, Script(tokens=("confidential",)))
    await answer(provider)
    assert "Say hello." not in caplog.text
    assert "confidential" not in caplog.text


@pytest.mark.parametrize("quoted", ["sk-ab***yz", "****yz", "sk-someone-elses-key", "Bearer abc", "bearer  x.y.z"])
def test_what_looks_like_a_key_is_taken_for_one(quoted: str) -> None:
    assert redact(f"the key {quoted} is wrong", []) == "the key [redacted] is wrong"


@pytest.mark.parametrize("key", KEYS)
def test_redaction_leaves_the_rest(key: str) -> None:
    assert redact(f"Limit 3 reached for {key} on tokens per min.", [key]) == (
        "Limit 3 reached for [redacted] on tokens per min."
    )
    assert redact("The model `gpt-9` does not exist.", [key]) == "The model `gpt-9` does not exist."


async def test_the_environment_adds_nothing_to_requests(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_ADMIN_KEY",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
    ):
        monkeypatch.setenv(name, "canary-value")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: canary-value\nAuthorization: canary-value")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Canary: canary-value")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://canary-value.invalid")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://canary-value.invalid")
    for provider in (openai_provider(standin.url), deepseek_provider(standin.url), anthropic_provider(standin.url)):
        assert (await answer(provider)).finish == "stop"
        await provider.aclose()
    assert "canary" not in str([received.headers for received in standin.received])
    assert [received.key for received in standin.received] == [OPENAI_KEY, DEEPSEEK_KEY, ANTHROPIC_KEY]
