"""Settings: what is read from where, and what is refused without being shown."""

import os
import re
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from aiworkspace_server import secrets_file
from aiworkspace_server.settings import SECRETS, Deployment, Settings, SettingsError, check_allowance, load, read
from aiworkspace_server.urls import is_loopback

ROOT = Path(__file__).parents[2]
STRONG = {name.upper(): secrets.token_urlsafe(48) for name in SECRETS}
EXTERNAL = {"DATABASE_URL": "postgresql://u:p@db/app", "MONGO_URI": "mongodb://u:p@db/app", **STRONG}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine, no .env, an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def is_number(annotation: object) -> bool:
    return annotation in (int, float) or Decimal in get_args(annotation)


def problems() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read()
    return caught.value.problems


def test_embedded_makes_its_secrets_once() -> None:
    first, second = read(), read()
    assert first.embedded
    assert first == second
    assert len({getattr(first, name).get_secret_value() for name in SECRETS}) == len(SECRETS)


def test_secrets_file_is_private() -> None:
    previous = os.umask(0)
    try:
        read()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(Path(".data").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(".data/secrets.env").stat().st_mode) == 0o600
    assert os.listdir(".data") == ["secrets.env"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secrets_file_that_others_can_read_is_refused(mode: int) -> None:
    read()
    Path(".data/secrets.env").chmod(mode)
    assert "chmod 600" in problems()[0]


def test_secrets_file_that_is_a_link_is_refused() -> None:
    read()
    Path(".data/secrets.env").rename("elsewhere")
    Path(".data/secrets.env").symlink_to(Path("elsewhere").absolute())
    assert "not a regular file" in problems()[0]


def test_servers_that_start_together_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda _: secrets_file.ensure(tmp_path / "d", SECRETS).read_text(), range(64)))
    assert len(set(paths)) == 1
    assert os.listdir(tmp_path / "d") == ["secrets.env"]


def _age(path: Path) -> str:
    """Makes the file one of a version that knew one secret less. Returns what it holds."""
    text = "".join(line for line in path.read_text().splitlines(True) if not line.startswith("ENCRYPTION_SECRET="))
    path.write_text(text.rstrip("\n"))
    return text


def test_a_secrets_file_of_an_older_version_is_completed_and_keeps_what_it_has() -> None:
    first = read()
    path = Path(".data/secrets.env")
    old = _age(path)
    second = read()
    assert path.read_text().startswith(old)
    assert second.jwt_secret == first.jwt_secret
    assert second.encryption_secret != first.encryption_secret
    assert second == read()
    assert (stat.S_IMODE(path.stat().st_mode), os.listdir(".data")) == (0o600, ["secrets.env"])


def test_servers_that_start_together_complete_it_once(tmp_path: Path) -> None:
    old = _age(secrets_file.ensure(tmp_path / "d", SECRETS))
    with ThreadPoolExecutor(16) as pool:
        texts = set(pool.map(lambda _: secrets_file.ensure(tmp_path / "d", SECRETS).read_text(), range(64)))
    (text,) = texts
    assert text.startswith(old)
    assert text.count("ENCRYPTION_SECRET=") == 1
    assert os.listdir(tmp_path / "d") == ["secrets.env"]


def test_data_dir_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("DATA_DIR", "file/data")
    assert problems() == ["DATA_DIR: file/data/secrets.env cannot be used: Not a directory"]
    monkeypatch.setenv("DATA_DIR", "file")
    assert problems() == ["DATA_DIR: file is not a directory"]


def test_environment_goes_before_dotenv_before_the_secrets_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read()
    Path(".env").write_text(f"PORT=1\nLOG_LEVEL=error\nJWT_SECRET={STRONG['JWT_SECRET']}\n")
    monkeypatch.setenv("PORT", "2")
    settings = read()
    assert (settings.port, settings.log_level) == (2, "error")
    assert settings.jwt_secret.get_secret_value() == STRONG["JWT_SECRET"]


