"""The start of a server with an object store that cannot be used."""

from typing import Any

import pytest
from obstore.store import S3Store

from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings, SettingsError
from tests.support.settings import store_settings
from tests.support.stores import Stores

from .objects import keys


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("s3://no-such-bucket", {}),
        ("s3://documents", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ("az://documents", {}),
    ],
)
async def test_server_does_not_start_with_an_unusable_store(
    own_stores: Stores, bucket: S3Store, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, Any]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.model_validate(store_settings(own_stores) | {"document_store": url})
    with pytest.raises(SettingsError, match=f"DOCUMENT_STORE: {url} cannot be used: ") as raised:
        async with running(settings, migrating=True):
            pass
    assert "canary-secret" not in str(raised.value)
    assert len(raised.value.problems) == 1
    assert await keys(bucket, "check/") == []
