"""Settings: what is read from where, and what is refused without being shown."""

import os
import re
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiworkspace_server import secrets_file
from aiworkspace_server.settings import SECRETS, Deployment, Settings, SettingsError, load, read

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
    assert problems() == ["file/data/secrets.env cannot be used: Not a directory"]


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
        ("PUBLIC_URL", "javascript:alert(1)", "match pattern"),
        ("OPENAI_BASE_URL", "file:///etc/passwd", "match pattern"),
    ],
)
def test_refused_by_name_but_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    set_all(monkeypatch, EXTERNAL | {name: value})
    (problem,) = problems()
    assert problem.startswith(f"{name}: ")
    assert says in problem
    assert len(value) < 5 or value not in problem


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