def test_external_demands_every_secret_and_makes_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, EXTERNAL | dict.fromkeys(STRONG, ""))
    assert problems() == [f"{name} is not set; make one with: openssl rand -base64 48" for name in STRONG]
    assert not Path(".data").exists()


def test_external(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, EXTERNAL)
    settings = read()
    assert not settings.embedded
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://u:p@db/app"
    assert not any(value in repr(settings) for value in EXTERNAL.values())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("JWT_SECRET", "s3cr3t", "shorter than 32"),
        ("JWT_SECRET", "k" * 64, "repeats itself"),
        ("JWT_SECRET", "abcdefgh1234" * 4, "repeats itself"),
        ("JWT_SECRET", "changeme" * 5, "repeats itself"),
        ("JWT_SECRET", "your-256-bit-secret-your-512-bit-secret", "placeholder"),
        ("PASSWORD_PEPPER", "Replace this with your long random string!", "placeholder"),
        ("JWT_REFRESH_SECRET", "super_secret_refresh_token_key_change_me_in_production", "placeholder"),
        ("JWT_OTHER_SECRETS", "s3cr3t", "shorter than 32"),
        ("JWT_OTHER_SECRETS", f"{STRONG['JWT_SECRET'][::-1]}, {'k' * 64}", "repeats itself"),
        ("ENCRYPTION_SECRET", "s3cr3t", "shorter than 32"),
        ("ENCRYPTION_OTHER_SECRETS", "changeme" * 5, "repeats itself"),
        ("JWT_REFRESH_OTHER_SECRETS", "your-256-bit-secret-your-512-bit-secret", "placeholder"),
        ("PORT", "65536", "less than or equal"),
        ("PORT", "http", "valid integer"),
        ("PASSWORD_HASH_COST", "9", "greater than or equal"),
        ("RUN_SECONDS", "0", "greater than 0"),
        ("RUN_SECONDS", "inf", "finite"),
        ("LOG_FORMAT", "xml", "'auto', 'console' or 'json'"),
        ("DATABASE_URL", "mysql://u:hunter2@db/app", "postgresql://"),
        ("MONGO_URI", "postgresql://u:hunter2@db/app", "mongodb://"),
        ("REDIS_URL", "http://:hunter2@db", "redis://"),
        ("SMTP_PORT", "0", "greater than"),
        ("SMTP_TLS", "ssl", "'starttls', 'tls' or 'none'"),
        ("MAIL_FROM", "nobody at all", "must be an address"),
        ("MAIL_FROM", "a@example.com\r\nBcc: b@example.com", "must be an address"),
        ("MAIL_FROM", " ", "must be an address"),
        ("MAIL_FROM", "postgresql://u:hunter2@@db/app", "must be an address"),
        ("MAIL_FROM", "https://me:hunter2@example.com", "must be an address"),
        ("HOST", "http://127.0.0.1", "must be a host name"),
        ("HOST", "127.0.0.1:50051", "must be a host name"),
        ("HOST", "*", "must be a host name"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, hunter2", "must be addresses or networks"),
        ("TRUSTED_PROXIES", "10.1.2.3/8", "zeros after the prefix"),
        ("ORG_ALLOWANCE_USD", "5 USD", "must be an amount in USD, such as 100 or 2.50, or unlimited"),
        ("OPENAI_API_KEY", "sk-canary-ä", "characters that no key has"),
        ("ANTHROPIC_API_KEY", "sk canary", "characters that no key has"),
        ("DEEPSEEK_API_KEY", "sk-canary\nsk-canary", "characters that no key has"),
        ("LOCAL_MODEL_API_KEY", "“sk-canary”", "characters that no key has"),
        ("PUBLIC_URL", "javascript:alert(1)", "must begin with http://"),
        ("OPENAI_BASE_URL", "file:///etc/passwd", "must begin with http://"),
        ("DOCUMENT_STORE", "file:///tmp/documents", "must begin with s3:// or gs:// or az://"),
        ("DOCUMENT_STORE", "s3:///prefix", "must name a bucket or container"),
        ("DOCUMENT_STORE", "s3://key:secret@bucket/prefix", "must name a bucket or container"),
        ("DOCUMENT_STORE", "s3://bucket:9000/prefix", "must name a bucket or container"),
        ("DOCUMENT_STORE", "s3://bucket/a//b", "must have a prefix of letters, digits"),
        ("DOCUMENT_STORE", "s3://bucket/prefix?region=x", "must have a prefix of letters, digits"),
        ("DOCUMENT_STORE", "gs://bucket/a/../b", "must not have . or .."),
        ("CLAMD_ADDRESS", "clamd.example", "must be host:port"),
        ("CLAMD_ADDRESS", "tcp://clamd.example:3310", "must be host:port"),
        ("CLAMD_ADDRESS", "clamd.example:99999", "must be host:port"),
        ("CLAMD_ADDRESS", "::1:3310", "must be host:port"),
        ("CLAMD_ADDRESS", "run/clamd.ctl", "must be host:port"),
    ],
)
def test_refused_by_name_but_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    set_all(monkeypatch, EXTERNAL | {name: value})
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert says in problem
    assert len(value) < 5 or value not in problem


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if is_number(field.annotation)])
def test_number_beyond_what_clocks_and_databases_hold_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name.upper(), "99999999999999999999")
    (problem,) = problems()
    assert problem.startswith(f"{name.upper()}: ")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://my-bucket", "s3://my-bucket"),
        ("gs://my_bucket.example/", "gs://my_bucket.example"),
        ("az://container/a/b.c_d=e/", "az://container/a/b.c_d=e"),
        ("S3://bucket//a/", "s3://bucket/a"),
    ],
)
def test_document_store_is_kept_in_one_spelling(monkeypatch: pytest.MonkeyPatch, given: str, kept: str) -> None:
    monkeypatch.setenv("DOCUMENT_STORE", given)
    assert read().document_store == kept


