"""A tunnel through a SOCKS proxy, using python-socks."""

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
# The schemes with which the proxy resolves the server's name.
_SEND_NAME = frozenset({"socks4a", "socks5h"})


class _Octets(str):
    """Bytes disguised as a str, which python-socks encodes back to the same bytes.

    For an ordinary str, python-socks would use ASCII, and it would omit credentials if one was
    empty.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


def import_python_socks() -> Any:
    """Import python-socks, including its Trio support, and return the package.

    :raises ImportError: python-socks is not installed.
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
    """Open a stream to a server through a SOCKS proxy. If cancelled, no socket is left open.

    :param proxy: The proxy.
    :param host: The host of the server, in ASCII.
    :param port: The port of the server.
    :param local_address: The value of the option ``local_address``.
    :raises ProxyError: The proxy could not be reached, or it refused to open a tunnel.
    :raises ConnectionFailed: The proxy needs the server's address, and the server's name could not
        be resolved.
    """
    host = without_zone(host)
    if proxy.scheme in _SOCKS4 and ":" in host:
        text = f"can't ask {proxy.name}, for {host}: SOCKS4 has no IPv6 addresses"
        raise proxy.error(text)
    lib = import_python_socks()
    dialer = _dialer(lib, proxy)
    try:
        with UnwrappingGroups():  # Trio wraps a KeyboardInterrupt in a group
            # The only time-out is connect_timeout, which the caller applies.
            tunnel = await dialer.connect(host, port, timeout=math.inf, local_addr=local_address)
    except Exception as exc:
        failed = _failed(lib, proxy, host, port, exc)
    else:
        stream: trio.SocketStream = tunnel.trio_stream
        return stream
    try:
        # Raise outside the except block: the frames of python-socks's errors contain the password.
        raise failed
    finally:
        del failed  # break the reference cycle through the traceback


def _dialer(lib: Any, proxy: Proxy) -> Any:
    """Return python-socks's object for a proxy.

    This is a separate function so that no traceback shows the password in a local variable.
    """
    kind = lib.ProxyType.SOCKS4 if proxy.scheme in _SOCKS4 else lib.ProxyType.SOCKS5
    credentials = [_Octets(part, "latin-1") for part in proxy.credentials or ()]
    # Don't use from_url(): it rejects the schemes that send names, and drops a user name that has
    # no password.
    return lib.async_.trio.v2.Proxy(
        kind, proxy.host, proxy.port, *credentials, rdns=proxy.scheme in _SEND_NAME
    )


def _failed(lib: Any, proxy: Proxy, host: str, port: int, exc: Exception) -> ConnectionFailed:
    """Return the exception to raise for a python-socks error."""
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
    # Don't show the text of the error: it may contain the password.
    return proxy.error(f"can't ask {proxy.name}, for {server}: {type(exc).__name__}")
