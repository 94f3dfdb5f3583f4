"""Open a TCP connection to a server or a proxy."""

from __future__ import annotations

from typing import Any

import trio

from .._io.groups import UnwrappingGroups
from .._sansio.proxy import Proxy
from .failures import connection_failed


async def open_tcp(
    host: str, port: int, local_address: str | None, proxy: Proxy | None = None
) -> trio.SocketStream:
    """Open a TCP stream. If cancelled, no socket is left open.

    :param host: The host of the server, or of the proxy.
    :param port: The port of the server, or of the proxy.
    :param local_address: The value of the option ``local_address``.
    :param proxy: The proxy, if the stream is to a proxy.
    :raises ConnectionFailed: A network error prevented the connection.
    """
    # Don't pass None: an application's test may replace Trio's function with a simpler one.
    keywords: dict[str, Any] = {}
    if local_address is not None:
        keywords["local_address"] = local_address
    try:
        with UnwrappingGroups():  # Trio wraps a KeyboardInterrupt in a group
            return await trio.open_tcp_stream(host, port, **keywords)
    except OSError as exc:
        name = f"{host}, port {port}" if proxy is None else proxy.name
        raise connection_failed(f"can't connect to {name}", exc, proxy=proxy)  # noqa: B904 # the cause is set
