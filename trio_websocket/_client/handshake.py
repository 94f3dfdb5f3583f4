"""The opening handshake over an open stream."""

from __future__ import annotations

import trio

from .._connection.connection import WebSocketConnection, start_connection
from .._io.transport import Transport, unwrap_network_error
from .._sansio.client_handshake import ClientHandshake
from .._sansio.errors import ConnectionTimeout, HandshakeError
from .._sansio.options import Options
from .failures import connection_failed


async def shake_hands(
    nursery: trio.Nursery, stream: trio.abc.Stream, handshake: ClientHandshake, options: Options
) -> WebSocketConnection:
    """Send the request, receive the response, and start the connection.

    If this raises or is cancelled, the stream is closed.
    """
    transport = Transport(stream, options.receive_buffer_size)
    try:
        broken: Exception | None = None
        try:
            await transport.write(handshake.request)
        except Exception as exc:
            broken = exc  # a response that the server sent earlier may explain the error
        result = None
        while result is None:
            try:
                data = await transport.read()
            except Exception as exc:  # an application's own stream may raise any exception
                cause = unwrap_network_error(broken or exc)
                if not handshake.has_answer:
                    what = "the connection was lost before the server answered"
                    raise connection_failed(what, cause, handshake.hint)  # noqa: B904 # the cause is set
                data = b""
            handshake.receive_data(data)
            result = handshake.result()
        return start_connection(nursery, transport, result, options)
    except BaseException:
        await transport.close_now()
        raise


def timed_out(handshake: ClientHandshake, text: str) -> HandshakeError:
    """Return the error for a handshake that timed out. `text` describes the time-out."""
    # A server that stops in the middle of a rejection has rejected the request.
    if handshake.has_response:
        return handshake.rejected()
    if handshake.interim is not None:
        text += f"; the server sent only the interim status {handshake.interim.status_code}"
    return ConnectionTimeout(text)
