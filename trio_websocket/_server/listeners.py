"""The listeners of a server: opening, checking, accepting clients, and addresses."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
from typing import Iterable, Sequence

import trio

from .._io.sockets import Address, Borrowed, address, end_name, is_direct
from .._io.tls_stream import TlsStream
from .._sansio.costs import STEPS_PER_TURN
from .._sansio.options import check_ssl_context
from .._sansio.url import check_port

# The system can't open another socket, but may be able to after a while.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_RETRY_DELAY = 0.1  # seconds; trying again at once would keep the CPU busy

logger = logging.getLogger("trio-websocket")


async def open_listeners(
    host: str | bytes | None, port: int, ssl_context: ssl.SSLContext | None
) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
    """Listen on TCP. The parameters are the same as for `serve_websocket`.

    :raises TypeError: An argument has the wrong type.
    :raises ValueError: The port is out of range, or the SSL context is for clients.
    :raises OSError: The system refused. The message names the host and the port.
    """
    check_ssl_context(ssl_context)
    if ssl_context is not None and ssl_context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        hint = "use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        raise ValueError(f"ssl_context must be a context for servers, not for clients: {hint}")
    check_port(port)
    try:
        if ssl_context is None:
            return await trio.open_tcp_listeners(port, host=host)
        return await trio.open_ssl_over_tcp_listeners(port, ssl_context, host=host)
    except OSError as exc:
        raise _cannot_listen(exc, host, port) from exc


def _cannot_listen(exc: OSError, host: str | bytes | None, port: int) -> OSError:
    """Return an error like `exc`, with its type and errno, that names the host and the port."""
    where = "all addresses" if host is None else os.fsdecode(host)
    text = f"can't listen on {where}, port {port}: {exc.strerror or exc}"
    kind = socket.gaierror if isinstance(exc, socket.gaierror) else OSError
    return kind(exc.errno, text)  # OSError chooses the subclass that belongs to the errno


def check_listeners(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
) -> list[trio.abc.Listener[trio.abc.Stream]]:
    """Return the listeners that an application passed, as a list.

    :raises TypeError: They are not Trio listeners.
    :raises ValueError: There are none.
    """
    if not isinstance(listeners, Iterable):
        raise TypeError(f"listeners must be a list of Trio listeners, not {listeners!r:.100}")
    checked = list(listeners)
    for listener in checked:
        # Not isinstance(): a class of the application's own need not derive from Trio's.
        if not all(hasattr(listener, name) for name in ("accept", "aclose", "__aenter__")):
            raise TypeError(f"each of listeners must be a Trio listener, not {listener!r:.100}")
    if not checked:
        raise ValueError("listeners must not be empty: a server needs at least one")
    return checked


async def accept_clients(listener: trio.abc.Listener[trio.abc.Stream]) -> list[trio.abc.Stream]:
    """Wait for clients. Return all that have connected, the last one first.

    If the system is out of resources, log an error, and try again after a pause.
    """
    while True:
        try:
            return await accept_some(listener)
        except (OSError, MemoryError) as exc:
            if isinstance(exc, OSError) and exc.errno not in _OUT_OF_RESOURCES:
                raise
            logger.error("can't accept a connection for now: %s", exc)
            await trio.sleep(_RETRY_DELAY)


async def accept_some(listener: trio.abc.Listener[trio.abc.Stream]) -> list[trio.abc.Stream]:
    """Wait for clients. Return all that have connected, the last one first.

    :raises OSError: The system refused.
    """
    if type(listener) is trio.SocketListener and is_direct(listener.socket):
        # Accepting them one by one would take a turn of the scheduler each.
        await trio.lowlevel.wait_readable(listener.socket)
        streams = _accept_now(listener.socket)
        if streams:
            return streams
    stream = await listener.accept()  # handles errors that concern one client only
    if type(stream) is trio.SSLStream and type(stream.transport_stream) is trio.SocketStream:
        # Our TLS instead of Trio's, which has not started.
        return [TlsStream(stream.transport_stream, stream.context, server_side=True)]
    return [stream]


def _accept_now(listening: trio.socket.SocketType) -> list[trio.abc.Stream]:
    accepted: list[trio.abc.Stream] = []
    # OSError: no more clients are waiting, or listener.accept() raises the error, too.
    with contextlib.suppress(OSError), Borrowed(listening) as sock:
        while len(accepted) < STEPS_PER_TURN:
            client, _ = sock.accept()
            accepted.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
    return accepted[::-1]


def listener_address(listener: trio.abc.Listener[trio.abc.Stream]) -> Address:
    """Return the address of a listener."""
    is_ssl = isinstance(listener, trio.SSLListener)
    transport = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    if isinstance(transport, trio.SocketListener):
        name = end_name(transport.socket.family, transport.socket.getsockname())
        return address(name, is_ssl=is_ssl)
    return repr(listener)