def test_cloud_variables_of_env_file_reach_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS", "OTHER_VARIABLE"]
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "of-the-environment")
    Path(".env").write_text("AWS_REGION=of-the-file\nAWS_ACCESS_KEY_ID='canary'\nOTHER_VARIABLE=x\n")
    read()
    assert [os.environ.get(name) for name in names] == ["of-the-environment", "canary", None, None]


def test_spaces_around_a_key_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-canary\n")
    key = read().openai_api_key
    assert key
    assert key.get_secret_value() == "sk-canary"


@pytest.mark.parametrize(
    ("one", "other"),
    [("DATABASE_URL", "MONGO_URI"), ("TLS_CERT_FILE", "TLS_KEY_FILE"), ("SMTP_USERNAME", "SMTP_PASSWORD")],
)
def test_both_or_neither(monkeypatch: pytest.MonkeyPatch, one: str, other: str) -> None:
    monkeypatch.setenv(one, "postgresql://db/app")
    assert problems() == [f"set both {one} and {other}, or neither"]


def test_a_mail_server_needs_a_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_HOST", "mail.example.com")
    assert problems() == ["MAIL_FROM is not set; with SMTP_HOST mail needs a sender"]


@pytest.mark.parametrize(
    ("host", "tls", "fine"),
    [
        ("127.0.0.1", "none", True),
        ("::1", "none", True),
        ("localhost", "none", True),
        ("127.0.0.1.example.com", "none", False),
        ("10.0.0.1", "none", False),
        ("mail.example.com", "none", False),
        ("mail.example.com", "starttls", True),
        ("mail.example.com", "tls", True),
    ],
)
def test_a_mail_password_is_not_sent_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, host: str, tls: str, fine: bool
) -> None:
    own = {"SMTP_HOST": host, "SMTP_TLS": tls, "SMTP_USERNAME": "u", "SMTP_PASSWORD": "hunter2"}
    set_all(monkeypatch, own | {"MAIL_FROM": "AI Workspace <noreply@example.com>"})
    if fine:
        assert "hunter2" not in repr(read())
    else:
        assert problems() == ["SMTP_TLS=none would send SMTP_PASSWORD in the clear; use starttls or tls"]


