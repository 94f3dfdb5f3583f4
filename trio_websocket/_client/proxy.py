"""A tunnel to a server through a proxy."""

from __future__ import annotations

import os

import trio

from .._io.transport import IgnoringErrors, Transport, unwrap_network_error
from .._sansio.proxy import Proxy, parse_proxy, proxy_of_environment
from .._sansio.tunnel import TunnelRequest
from .failures import connection_failed
from .socks import open_socks_stream
from .target import Target
from .tcp import open_tcp
from .tls import start_tls

# Seconds to wait for the error page that follows the head of a response. The page is used only in
# the text of the exception.
_ERROR_PAGE_TIMEOUT = 1


def proxy_for(target: Target) -> Proxy | None:
    """Return the proxy that the option ``proxy`` selects for a target, or None.

    :raises ValueError: An environment variable does not contain a valid proxy URL.
    """
    option = target.options.proxy
    if option is None:
        return None
    if option == "env":
        is_secure = target.use_ssl is not False
        return proxy_of_environment(dict(os.environ), target.host, target.port, is_secure=is_secure)
    return parse_proxy(option)


async def open_proxy_stream(proxy: Proxy, target: Target) -> trio.abc.Stream:
    """Open a stream to a server through a proxy, for TLS or for the opening handshake.

    If this fails or is cancelled, no socket is left open.

    :raises ProxyError: The proxy could not be reached, or it refused to open a tunnel.
    :raises ConnectionFailed: The proxy needs the server's address, and the server's name could not
        be resolved.
    """
    options = target.options
    if proxy.is_socks:
        return await open_socks_stream(proxy, target.host, target.port, options.local_address)
    request = TunnelRequest(
        proxy, target.host, target.port, options.proxy_headers, options.max_header_size
    )
    stream: trio.abc.Stream = await open_tcp(proxy.host, proxy.port, options.local_address, proxy)
    if proxy.scheme == "https":
        what, hint = f"no TLS with {proxy.name}", " (does the proxy expect http:?)"
        context = options.proxy_ssl_context
        stream = await start_tls(stream, context, proxy.host, what, hint, proxy)
    transport = Transport(stream, None)
    try:
        first_bytes = await _ask(proxy, transport, request)
        if not first_bytes:
            return stream
        if target.use_ssl is not False:
            # In TLS, the client sends first.
            text = f"{proxy.name}, sent {len(first_bytes)} bytes after its answer, before TLS began"
            raise proxy.error(text)
        return _StreamAfter(first_bytes, stream)
    except BaseException:
        await transport.close_now()
        raise


async def _ask(proxy: Proxy, transport: Transport, request: TunnelRequest) -> bytes:
    """Send the request and receive the response; return the bytes that follow the response.

    :raises ProxyError: The proxy refused to open a tunnel, or the connection was lost.
    """
    try:
        await transport.write(request.request)
    except Exception as exc:
        broken: Exception | None = exc  # a response that the proxy sent earlier may explain it
    else:
        broken = None
    while True:
        try:
            data = await transport.read()
        except Exception as exc:
            broken = unwrap_network_error(broken or exc)
            break
        request.receive_data(data)
        first_bytes = request.result()
        if first_bytes is not None:
            return first_bytes
        if request.is_refused:
            await _read_error_page(transport, request)
            raise request.refused()
    what = f"the connection to {proxy.name}, was lost before it answered"
    raise connection_failed(what, broken, proxy=proxy)


async def _read_error_page(transport: Transport, request: TunnelRequest) -> None:
    with trio.move_on_after(_ERROR_PAGE_TIMEOUT), IgnoringErrors():
        while request.result() is None:  # result() raises at the end of the page
            request.receive_data(await transport.read())


class _StreamAfter(trio.abc.Stream):
    """A stream whose first bytes have already been received."""

    def __init__(self, received: bytes, stream: trio.abc.Stream) -> None:
        self._received = received
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._received:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data = self._received[:max_bytes]
        self._received = self._received[len(data) :]
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()
