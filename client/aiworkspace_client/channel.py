"""The connection to a server."""

import ipaddress
import os
import re
import socket
import weakref
from importlib import metadata

import grpc
import grpc.aio

_MIB = 1024 * 1024
_open: "weakref.WeakSet[grpc.aio.Channel]" = weakref.WeakSet()
_forked_open = False

# As hosts files have them.
_LOOPBACK_NAMES = {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
_SCHEME = re.compile(r"^(dns:(//[^/]*/)?|ipv[46]:)")


def is_loopback(target: str) -> bool:
    """Return whether the target is on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = _SCHEME.sub("", target).rpartition(":")[0].strip("[]").lower().rstrip(".")
    try:
        # The system also accepts short forms such as 127.1.
        address = ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host)) if ":" not in host else host)
    except (OSError, ValueError):
        return host in _LOOPBACK_NAMES
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def open_channel(target: str, *, tls: bool | None, root_certificates: bytes | None) -> grpc.aio.Channel:
    """Open a channel on the running event loop. tls=None means TLS for targets on other machines."""
    if _forked_open:
        raise RuntimeError(
            "This process was forked while a client was connected, which gRPC does not survive. "
            "Close clients before forking, use them only afterwards, or start processes with spawn."
        )
    options = _options(target)
    if tls is None:
        tls = root_certificates is not None or not is_loopback(target)
    if tls:
        channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root_certificates), options)
    else:
        channel = grpc.aio.insecure_channel(target, options)
    _open.add(channel)
    return channel


async def close_channel(channel: grpc.aio.Channel) -> None:
    """Close the channel and cancel its calls."""
    await channel.close()
    _open.discard(channel)


def _after_fork() -> None:
    """Mark the channels of a forked process as unusable: their calls would hang for ever."""
    global _forked_open
    _forked_open = bool(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _options(target: str) -> list[tuple[str, int | str]]:
    return [
        ("grpc.primary_user_agent", f"aiworkspace-python/{_version()}"),
        ("grpc.max_receive_message_length", 8 * _MIB),
        # Pings detect a dead connection under an open stream. Idle connections need none.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        # A proxy from the environment cannot reach this machine's loopback.
        ("grpc.enable_http_proxy", int(not is_loopback(target))),
    ]


def _version() -> str:
    try:
        return metadata.version("aiworkspace")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"
