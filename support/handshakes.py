"""Requests of clients, and the outcome of a server's handshake."""

from __future__ import annotations

from typing import Any, Iterable, List, Tuple

from support import peer
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.server_handshake import BadRequest, ServerHandshake

# The example of RFC 6455, 1.3.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

Headers = List[Tuple[bytes, bytes]]

REQUEST: Headers = [
    (b"Host", b"example.com"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
]


def written(start: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> bytes:
    lines = [start, *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def a_request(
    headers: Headers = REQUEST, *, start: bytes = b"GET /chat HTTP/1.1", body: bytes = b""
) -> bytes:
    return written(start, headers, body)


def outcome(*chunks: bytes, **options: Any) -> object:
    """Return the outcome of a client's bytes, and what a server would answer."""
    handshake = ServerHandshake(Options(**options))
    try:
        for chunk in chunks:
            handshake.receive_data(chunk)
        if not handshake.has_request():
            return "more is needed"
    except BadRequest as exc:
        return exc.response
    found = (handshake.headers, handshake.path, handshake.proposed_subprotocols)
    response, opened = handshake.accept(None, None)
    other = ServerHandshake(Options(**options))
    for chunk in chunks:
        other.receive_data(chunk)
    assert other.has_request()
    return found, response, opened.headers, opened.trailing, other.reject(403, None, b"no")


def with_header(line: bytes, request: bytes = peer.REQUEST) -> bytes:
    """Return the request with this header line, which replaces one of the same name."""
    name = line.partition(b":")[0].lower()
    lines = [x for x in request.split(b"\r\n") if x and x.partition(b":")[0].lower() != name]
    return b"\r\n".join([*lines, line, b"", b""])