def test_secrets_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, EXTERNAL | {"PASSWORD_PEPPER": STRONG["JWT_SECRET"]})
    (problem,) = problems()
    assert "must differ" in problem


@pytest.mark.parametrize("name", ["JWT_OTHER_SECRETS", "JWT_REFRESH_OTHER_SECRETS", "ENCRYPTION_OTHER_SECRETS"])
@pytest.mark.parametrize("repeated", STRONG)
def test_other_secrets_differ_from_all_that_are_set(monkeypatch: pytest.MonkeyPatch, name: str, repeated: str) -> None:
    new = secrets.token_urlsafe(48)
    for value in (f"{new} {STRONG[repeated]}", f"{new},{new}"):
        set_all(monkeypatch, EXTERNAL | {name: value})
        (problem,) = problems()
        assert "must not repeat" in problem
        assert new not in problem


def test_the_secret_that_a_private_key_took_over_from_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, EXTERNAL | {"JWT_PRIVATE_KEY_FILE": "key.pem", "JWT_OTHER_SECRETS": STRONG["JWT_SECRET"]})
    assert read().jwt_other_secrets == (read().jwt_secret,)


@pytest.mark.parametrize("separator", [" ", ",", ", ", " , "])
def test_lists_are_separated_by_spaces_or_commas(monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    new = [secrets.token_urlsafe(48) for _ in range(3)]
    others = {"JWT_OTHER_SECRETS": separator.join(new), "JWT_OTHER_KEY_FILES": separator.join(["a.pem", "b.pem"])}
    set_all(monkeypatch, EXTERNAL | others)
    settings = read()
    assert [secret.get_secret_value() for secret in settings.jwt_other_secrets or ()] == new
    assert settings.jwt_other_key_files == (Path("a.pem"), Path("b.pem"))
    assert not any(secret in repr(settings) for secret in new)


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, dict.fromkeys(map(str.upper, Settings.model_fields), ""))
    assert read().port == 50051


def test_load_lists_the_problems_and_exits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_all(monkeypatch, {"PORT": "x", "PASSWORD_HASH_COST": "99"})
    with pytest.raises(SystemExit) as caught:
        load()
    assert caught.value.code == 2
    assert [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()] == [
        "PORT",
        "PASSWORD_HASH_COST",
    ]


def test_env_example_names_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^# .+\n([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert shown.keys() == {name.upper() for name in Settings.model_fields}
    assert Deployment(_env_file=ROOT / ".env.example") == (defaults := Deployment())
    assert {name for name, value in shown.items() if value} == {
        name.upper() for name, value in defaults if value is not None
    }


