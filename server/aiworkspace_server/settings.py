"""The settings. Nothing else in the server reads the environment."""

import codecs
import os
import re
import stat
import sys
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from aiworkspace_server import secrets_file, urls
from aiworkspace_server.setting_types import (
    HOW_TO_MAKE_ONE,
    MOST,
    Allowance,
    ClamdAddress,
    DocumentStore,
    EmbeddingModel,
    Host,
    HttpUrl,
    Listed,
    Mailbox,
    MongoUri,
    Network,
    Positive,
    PositiveNumber,
    PostgresUrl,
    ProviderKey,
    RedisUrl,
    Registration,
    Secret,
    lower,
)

_LAPTOP_ALLOWANCE = Decimal(5)
LEAST_POOL = 15

SECRETS = ("jwt_secret", "jwt_refresh_secret", "password_pepper", "encryption_secret")


class Deployment(BaseSettings):
    """Every setting except the required secrets. Names are those of the environment, in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051  # 0: any free one
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    trusted_proxies: Annotated[tuple[Network, ...] | None, *Listed] = None  # whose x-forwarded-for is trusted
    drain_seconds: Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)] = 0  # serving, after SIGTERM
    shutdown_seconds: Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)] = 5
    jobs_in_server: bool = True  # otherwise `jobs` works them
    ops_host: Host = "127.0.0.1"
    # Traces: names as OpenTelemetry has them. Unset: there are none.
    otel_exporter_otlp_endpoint: HttpUrl | None = None
    otel_exporter_otlp_headers: SecretStr | None = None  # name=value, separated by commas
    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 0.01  # share of calls that are recorded
    otel_service_name: Annotated[str, Field(min_length=1)] = "aiworkspace"
    ops_port: Annotated[int, Field(ge=0, le=65535)] | None = None  # 0: any free one; unset: no metrics and probes

    data_dir: Path = Path(".data")
    database_url: PostgresUrl | None = None
    database_direct_url: PostgresUrl | None = None  # past a pooler; set if and only if DATABASE_URL leads to one
    migration_database_url: PostgresUrl | None = None  # the owner's; that of PostgreSQL itself when unset
    postgres_pool: Annotated[int, Field(ge=LEAST_POOL, le=MOST)] = 22  # connections of each process, in all
    mongo_uri: MongoUri | None = None
    redis_url: RedisUrl | None = None

    password_hash_cost: Annotated[int, Field(ge=10, le=16)] = 12  # one more doubles the time
    rate_limit_factor: Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)] = (
        1  # times the limits of the contract
    )
    call_ceiling_factor: PositiveNumber = 10  # times a limit: the most that organizations may set for accounts and keys
    jwt_private_key_file: Path | None = None  # signs access tokens; jwt_secret does when unset
    # Keys that only verify tokens: those that will sign after the next rotation, and those that signed before the last.
    jwt_other_secrets: Annotated[tuple[Secret, ...] | None, *Listed] = None
    jwt_other_key_files: Annotated[tuple[Path, ...] | None, *Listed] = None
    jwt_refresh_other_secrets: Annotated[tuple[Secret, ...] | None, *Listed] = None
    access_token_seconds: Positive = 900
    refresh_token_seconds: Positive = 2_592_000
    encryption_other_secrets: Annotated[tuple[Secret, ...] | None, *Listed] = None  # previous ones, for decryption only

    openai_api_key: ProviderKey | None = None
    openai_base_url: HttpUrl | None = None
    anthropic_api_key: ProviderKey | None = None
    anthropic_base_url: HttpUrl | None = None
    deepseek_api_key: ProviderKey | None = None
    deepseek_base_url: HttpUrl | None = None
    local_model_api_key: ProviderKey | None = None
    local_model_base_url: HttpUrl | None = None
    provider_connect_seconds: PositiveNumber = 5
    provider_first_token_seconds: PositiveNumber = 60
    provider_idle_seconds: PositiveNumber = 30
    provider_concurrency: Positive = 200  # concurrent requests to each provider
    org_concurrency: Positive = 50  # concurrent requests of each organization to all providers
    provider_queue: Annotated[int, Field(ge=0, le=MOST)] = 1000  # runs that may wait for each provider
    run_seconds: PositiveNumber = 600
    max_output_tokens: Positive = 4096
    # Monthly allowance of each organization on the keys above. Unset: 5 if embedded, otherwise an error.
    org_allowance_usd: Allowance | None = None
    echo_tokens_per_second: PositiveNumber = 50

    document_bytes: Positive = 256 << 20  # of one document
    org_document_bytes: Annotated[int, Field(gt=0, le=1 << 60)] = 10 << 30  # of all documents of an organization
    org_document_count: Positive = 100_000
    document_store: DocumentStore | None = None  # where their bytes are; unset: in MongoDB
    clamd_address: ClamdAddress | None = None  # unset: documents are not scanned

    # Networks that are not public and nevertheless reached for web pages and webhooks of callers.
    egress_allowed_networks: Annotated[tuple[Network, ...] | None, *Listed] = None

    # "openai/name", "local/name" or "none". Unset: the built-in model if its weights are installed, otherwise none.
    embedding_model: EmbeddingModel | None = None
    embedding_base_url: HttpUrl | None = None  # unset: that of the provider
    embedding_api_key: ProviderKey | None = None  # unset: the provider's, unless the address is another one
    embedding_dimension: Annotated[int, Field(gt=0, le=4000)] | None = None  # pgvector indexes at most 4000
    embedding_window: Annotated[int, Field(ge=64, le=MOST)] | None = None
    embedding_tokenizer: Path | None = None  # a tokenizer.json; unset: a byte counts as a token

    rerank_base_url: HttpUrl | None = None  # unset: results are not reranked
    rerank_model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    rerank_api_key: ProviderKey | None = None

    smtp_host: Host | None = None  # without one, mail is printed on standard output
    smtp_port: Annotated[int, Field(gt=0, le=65535)] = 587
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_tls: Annotated[Literal["starttls", "tls", "none"], BeforeValidator(lower)] = "starttls"
    mail_from: Mailbox | None = None
    public_url: HttpUrl | None = None
    invitations_per_hour: Positive = 50  # of each account and of each organization
    require_verified_email: bool | None = None  # unset: true unless the databases are embedded
    registration: Annotated[Registration, BeforeValidator(lower)] | None = None  # unset: see who_registers

    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = "info"

    @property
    def embedded(self) -> bool:
        """Whether the server brings its own PostgreSQL and MongoDB."""
        return self.database_url is None

    @property
    def verified_email_required(self) -> bool:
        return not self.embedded if self.require_verified_email is None else self.require_verified_email

    @property
    def who_registers(self) -> Registration:
        """Return who may register. By default only invited people if not embedded, because accounts spend money."""
        return self.registration or ("open" if self.embedded else "invited")

    @property
    def allowance_nanos(self) -> int | None:
        """Return the default monthly allowance of an organization; None means no limit."""
        allowance = _LAPTOP_ALLOWANCE if self.org_allowance_usd is None else self.org_allowance_usd
        return None if isinstance(allowance, str) else int(allowance * 10**9)

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        pairs = ("database_url", "mongo_uri"), ("tls_cert_file", "tls_key_file"), ("smtp_username", "smtp_password")
        for one, other in pairs:
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"set both {one.upper()} and {other.upper()}, or neither")
        if self.database_direct_url and not self.database_url:
            raise ValueError("DATABASE_DIRECT_URL is for a pooler in DATABASE_URL, which is not set")
        return self

    @model_validator(mode="after")
    def _mail(self) -> Self:
        if self.smtp_host and not self.mail_from:
            raise ValueError("MAIL_FROM is not set; with SMTP_HOST mail needs a sender")
        if self.smtp_host and self.smtp_username and self.smtp_tls == "none" and not urls.is_loopback(self.smtp_host):
            raise ValueError("SMTP_TLS=none would send SMTP_PASSWORD in the clear; use starttls or tls")
        return self


class Settings(Deployment):
    """Complete settings. The secrets are required, strong, and different from each other."""

    jwt_secret: Secret
    jwt_refresh_secret: Secret
    password_pepper: Secret
    encryption_secret: Secret  # encrypts organizations' provider keys

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len({getattr(self, name) for name in SECRETS}) < len(SECRETS):
            raise ValueError(f"{', '.join(map(str.upper, SECRETS))} must differ; {HOW_TO_MAKE_ONE}")
        main = {self.jwt_refresh_secret, self.password_pepper, self.encryption_secret}
        if self.jwt_private_key_file is None:  # otherwise jwt_secret signs nothing, and may be one of the others
            main.add(self.jwt_secret)
        lists = self.jwt_other_secrets, self.jwt_refresh_other_secrets, self.encryption_other_secrets
        others = [secret for secrets in lists for secret in secrets or ()]
        if len(main.union(others)) < len(main) + len(others):
            raise ValueError("a list of other secrets must not repeat a secret that is set elsewhere")
        return self


class SettingsError(Exception):
    """Invalid settings. `problems` has a line for each: what to set and how, without values, which may be secrets."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read() -> Settings:
    """Read the environment, then .env, then, if embedded, the secrets file of the data directory."""
    if problems := [*_env_file_problems(Path(".env")), *_environment_problems()]:
        raise SettingsError(problems)
    try:
        deployment = Deployment()
        _pass_on_cloud_variables(Path(".env"))
        if not deployment.embedded:
            return Settings()
        stored = secrets_file.ensure(deployment.data_dir, SECRETS)
        return Settings(_env_file=(stored, ".env"))
    except ValidationError as error:
        raise SettingsError([_problem(fault) for fault in error.errors()]) from None
    except secrets_file.SecretsFileError as error:
        raise SettingsError([str(error)]) from error


