"""What the library does with Trio's sockets beside awaiting them."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from typing import Any, Iterator, Union

import trio

from ._url import Endpoint

#: The address of one end: an :class:`Endpoint` for TCP. For other streams a text: the path of a
#: Unix socket, the ``repr()`` of another socket address, or the ``repr()`` of the stream.
Address = Union[Endpoint, str]


def is_kernel_socket(sock: trio.socket.SocketType) -> bool:
    """True if Trio itself has made the socket.

    One from a `trio.abc.SocketFactory` need not have a file descriptor.
    """
    return type(sock) is _kernel_socket()


def is_direct(sock: trio.socket.SocketType) -> bool:
    """True if reads and writes of the file descriptor may bypass Trio."""
    return is_kernel_socket(sock) and os.name == "posix"


@functools.lru_cache(maxsize=None)
def _kernel_socket() -> type[trio.socket.SocketType]:
    # Trio exports only the abstract base class.
    with socket.socket() as sock:
        return type(trio.socket.from_stdlib_socket(sock))


@contextlib.contextmanager
def borrowed(sock: trio.socket.SocketType) -> Iterator[socket.socket]:
    """Use a socket without awaiting: its methods raise BlockingIOError where they would block."""
    kind = sock.family, sock.type, sock.proto  # so that they need not be looked up
    blocking = socket.socket(*kind, fileno=sock.fileno())
    try:
        blocking.setblocking(False)  # it has got socket.getdefaulttimeout()
        yield blocking
    finally:
        blocking.detach()


def shut_down(stream: object) -> None:
    """End both directions of the socket of a stream, if it is on one. Never raises.

    Closing alone does not end a connection while a forked child holds the socket, too.
    """
    while isinstance(stream, trio.SSLStream):  # TLS may be in TLS
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            stream.socket.shutdown(socket.SHUT_RDWR)


def end_name(sock: trio.socket.SocketType, *, is_peer: bool) -> tuple[str, int] | str:
    """The address and port of an end of a socket, or what else names the end.

    :raises OSError: The peer is gone.
    """
    name: Any = sock.getpeername() if is_peer else sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return name[0], name[1]
    if isinstance(name, bytes):  # an abstract Unix socket, shown as Linux tools do
        return "@" + os.fsdecode(name[1:])
    if isinstance(name, str):
        return name or "an unnamed Unix socket"
    return repr(name)


def address(name: tuple[str, int] | str, *, is_ssl: bool) -> Address:
    """The address for a name from `end_name`."""
    if isinstance(name, str):
        return name
    return Endpoint(name[0].partition("%")[0], name[1], is_ssl)