def test_configuration_page_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    shown: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]*)\|", page, re.MULTILINE):
        each = [default.strip().strip("`") for default in defaults.strip().partition(";")[0].split(",")]
        found = re.findall(r"[A-Z_]+", names)
        shown |= dict(zip(found, each if len(each) == len(found) else each * len(found), strict=True))
    assert shown.keys() == {name.upper() for name in Settings.model_fields}
    # Those whose default depends on whether the databases are embedded, or is that of another setting, a provider or a
    # model.
    described = {
        *("MIGRATION_DATABASE_URL", "JWT_SECRET", "JWT_REFRESH_SECRET", "PASSWORD_PEPPER", "ENCRYPTION_SECRET"),
        *("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "DEEPSEEK_BASE_URL"),
        *("ORG_ALLOWANCE_USD", "REQUIRE_VERIFIED_EMAIL", "REGISTRATION"),
        *("EMBEDDING_MODEL", "EMBEDDING_BASE_URL", "EMBEDDING_API_KEY", "EMBEDDING_DIMENSION", "EMBEDDING_WINDOW"),
    }
    plain = {name: default for name, default in shown.items() if default and name not in described}
    expected = Deployment()
    assert plain.keys() | described >= {name.upper() for name, value in expected if value is not None}
    set_all(monkeypatch, plain)
    assert Deployment() == expected


# Addresses that are malformed

SECRET = "canary-password"


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "LOCAL_MODEL_BASE_URL", "PUBLIC_URL"])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("api.example.com/v1", "must begin with http:// or https://"),
        ("localhost:11434/v1", "must begin with http:// or https://"),
        ("https:/api.example.com", "must begin with"),
        ("https://", "has no valid host"),
        ("https:///v1", "has no valid host"),
        ("http://:8080/v1", "has no valid host"),
        ("http://host:99999/v1", "has no valid host and port"),
        ("http://host:port/v1", "has no valid host and port"),
        ("http://host:-1/v1", "has no valid host and port"),
        ("http://[::1/v1", "has no valid host"),
        ("http://::1/v1", "has no valid host"),
        ("http://[host]/v1", "has no valid host"),
        ("http://127.1/v1", "has no valid host"),
        ("http://999.1.1.1/v1", "has no valid host"),
        ("http://ho$t/v1", "has no valid host"),
        ("http://a..b/v1", "has no valid host"),
        ("https://api example.com/v1", "must not have spaces"),
        ("https://api.example.com/v1 ", "must not have spaces"),
        ("https://api.example.com/\tv1", "must not have spaces"),
        ("https://https://api.example.com/v1", "has no valid host|two slashes"),
        ("https://api.example.com//v1", "two slashes"),
        ("https://api.example.com\\v1", "has no valid host|backslash"),
        (f"https://me:{SECRET}@api.example.com/v1", "must not have a user name or a password"),
        (f"https://{SECRET}@api.example.com/v1", "must not have a user name or a password"),
        (f"https://api.example.com/v1?key={SECRET}", "must not have a query"),
        (f"https://api.example.com/v1#{SECRET}", "must not have a query or a fragment"),
    ],
)
def test_malformed_base_url_is_named(monkeypatch: pytest.MonkeyPatch, name: str, url: str, says: str) -> None:
    monkeypatch.setenv(name, url)
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert re.search(says, problem)
    assert SECRET not in problem
    assert "example" not in problem