def _pass_on_cloud_variables(path: Path) -> None:
    """Copy variables of the clouds from .env into the environment, where the client of DOCUMENT_STORE reads them.

    Those that are set there win, as for every setting.
    """
    for name, value in dotenv_values(path).items():
        if value and name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            os.environ.setdefault(name, value)


def _env_file_problems(path: Path) -> list[str]:
    """List what is wrong with .env as a file: type, encoding, syntax."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return [
                f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}: it must be a text file"
            ]
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path} cannot be read: {error.strerror}"]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        return [f"{path} is UTF-16 or not text: save it as UTF-8"]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return [f"{path}: line {data.count(10, 0, error.start) + 1} is not UTF-8: save the file as UTF-8"]
    bad = [binding.original for binding in parse_stream(StringIO(text)) if binding.error]
    lines = [each.line + each.string[: -len(each.string.lstrip()) or None].count("\n") for each in bad]
    return [f"{path}: line {line} is not NAME=value" for line in lines]


def _environment_problems() -> list[str]:
    """List settings that are not UTF-8, and malformed proxies, whose variable HTTP libraries would not name."""
    problems = []
    for name, value in os.environ.items():
        if name.lower() in Settings.model_fields and re.search("[\ud800-\udfff]", value):
            problems.append(f"{name}: is not UTF-8")
        check = urls.no_proxy if name.upper() == "NO_PROXY" else urls.proxy
        if value and name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            try:
                check(value)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return problems


def check_allowance(settings: Deployment) -> None:
    """Raise SettingsError if ORG_ALLOWANCE_USD is unset and the databases are not embedded."""
    if settings.org_allowance_usd is None and not settings.embedded:
        text = "may spend per month on your provider keys, such as 5, or unlimited"
        raise SettingsError(
            [f"ORG_ALLOWANCE_USD is not set; with your own database, set what each organization {text}"]
        )


def load() -> Settings:
    """Read the settings. Print problems on standard error and exit with code 2 if they are invalid."""
    try:
        return read()
    except SettingsError as error:
        refuse(error)


def refuse(error: SettingsError) -> NoReturn:
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def _problem(fault: ErrorDetails) -> str:
    name = "".join(map(str, fault["loc"][:1])).upper()  # further parts are positions in a list
    if fault["type"] == "missing":
        return f"{name} is not set; {HOW_TO_MAKE_ONE}"
    text = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
