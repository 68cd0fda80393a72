"""HTTP clients for providers: through the proxy of the environment, except to this machine itself."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2

from aiworkspace_server.settings import SettingsError
from aiworkspace_server.urls import is_loopback

from .clock import Clocks
from .wire import limit_errors, no_cookies

ClientT = TypeVar("ClientT")


def http_client(make: Callable[..., ClientT], base_url: str, clocks: Clocks) -> ClientT:
    """Return the SDK's kind of client, as `make` builds it, for one server.

    A proxy cannot reach what listens on this machine's loopback, whatever NO_PROXY says; and what is said to a local
    model is meant to stay here.
    """
    host = urlsplit(base_url).hostname or ""
    shown = f"[{host}]" if ":" in host else host
    mounts = {f"all://{shown}": None} if is_loopback(host) else {}
    try:
        hooks = {"response": [limit_errors(clocks.error_seconds)]}
        return make(follow_redirects=False, cookies=no_cookies(), mounts=mounts, event_hooks=hooks)
    except OSError as error:  # an SSL error is one
        problem = f"cannot be loaded: {error.strerror or 'no certificates'}"
        raise SettingsError([f"SSL_CERT_FILE or SSL_CERT_DIR: {problem}"]) from None
    except (ValueError, httpx2.InvalidURL):
        names = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"
        raise SettingsError([f"{names}: one of them cannot be used as it is"]) from None
