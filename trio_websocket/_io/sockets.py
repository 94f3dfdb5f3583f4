"""Low-level operations on sockets: non-blocking calls, shutdown, and addresses."""

from __future__ import annotations

import functools
import os
import socket
from typing import Any, Tuple, Union

import trio

from .._sansio.url import Endpoint

#: The address of one end of a connection: an :class:`Endpoint` for TCP, or a str for other streams.
#: The str is the path of a Unix socket, or the ``repr()`` of another socket address or the stream.
Address = Union[Endpoint, str]
#: A name that `address` converts to an `Address`: a host and a port, or a str.
EndName = Union[Tuple[str, int], str]

_WITH_PORT = (socket.AF_INET, socket.AF_INET6)


def is_kernel_socket(sock: trio.socket.SocketType) -> bool:
    """Return True if Trio itself created the socket.

    A socket from a `trio.abc.SocketFactory` might not have a file descriptor.
    """
    return type(sock) is _kernel_socket()


def is_direct(sock: trio.socket.SocketType) -> bool:
    """Return True if the library can read and write the socket's file descriptor without Trio."""
    return is_kernel_socket(sock) and os.name == "posix"


@functools.lru_cache(maxsize=None)
def _kernel_socket() -> type[trio.socket.SocketType]:
    # Trio exports only the abstract base class.
    with socket.socket() as sock:
        return type(trio.socket.from_stdlib_socket(sock))


class Borrowed:
    """A context manager for non-blocking use of a socket.

    In its block, the socket's methods raise BlockingIOError instead of waiting.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        """:param sock: The socket. It stays open after the block."""
        kind = sock.family, sock.type, sock.proto  # avoids three system calls to look them up
        self._sock = socket.socket(*kind, fileno=sock.fileno())
        self._sock.setblocking(False)  # a new socket object has the default timeout

    def __enter__(self) -> socket.socket:
        return self._sock

    def __exit__(self, *exc_info: object) -> None:
        self._sock.detach()


def shut_down(stream: object) -> None:
    """Shut down both directions of a stream's socket, if it has one. Never raises.

    Without this, closing the descriptor would not end the connection if a forked child process had
    inherited the socket.
    """
    while isinstance(stream, trio.SSLStream):  # there can be TLS inside TLS
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream) or stream.socket.did_shutdown_SHUT_WR:
        return
    try:
        stream.socket.shutdown(socket.SHUT_RDWR)
    except (OSError, trio.ClosedResourceError):
        pass  # the peer has already ended the connection, or the socket is already closed


def end_names(sock: trio.socket.SocketType) -> tuple[EndName | None, EndName | None]:
    """Return the names of both ends of a socket, the local one first; None if a name is unknown."""
    family = sock.family  # stored because each access is slow: it looks up an enum member
    names: list[EndName | None] = []
    for get_name in (sock.getsockname, sock.getpeername):
        try:
            names.append(end_name(family, get_name()))
        except OSError:
            names.append(None)
    return names[0], names[1]


def end_name(family: int, name: Any) -> EndName:
    """Return the host and port of one end of a socket, or a str that describes it.

    :param family: The address family of the socket.
    :param name: The result of ``getsockname()`` or ``getpeername()``.
    """
    if family in _WITH_PORT:
        return name[0], name[1]
    if isinstance(name, bytes):  # an abstract Unix socket, shown as in Linux tools
        return "@" + os.fsdecode(name[1:])
    if isinstance(name, str):
        return name or "an unnamed Unix socket"
    return repr(name)


def address(name: EndName, *, is_ssl: bool) -> Address:
    """Return the address for a name that `end_name` returned."""
    if isinstance(name, str):
        return name
    return Endpoint(name[0].partition("%")[0], name[1], is_ssl)
