"""The listeners of a server: their addresses, and the clients that come from them."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Iterable, Sequence

import trio

from .._io.pacing import FAIRNESS
from .._io.sockets import Address, Borrowed, address, end_name, is_direct
from .._io.tls import TlsStream


def check_port(port: object) -> None:
    if not isinstance(port, int):
        raise TypeError(f"port must be an int, not {port!r:.100}")
    if not 0 <= port < 2**16:
        raise ValueError(f"port must be between 0 and 65535, not {port}")


def cannot_listen(exc: OSError, host: str | bytes | None, port: int) -> OSError:
    """Return an error like `exc`, with its type and errno, that names the host and the port."""
    where = "all addresses" if host is None else os.fsdecode(host)
    text = f"can't listen on {where}, port {port}: {exc.strerror or exc}"
    kind = socket.gaierror if isinstance(exc, socket.gaierror) else OSError
    return kind(exc.errno, text)  # OSError chooses the subclass that belongs to the errno


def checked_listeners(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
) -> list[trio.abc.Listener[trio.abc.Stream]]:
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


async def accept(listener: trio.abc.Listener[trio.abc.Stream]) -> list[trio.abc.Stream]:
    """Wait for a client; all that have come, the last one first."""
    if type(listener) is trio.SocketListener and is_direct(listener.socket):
        # One by one, each would take a turn of the scheduler, which is long where many are served.
        await trio.lowlevel.wait_readable(listener.socket)
        streams = _accept_now(listener.socket)
        if streams:
            return streams
    stream = await listener.accept()  # which knows what to do about errors
    if type(stream) is trio.SSLStream and type(stream.transport_stream) is trio.SocketStream:
        # TLS of ours in place of Trio's, which has not begun.
        return [TlsStream(stream.transport_stream, stream.context, server_side=True)]
    return [stream]


def _accept_now(listening: trio.socket.SocketType) -> list[trio.abc.Stream]:
    accepted: list[trio.abc.Stream] = []
    # OSError: there are no more, or the next attempt fails, too
    with contextlib.suppress(OSError), Borrowed(listening) as sock:
        while len(accepted) < FAIRNESS:
            client, _ = sock.accept()
            accepted.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
    return accepted[::-1]


def listener_address(listener: trio.abc.Listener[trio.abc.Stream]) -> Address:
    """Where a listener listens."""
    is_ssl = isinstance(listener, trio.SSLListener)
    transport = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    if isinstance(transport, trio.SocketListener):
        name = end_name(transport.socket.family, transport.socket.getsockname())
        return address(name, is_ssl=is_ssl)
    return repr(listener)
