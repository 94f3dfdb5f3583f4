"""Opening a TCP connection to a server or a proxy."""

from __future__ import annotations

from typing import Any

import trio

from .._io.groups import UnwrappingGroups
from .failures import connection_failed
from .options import ClientOptions


async def open_tcp(host: str, port: int, options: ClientOptions) -> trio.SocketStream:
    """Open a TCP stream. If cancelled, no socket is left.

    :raises ConnectionFailed: The network prevented it.
    """
    # Not passed if not given: an application's test may replace Trio's function by a simpler one.
    keywords: dict[str, Any] = {}
    if options.local_address is not None:
        keywords["local_address"] = options.local_address
    try:
        with UnwrappingGroups():  # in case of a KeyboardInterrupt, which Trio puts into a group
            return await trio.open_tcp_stream(host, port, **keywords)
    except OSError as exc:
        raise connection_failed(f"can't connect to {host}, port {port}", exc)  # noqa: B904 # has its cause