@pytest.mark.parametrize(
    "url",
    [
        *("https://api.example.com/v1", "http://localhost:11434/v1/", "HTTP://10.0.0.1", "http://[::1]:8080/v1"),
        *("http://my_container:80", "https://xn--bcher-kva.example", "https://bücher.example/a/b", "http://[fe80::1%eth0]"),
    ],
)  # fmt: skip
def test_well_formed_base_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert read().openai_base_url == url


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        ("DATABASE_URL", f"postgresql://u:{SECRET}@db:port/app", "is malformed"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@db:99999/app", "has no valid host and port"),
        ("DATABASE_URL", f"postgresql://u:p@ss{SECRET}@db/app", "percent-encoded"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@[::1/app", "is malformed"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@db/app?sslmod=require", "is malformed"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@db/ap p", "must not have spaces"),
        ("DATABASE_URL", f"postgres:u:{SECRET}@db", "must begin with postgresql://"),
        ("MIGRATION_DATABASE_URL", f"postgresql://u:{SECRET}@db:port/app", "is malformed"),
        ("MONGO_URI", f"mongodb://u:{SECRET}@db:port/app", "is malformed"),
        ("MONGO_URI", f"mongodb://u:{SECRET}@db:99999/app", "is malformed"),
        ("MONGO_URI", f"mongodb://u:p@ss{SECRET}@db/app", "percent-encoded"),
        ("MONGO_URI", f"mongodb://u:{SECRET}/x@db/app", "percent-encoded"),
        ("MONGO_URI", f"mongodb://u:{SECRET}@db", "names no database"),
        ("MONGO_URI", f"mongodb://u:{SECRET}@/app", "is malformed"),
        ("MONGO_URI", f"mongodb://u:{SECRET}@db/app?replicaset", "is malformed"),
        ("MONGO_URI", f"mongodb+srv://u:{SECRET}@db.example.com:27017/app", "is malformed"),
        ("REDIS_URL", "localhost:6379", "must begin with redis://"),
        ("REDIS_URL", f"redis://:{SECRET}@db:port/0", "is malformed"),
        ("REDIS_URL", f"redis://:{SECRET}@db:99999/0", "is malformed"),
        ("REDIS_URL", f"redis://:pa#{SECRET}@db:6379/0", "is malformed|number of a database"),
        ("REDIS_URL", f"redis://:{SECRET}@db/app", "the number of a database"),
        ("REDIS_URL", f"redis://:{SECRET}@db/0?timeout=1", "is malformed"),
        ("REDIS_URL", f"redis://:{SECRET}@db/0?socket_timeout=soon", "is malformed"),
        ("REDIS_URL", "unix://", "names no socket"),
        ("SMTP_HOST", "smtp://mail.example.com", "must be a host name"),
        ("SMTP_HOST", "mail.example.com:25", "must be a host name"),
        ("SMTP_HOST", "mail example.com", "must be a host name"),
    ],
)
def test_malformed_address_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, says: str
) -> None:
    set_all(monkeypatch, EXTERNAL | {"MAIL_FROM": "a@example.com", name: url})
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert re.search(says, problem)
    assert SECRET not in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://u:p%40ss%2Fw@db:5432/app?sslmode=require"),
        ("DATABASE_URL", "postgresql://u:p/s#s%25@db/app"),
        ("DATABASE_URL", "postgres:///app?host=%2Frun%2Fpostgresql"),
        ("DATABASE_URL", "postgresql+psycopg://u@[::1]:5432/app"),
        ("MONGO_URI", "mongodb://u:p%40ss@a:1,b:2,c:3/app?replicaSet=rs&authSource=admin"),
        ("MONGO_URI", "mongodb+srv://u:p@cluster.example.com/app"),
        ("MONGO_URI", "mongodb://%2Ftmp%2Fmongo.sock/app?directConnection=true"),
        ("REDIS_URL", "redis://:p%40ss@db:6379/1"),
        ("REDIS_URL", "rediss://user:pw@db"),
        ("REDIS_URL", "unix:///run/redis.sock?db=1"),
        ("SMTP_HOST", "mail.example.com"),
        ("SMTP_HOST", "::1"),
    ],
)
def test_well_formed_address_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    set_all(monkeypatch, EXTERNAL | {"MAIL_FROM": "a@example.com", name: url})
    assert getattr(read(), name.lower())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "::1"])
def test_loopback_is_recognized(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "2001:db8::1"])
def test_what_is_not_loopback_is_recognized(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HTTPS_PROXY", f"ftp://u:{SECRET}@proxy", "must begin with http://"),
        ("http_proxy", f"http://u:{SECRET}@proxy:port", "has no valid host and port"),
        ("ALL_PROXY", "http://[::1", "has no valid host"),
        ("HTTPS_PROXY", "http://", "has no valid host"),
        ("NO_PROXY", "localhost,[::1", "has no valid host"),
    ],
)
def test_proxy_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert says in problem
    assert SECRET not in problem


@pytest.mark.parametrize("value", ["proxy:3128", "http://u:p@proxy:3128", "socks5://127.0.0.1:9", "https://[::1]:1"])
def test_proxies_are_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    set_all(
        monkeypatch, {"HTTPS_PROXY": value, "NO_PROXY": "localhost,127.0.0.1,::1,[::1]:80,10.0.0.0/8,fd00::/8,.a,*"}
    )
    assert read()


