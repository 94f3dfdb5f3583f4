"""Open a stream to a server over the route that the options select, with or without TLS."""

from __future__ import annotations

import inspect
import os
import ssl
from typing import Awaitable, Callable, TypeVar, cast

import trio

from .._io.interrupt import call_unprotected
from .._io.transport import close_now
from .._sansio.errors import HandshakeError
from .._sansio.proxy import Proxy
from .failures import connection_failed
from .options import SocketPath, StreamFunction, is_open_stream
from .proxy import open_proxy_stream
from .target import Target
from .tcp import open_tcp
from .tls import start_tls

_T = TypeVar("_T")


async def open_stream(target: Target, proxy: Proxy | None) -> trio.abc.Stream:
    """Open a stream to a server, with TLS over it unless `use_ssl` is False.

    If this fails or is cancelled, every stream is closed, including one that the application passed
    in.

    :param target: The server.
    :param proxy: The proxy to use, or None.
    :raises ConnectionFailed: A network or TLS error prevented the connection.
    """
    stream = await _open_route(target, proxy)
    if target.use_ssl is False:
        return stream
    context = target.use_ssl if isinstance(target.use_ssl, ssl.SSLContext) else None
    what = f"no TLS with {target.host}, port {target.port}"
    hint = " (does the server expect ws:?)"
    return await start_tls(stream, context, target.server_hostname, what, hint)


async def _open_route(target: Target, proxy: Proxy | None) -> trio.abc.Stream:
    options = target.options
    if options.stream is not None:
        if is_open_stream(options.stream):
            return cast(trio.abc.Stream, options.stream)
        return await _call_stream_function(cast(StreamFunction, options.stream), target)
    if options.unix_socket is not None:
        return await _open_unix_socket(options.unix_socket)
    if proxy is not None:
        return await open_proxy_stream(proxy, target)
    return await open_tcp(target.host, target.port, options.local_address)


async def _call_stream_function(function: StreamFunction, target: Target) -> trio.abc.Stream:
    try:
        stream = await call_unprotected(_begin, function, target.host, target.port)
    except HandshakeError:
        raise
    except OSError as exc:
        what = f"can't connect to {target.host}, port {target.port}"
        raise connection_failed(what, exc)  # noqa: B904 # the cause is set
    if not is_open_stream(stream):
        raise _wrong_result(function, stream)
    return stream


@trio.lowlevel.enable_ki_protection
def _begin(function: StreamFunction, host: str, port: int) -> Awaitable[trio.abc.Stream]:
    opening = function(host, port)
    if not inspect.isawaitable(opening):
        raise _wrong_result(function, opening)
    return opening


def _wrong_result(function: StreamFunction, result: object) -> TypeError:
    name = getattr(function, "__qualname__", f"{function!r:.100}")
    wanted = "stream must be an open stream, or an async function that returns one"
    return TypeError(f"{wanted}: {name} returned {result!r:.100}")


async def _open_unix_socket(path: SocketPath) -> trio.abc.Stream:
    try:
        return await trio.open_unix_socket(path)
    except OSError as exc:
        raise connection_failed(f"can't connect to {os.fsdecode(path)!r}", exc)  # noqa: B904 # the cause is set


async def check_or_close(check: Callable[[], _T], stream: object) -> _T:
    """Call `check` and return its result. If it raises, close the application's open stream.

    :param check: Checks the arguments, and raises an exception if one is invalid.
    :param stream: The value of the option ``stream``. It need not be an open stream.
    """
    try:
        return check()
    except BaseException:
        if is_open_stream(stream):
            await close_now(cast(trio.abc.Stream, stream))
        raise
