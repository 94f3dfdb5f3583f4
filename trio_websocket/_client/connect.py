"""Open a connection over a new stream, or over one that the application has opened."""

from __future__ import annotations

from typing import Iterable

import trio

from .._connection.connection import WebSocketConnection
from .._io.transport import is_tls
from .._sansio.client_handshake import ClientHandshake
from .._sansio.compat import Unpack
from .._sansio.errors import ConnectionRejected
from .._sansio.handshake import ExtraHeaders
from .._sansio.options import OptionKeywords, Options, with_option_signature
from .._sansio.redirects import Redirects
from .._sansio.url import ascii_host, origin_of, request_target
from .dial import check_or_close, open_stream
from .handshake import shake_hands, timed_out
from .options import is_open_stream
from .proxy import proxy_for
from .target import Target


@trio.lowlevel.enable_ki_protection
async def connect(nursery: trio.Nursery, target: Target) -> WebSocketConnection:
    """Open a connection over a new stream, following up to `max_redirects` redirects.

    If this raises or is cancelled, no task or stream is left behind.
    """
    options = target.options
    handshake = await check_or_close(target.handshake, options.stream)
    redirects = Redirects(
        target.url,
        options.max_redirects,
        has_open_stream=is_open_stream(options.stream),
        has_unix_socket=options.unix_socket is not None,
    )
    with trio.move_on_after(options.connect_timeout):
        while True:
            proxy = proxy_for(target)
            try:
                stream = await open_stream(target, proxy)
                proxy = None  # the tunnel is open, so later errors don't name the proxy
                return await shake_hands(nursery, stream, handshake, options)
            except ConnectionRejected as exc:
                url = redirects.follow(exc)
                if url is None:
                    raise
            target = target.redirected(url)
            handshake = target.handshake()
    route = "" if proxy is None else f" through {proxy.name},"
    text = f"no connection to {target.name}{route} within {options.connect_timeout} s"
    raise timed_out(handshake, text)


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
    """Open a connection over an existing stream.

    The caller must close the connection; the nursery stays open until then. If this fails or is
    cancelled, the stream is closed.

    :param nursery: The nursery for the connection's tasks.
    :param stream: The stream. The connection closes it.
    :param host: The value of the Host header.
    :param resource: The path and the query.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options`.
    :raises HandshakeError: Opening failed. The subclasses are listed in :func:`open_websocket`.
    """
    checked = Options.of_call(wrap_client_stream, options)
    name = ascii_host(host)
    handshake = ClientHandshake(
        name,
        request_target(resource),
        subprotocols,
        extra_headers,
        checked,
        origin=origin_of(name, is_tls(stream)),
    )
    with trio.move_on_after(checked.connect_timeout):
        return await shake_hands(nursery, stream, handshake, checked)
    raise timed_out(handshake, f"no answer from {host} within {checked.connect_timeout} s")