# Files that editors leave


LINE = "MAIL_FROM=Käthe <kaethe@example.com>\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_env_file_in_utf_8_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes(LINE.replace("\n", "\r\n").encode(encoding))
    assert read().mail_from == "Käthe <kaethe@example.com>"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LINE.encode("utf-16"), ".env is UTF-16 or not text: save it as UTF-8"),
        (LINE.encode("utf-16-le"), ".env is UTF-16 or not text: save it as UTF-8"),
        (LINE.encode("utf-32"), ".env is UTF-16 or not text: save it as UTF-8"),
        (b"A=1\n\0B=2\n", ".env is UTF-16 or not text: save it as UTF-8"),
        (f"A=1\n{LINE}".encode("latin-1"), ".env: line 2 is not UTF-8: save the file as UTF-8"),
        (f"# Schlüssel\n{LINE}".encode("cp1252"), ".env: line 1 is not UTF-8: save the file as UTF-8"),
        (b"A=1\nB = sk canary = 'x\n", ""),
        (b"A=1\n\n= sk-canary\n", ".env: line 3 is not NAME=value"),
        (b"A='sk-canary\n", ".env: line 1 is not NAME=value"),
    ],
)
def test_env_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    if says:
        assert problems() == [says]
    else:
        assert read()


def test_env_file_that_is_a_directory_or_a_pipe_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert problems() == [".env is a directory: it must be a text file"]
    (tmp_path / ".env").rmdir()
    os.mkfifo(tmp_path / ".env")
    assert problems() == [".env is not a regular file: it must be a text file"]


def test_env_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("A=1\n")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert problems() == [".env cannot be read: Permission denied"]


def test_secrets_file_in_another_encoding_is_named() -> None:
    read()
    path = Path(".data/secrets.env")
    path.write_bytes(path.read_text().encode("utf-16"))
    (problem,) = problems()
    assert "secrets.env is not UTF-8" in problem


def test_setting_that_is_not_utf_8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET", "OPENAI_API_KEY", "OPENAI_BASE_URL", "DATA_DIR", "SMTP_HOST", "MAIL_FROM"):
        with monkeypatch.context() as patch:
            patch.setenv(name, os.fsdecode(b"caf\xe9" * 10))
            (problem,) = problems()
            assert problem.startswith(f"{name}: ")


# What organizations may spend on the server's keys


def test_a_way_past_a_pooler_needs_a_pooler() -> None:
    with pytest.raises(ValidationError, match="is for a pooler in DATABASE_URL, which is not set"):
        Deployment.model_validate({"database_direct_url": "postgresql://a@b/c"})


def test_the_allowance_is_5_usd_on_a_laptop() -> None:
    assert Deployment().allowance_nanos == 5 * 10**9


@pytest.mark.parametrize(
    ("text", "nanos"), [("0", 0), ("2.50", 2_500_000_000), ("100", 10**11), ("unlimited", None), ("Unlimited", None)]
)
def test_the_allowance_is_an_amount_or_unlimited(text: str, nanos: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORG_ALLOWANCE_USD", text)
    assert Deployment().allowance_nanos == nanos


@pytest.mark.parametrize("text", ["-1", "5 USD", "inf", "nan", "0.0000000001", "none"])
def test_an_allowance_that_is_no_amount_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORG_ALLOWANCE_USD", text)
    with pytest.raises(SettingsError, match="ORG_ALLOWANCE_USD"):
        read()


def test_databases_of_ones_own_demand_an_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    check_allowance(read())
    set_all(monkeypatch, EXTERNAL)
    with pytest.raises(SettingsError, match="ORG_ALLOWANCE_USD is not set; with your own database, set what"):
        check_allowance(read())
    monkeypatch.setenv("ORG_ALLOWANCE_USD", "unlimited")
    check_allowance(read())
