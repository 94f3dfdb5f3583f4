"""A tunnel through a SOCKS proxy, by python-socks."""

from __future__ import annotations

import math
from typing import Any

import trio

from .._io.groups import UnwrappingGroups
from .._sansio.errors import ConnectionFailed, printable
from .._sansio.proxy import Proxy
from .._sansio.url import bracketed, without_zone
from .failures import connection_failed

_SOCKS4 = frozenset({"socks4", "socks4a"})
# The schemes where the proxy looks up the name of the server.
_SEND_NAME = frozenset({"socks4a", "socks5h"})


class _Octets(str):
    """Bytes as a str that python-socks encodes as the same bytes.

    python-socks encodes credentials as ASCII, and does not send them if one of them is empty.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


def import_python_socks() -> Any:
    """Return the package, with its part for Trio.

    :raises ImportError: It is not installed.
    """
    try:
        import python_socks.async_.trio.v2  # noqa: PLC0415 # an optional dependency
    except ImportError as exc:
        text = "a SOCKS proxy needs python-socks: pip install trio-websocket[proxy]"
        raise ImportError(text) from exc
    return python_socks


async def open_socks_stream(
    proxy: Proxy, host: str, port: int, local_address: str | None
) -> trio.SocketStream:
    """Open a stream to a server through a SOCKS proxy. If cancelled, no socket is left.

    :param proxy: The proxy.
    :param host: The host of the server, in ASCII.
    :param port: The port of the server.
    :param local_address: The option of this name.
    :raises ProxyError: The proxy could not be reached, or it refused.
    :raises ConnectionFailed: The name of the server was not found, and the proxy needs an address.
    """
    host = without_zone(host)
    if proxy.scheme in _SOCKS4 and ":" in host:
        text = f"can't ask {proxy.name}, for {host}: SOCKS4 has no IPv6 addresses"
        raise proxy.error(text)
    lib = import_python_socks()
    dialer = _dialer(lib, proxy)
    try:
        with UnwrappingGroups():  # Trio puts a KeyboardInterrupt into a group
            # connect_timeout is the only time-out.
            tunnel = await dialer.connect(host, port, timeout=math.inf, local_addr=local_address)
    except Exception as exc:
        failed = _failed(lib, proxy, host, port, exc)
    else:
        stream: trio.SocketStream = tunnel.trio_stream
        return stream
    try:
        # Not in the except block: the frames of python-socks's errors contain the password.
        raise failed
    finally:
        del failed  # break the reference cycle through the traceback


def _dialer(lib: Any, proxy: Proxy) -> Any:
    """Return the object of python-socks for a proxy.

    This is a function of its own so that no traceback shows the password among local variables.
    """
    kind = lib.ProxyType.SOCKS4 if proxy.scheme in _SOCKS4 else lib.ProxyType.SOCKS5
    credentials = [_Octets(part, "latin-1") for part in proxy.credentials or ()]
    # Not from_url(): it refuses the schemes that send names, and drops a user without a password.
    return lib.async_.trio.v2.Proxy(
        kind, proxy.host, proxy.port, *credentials, rdns=proxy.scheme in _SEND_NAME
    )


def _failed(lib: Any, proxy: Proxy, host: str, port: int, exc: Exception) -> ConnectionFailed:
    """Return the error to raise for an error of python-socks."""
    server = f"{bracketed(host)}:{port}"
    if isinstance(exc, lib.ProxyConnectionError):
        cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
        return connection_failed(f"can't connect to {proxy.name}", cause, proxy=proxy)
    if isinstance(exc, lib.ProxyError):
        code = exc.error_code
        text = f"{proxy.name}, did not open a tunnel to {server}: {printable(str(exc))}"
        return proxy.error(text, socks_reply=None if code is None else int(code))
    if isinstance(exc, trio.BrokenResourceError):
        what = f"the connection to {proxy.name}, was lost before it answered"
        return connection_failed(what, exc, proxy=proxy)
    if isinstance(exc, OSError):
        return connection_failed(f"can't find the address of {host}", exc)
    # The text may contain the password.
    return proxy.error(f"can't ask {proxy.name}, for {server}: {type(exc).__name__}")
