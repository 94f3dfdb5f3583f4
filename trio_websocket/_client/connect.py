"""Opening a connection as a client: TCP, TLS, the opening handshake, and who cleans up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import ssl
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, AsyncContextManager, AsyncIterator, Iterable

import trio

from .._connection.connection import WebSocketConnection, close_after_block
from .._io.cancel import cancel
from .._io.interrupt import call_unprotected, unwrap_single
from .._sansio.client_handshake import ClientHandshake, check_subprotocols
from .._sansio.compat import Unpack
from .._sansio.errors import (
    HandshakeError,
    exception_to_raise,
)
from .._sansio.handshake import ExtraHeaders, check_headers
from .._sansio.options import OptionKeywords, Options, check_ssl_context, with_option_signature
from .._sansio.url import (
    ascii_host,
    ascii_host_not_url,
    check_port,
    host_header,
    parse_url,
    request_target,
)
from .dial import open_stream
from .failures import connection_failed
from .handshake import shake_hands, timed_out

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
# The keywords of 0.12. Dependents replace the functions below in tests by ones that take no others.
_OLD_LIMITS = ("message_queue_size", "max_message_size", "receive_buffer_size")
_OLD_TIMEOUTS = ("connect_timeout", "disconnect_timeout")


@with_option_signature
def open_websocket(
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[OptionKeywords],
) -> AbstractAsyncContextManager[WebSocketConnection]:
    """Open a connection for the time of an ``async with`` block.

    At the end of the block the connection is closed with code 1000, or 1011 if the block raised;
    the exception comes out as it is. If the block was cancelled, the peer is sent code 1001, and
    nobody waits.

    If cancelled while it opens, nothing is left behind.

    :param host: A host name or an IP address.
    :param port: A TCP port.
    :param resource: The path and the query.
    :param use_ssl: False for ``ws:``; True for ``wss:`` with the system's certificates; or the
        SSL context to use.
    :param subprotocols: Names of subprotocols to offer, the preferred one first.
    :param extra_headers: Pairs of name and value. They take the place of headers of that name
        which the handshake would send.
    :param options: See :ref:`options`.
    :raises ConnectionFailed: The network prevented it.
    :raises ConnectionTimeout: It took longer than ``connect_timeout``.
    :raises ConnectionRejected: The server answered with another HTTP status.
    :raises HandshakeError: The server's answer is no valid one.
    :raises DisconnectionTimeout: At the end of the block: the peer did not answer our Close within
        ``disconnect_timeout``.
    """
    _check_use_ssl(use_ssl)
    host = ascii_host_not_url(host)
    check_port(port)
    Options.of_call(open_websocket, options)
    subprotocols = check_subprotocols(subprotocols)
    extra_headers = check_headers(extra_headers)
    opening = _open(host, port, resource, use_ssl, subprotocols, extra_headers, options)
    return _Opening(opening)


class _Opening(AsyncContextManager[WebSocketConnection]):
    """The manager that contextlib makes, protected like the other functions of the library."""

    def __init__(self, manager: AbstractAsyncContextManager[WebSocketConnection]) -> None:
        self._manager = manager

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> WebSocketConnection:
        return await self._manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, exc, traceback)


@contextlib.asynccontextmanager
async def _open(
    host: str,
    port: int,
    resource: str,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None,
    extra_headers: ExtraHeaders | None,
    options: OptionKeywords,
) -> AsyncIterator[WebSocketConnection]:
    error: BaseException | None = None
    connect = _public("connect_websocket")
    keywords = _with_defaults(_OLD_LIMITS, options)
    is_ours = connect is connect_websocket
    if not is_ours:  # a stand-in: in 0.12 it was given no time-outs
        keywords = {k: v for k, v in keywords.items() if k not in _OLD_TIMEOUTS}
        connect = functools.partial(call_unprotected, connect)
    try:
        async with trio.open_nursery() as nursery:
            try:
                connection = await connect(
                    nursery,
                    host,
                    port,
                    resource,
                    use_ssl=use_ssl,
                    subprotocols=subprotocols,
                    extra_headers=extra_headers,
                    **keywords,
                )
            except HandshakeError as exc:
                error = exc
            except OSError as exc:  # of a function that stands in for ours
                error = connection_failed(f"can't connect to {host}, port {port}", exc)
            except BaseException as exc:
                error = exc
            else:
                if isinstance(connection, WebSocketConnection):
                    connection._outlive_cancellation()
                try:
                    yield connection
                except BaseException as exc:
                    error = exc
                error = await close_after_block(connection, error)
            if is_ours:
                # Our tasks end by themselves now; a cancellation would only make a group of it.
                nursery.cancel_scope.shield = True
            elif error is not None:
                # Tasks of a stand-in end as in a nursery whose block raises.
                cancel(nursery.cancel_scope, "the block of open_websocket() has raised")
    except BaseException as exc:
        error = exception_to_raise(error, unwrap_single(exc))
    try:
        if error is not None:
            raise error
    finally:
        del error  # whose traceback has this frame


@with_option_signature
@trio.lowlevel.enable_ki_protection
async def connect_websocket(
    nursery: trio.Nursery,
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[OptionKeywords],
) -> WebSocketConnection:
    """Open a connection whose background work runs in a nursery of the caller.

    The caller closes it; the nursery stays open until then. If cancelled, nothing is left behind.

    :param nursery: The nursery.
    :param host: A host name or an IP address.
    :param port: A TCP port.
    :param resource: The path and the query.
    :param use_ssl: As in :func:`open_websocket`.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options`.
    :raises HandshakeError: And its subclasses, as in :func:`open_websocket`.
    """
    _check_use_ssl(use_ssl)
    check_port(port)
    bounds = Options.of_call(connect_websocket, options)
    host = ascii_host_not_url(host)
    name = host_header(host, port, is_secure=use_ssl is not False)
    handshake = ClientHandshake(
        name,
        request_target(resource),
        subprotocols,
        extra_headers,
        bounds,
        hint="" if use_ssl else " (does the server expect wss:?)",
    )
    with trio.move_on_after(bounds.connect_timeout):
        stream = await open_stream(host, port, use_ssl)
        return await shake_hands(nursery, stream, handshake, bounds)
    raise timed_out(handshake, f"no connection to {name} within {bounds.connect_timeout} s")


@with_option_signature
def open_websocket_url(
    url: object,
    ssl_context: ssl.SSLContext | None = None,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[OptionKeywords],
) -> AbstractAsyncContextManager[WebSocketConnection]:
    """Open a connection to a URL for the time of an ``async with`` block.

    :param url: A ``ws:`` or ``wss:`` URL, or an object whose ``str()`` is one. A user name and
        password in it become an ``Authorization: Basic`` header.
    :param ssl_context: The SSL context for ``wss:``; by default, the system's certificates count.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options`.
    :raises ValueError: The URL is not a WebSocket URL, or is ``ws:`` with an SSL context.
    """
    Options.of_call(open_websocket_url, options)
    target = _ConnectArgs(url, ssl_context, subprotocols, extra_headers)
    manager: AbstractAsyncContextManager[WebSocketConnection] = _public("open_websocket")(
        *target.args, **target.keywords, **_with_defaults(_OLD_LIMITS + _OLD_TIMEOUTS, options)
    )
    return manager


@with_option_signature
@trio.lowlevel.enable_ki_protection
async def connect_websocket_url(
    nursery: trio.Nursery,
    url: object,
    ssl_context: ssl.SSLContext | None = None,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[OptionKeywords],
) -> WebSocketConnection:
    """Open a connection to a URL, with background work in a nursery of the caller.

    The caller closes it; the nursery stays open until then. If cancelled, nothing is left behind.

    :param nursery: The nursery.
    :param url: As in :func:`open_websocket_url`.
    :param ssl_context: As in :func:`open_websocket_url`.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options`.
    :raises ValueError: As in :func:`open_websocket_url`.
    :raises HandshakeError: And its subclasses, as in :func:`open_websocket`.
    """
    Options.of_call(connect_websocket_url, options)
    target = _ConnectArgs(url, ssl_context, subprotocols, extra_headers)
    connection: WebSocketConnection = await _public("connect_websocket")(
        nursery, *target.args, **target.keywords, **_with_defaults(_OLD_LIMITS, options)
    )
    return connection


@with_option_signature
@trio.lowlevel.enable_ki_protection
async def wrap_client_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    host: str,
    resource: str,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[OptionKeywords],
) -> WebSocketConnection:
    """Open a connection over a stream that exists already.

    The caller closes it; the nursery stays open until then. If the handshake fails, or is
    cancelled, the stream is closed.

    :param nursery: The nursery for background work.
    :param stream: The stream. The connection closes it.
    :param host: The value of the Host header.
    :param resource: The path and the query.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options`.
    :raises HandshakeError: And its subclasses, as in :func:`open_websocket`.
    """
    bounds = Options.of_call(wrap_client_stream, options)
    handshake = ClientHandshake(
        ascii_host(host), request_target(resource), subprotocols, extra_headers, bounds
    )
    with trio.move_on_after(bounds.connect_timeout):
        return await shake_hands(nursery, stream, handshake, bounds)
    raise timed_out(handshake, f"no answer from {host} within {bounds.connect_timeout} s")


class _ConnectArgs:
    """A URL, as arguments of `open_websocket` and `connect_websocket`."""

    def __init__(
        self,
        url: object,
        ssl_context: ssl.SSLContext | None,
        subprotocols: Iterable[str] | None,
        extra_headers: ExtraHeaders | None,
    ) -> None:
        check_ssl_context(ssl_context)
        subprotocols = check_subprotocols(subprotocols)
        extra_headers = check_headers(extra_headers)
        parts = parse_url(url)
        if ssl_context is not None and not parts.is_secure:
            raise ValueError(f"an SSL context goes with wss:, and the URL is {str(url)!r}")
        if parts.credentials is not None:
            given = list(extra_headers or ())
            if not any(_lower(name) == b"authorization" for name, _ in given):
                given.append((b"Authorization", parts.credentials))
            extra_headers = given
        self.args = (parts.host, parts.port, parts.resource)
        self.keywords: dict[str, Any] = {
            "use_ssl": parts.is_secure if ssl_context is None else ssl_context,
            "subprotocols": subprotocols,
            "extra_headers": extra_headers,
        }


def _lower(name: bytes | str) -> bytes:
    return (name.encode() if isinstance(name, str) else name).lower()


def _public(name: str) -> Any:
    """A function of the library as it is now: dependents replace them in their tests."""
    return getattr(importlib.import_module("trio_websocket._impl"), name)


def _with_defaults(names: tuple[str, ...], options: OptionKeywords) -> dict[str, Any]:
    """The options of those names, and whichever others were given."""
    return {**{name: _DEFAULTS[name] for name in names}, **options}


def _check_use_ssl(use_ssl: object) -> None:
    if not isinstance(use_ssl, (bool, ssl.SSLContext)):
        raise TypeError(f"`use_ssl` argument must be bool or ssl.SSLContext, not {use_ssl!r:.100}")
