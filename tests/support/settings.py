"""Settings of servers in tests."""

from pydantic import SecretStr

from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.mailbox import Mailbox
from tests.support.stores import Stores

# Of this machine, and the only address that is not public to which servers in tests send what callers name.
WEBHOOK_HOST = "127.9.9.9"


def store_settings(stores: Stores) -> dict[str, object]:
    return {
        "port": 0,
        "database_url": stores.postgres,
        "mongo_uri": stores.mongo,
        "jwt_secret": "access-tokens-Xo4vKq7yPz0rGm2sLw8t",
        "jwt_refresh_secret": "refresh-tokens-Bd1hNj5uQe9aVc3fRk6i",
        "password_pepper": "pepper-Zt8wHs2xMg4pYl7oJb0nEv5kCq1d",
        "encryption_secret": "encryption-Gh3pWs8yVn5bRk0dLt6zQm",
        "password_hash_cost": 10,
        "access_token_seconds": 6 * 60 * 60,  # fixtures sign in once, and a busy machine takes its time
        "rate_limit_factor": 1000,
        "shutdown_seconds": 0.5,
        "invitations_per_hour": 1_000_000,
        "registration": "open",
        "require_verified_email": False,
        "org_allowance_usd": "unlimited",
        "egress_allowed_networks": f"{WEBHOOK_HOST}/32",
    }


def openai_settings(standin: Standin) -> dict[str, object]:
    """For a process that asks no other provider: without the SDK of Anthropic it starts a second sooner."""
    return {
        "openai_api_key": "sk-openai-canary",
        "openai_base_url": f"{standin.url}/v1",
        "echo_tokens_per_second": 2000,
        "provider_first_token_seconds": 60,
        "provider_idle_seconds": 60,
    }


def anthropic_settings(standin: Standin) -> dict[str, object]:
    return {"anthropic_api_key": "sk-ant-canary", "anthropic_base_url": standin.url}


def provider_settings(standin: Standin) -> dict[str, object]:
    deepseek = {"deepseek_api_key": "sk-deepseek-canary", "deepseek_base_url": f"{standin.url}/v1"}
    return openai_settings(standin) | anthropic_settings(standin) | deepseek


def mail_settings(mailbox: Mailbox) -> dict[str, object]:
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": mailbox.port,
        "smtp_tls": "none",
        "mail_from": "AI Workspace <workspace@example.org>",
    }


def environment(settings: Settings) -> dict[str, str]:
    """The settings as a process takes them."""
    return {name.upper(): _written(value) for name, value in settings if value is not None}


def _written(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
