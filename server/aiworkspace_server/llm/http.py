"""HTTP clients for providers. They use the proxy of the environment, except for addresses of this machine."""

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
    """Return an HTTP client for one server, built by `make`.

    Loopback addresses never use a proxy, whatever NO_PROXY says: it could not reach them, and messages to a local model
    must not leave the machine.
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
        raise SettingsError([f"{names}: one of them is invalid"]) from None
