"""The opening handshake: the bytes of both sides."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from typing import Any, Callable, Iterable, NamedTuple

import h11
import pytest

from support.handshakes import (
    KEY,
    REQUEST,
    Headers,
    a_request,
    outcome,
    written,
)
from trio_websocket import ConnectionFailed, ConnectionRejected, HandshakeError
from trio_websocket._sansio.client_handshake import ClientHandshake
from trio_websocket._sansio.events import Status
from trio_websocket._sansio.handshake import ExtraHeaders, HandshakeResult
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol
from trio_websocket._sansio.server_handshake import BadRequest, ServerHandshake

NEED_DATA = Status.NEED_DATA

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Message(NamedTuple):
    """An HTTP request or response, parsed without the library."""

    start: bytes
    headers: Headers
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Message:
        head, _, body = data.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        pairs = (line.partition(b": ") for line in lines)
        return cls(start, [(name, value) for name, _, value in pairs], body)

    @property
    def status(self) -> int:
        version, status, _ = self.start.split(b" ", 2)
        assert version == b"HTTP/1.1"
        return int(status)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: bytes) -> bytes:
        (value,) = self.values(name)
        return value

    def tokens(self, name: bytes) -> set[bytes]:
        return {token.strip().lower() for token in b",".join(self.values(name)).split(b",")}


def without(headers: Headers, name: bytes) -> Headers:
    return [pair for pair in headers if pair[0] != name]


def replaced(headers: Headers, name: bytes, *values: bytes) -> Headers:
    return without(headers, name) + [(name, value) for value in values]


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# The server


def server(data: bytes | None = None, **options: Any) -> ServerHandshake:
    """Return a server that has received a valid request."""
    handshake = ServerHandshake(Options(**options))
    handshake.receive_data(a_request() if data is None else data)
    assert handshake.has_request()
    return handshake


def refused(data: bytes, **options: Any) -> Message:
    """Return the answer to an invalid request."""
    handshake = ServerHandshake(Options(**options))
    handshake.receive_data(data)
    with pytest.raises(BadRequest) as caught:
        handshake.has_request()
    return Message.parse(caught.value.response)


def accepted(handshake: ServerHandshake, **arguments: Any) -> tuple[Message, HandshakeResult]:
    response, opened = handshake.accept(
        arguments.get("subprotocol"), arguments.get("extra_headers")
    )
    return Message.parse(response), opened


def test_server_handshake_no_data_waits() -> None:
    assert not ServerHandshake(Options()).has_request()


def test_server_handshake_byte_by_byte() -> None:
    handshake = ServerHandshake(Options())
    *pieces, last = single_bytes(a_request())
    for piece in pieces:
        handshake.receive_data(piece)
        assert not handshake.has_request()
    handshake.receive_data(last)
    assert handshake.has_request()


@pytest.mark.parametrize("size", [0, 1, len(a_request()) - 1])
def test_server_handshake_eof_in_request_fails(size: int) -> None:
    handshake = ServerHandshake(Options())
    if size:
        handshake.receive_data(a_request()[:size])
    assert not handshake.has_request()
    with pytest.raises(ConnectionFailed, match="before its request was whole"):
        handshake.receive_data(b"")


def test_server_handshake_accept_sends_101() -> None:
    response, _ = accepted(server())
    assert response.start == b"HTTP/1.1 101 Switching Protocols"
    assert response.headers == [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", ACCEPT),
    ]
    assert response.body == b""


def test_server_handshake_path_has_query() -> None:
    handshake = server(a_request(start=b"GET /chat?room=1& HTTP/1.1"))
    assert handshake.path == "/chat?room=1&"
    assert accepted(handshake)[1].path == "/chat?room=1&"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://example.com/chat?a", "/chat?a"),
        (b"HTTPS://example.com:443/", "/"),
        (b"http://example.com", "/"),
        (b"http://example.com?a", "/?a"),
    ],
)
def test_server_handshake_absolute_target_gives_path(target: bytes, path: str) -> None:
    # RFC 6455, 4.2.1, point 1; 3: an empty path is "/"
    assert server(a_request(start=b"GET " + target + b" HTTP/1.1")).path == path


@pytest.mark.parametrize("path", ["/to?url=http://other.example/x", "/http://other.example/x"])
def test_server_handshake_url_in_path_is_kept(path: str) -> None:
    assert server(a_request(start=b"GET " + path.encode() + b" HTTP/1.1")).path == path


def test_server_handshake_headers_are_in_order() -> None:
    headers = [
        *REQUEST,
        (b"Sec-WebSocket-Protocol", b"chat"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
        (b"Cookie", b"A=1"),
        (b"Cookie", b"B=2"),
    ]
    wanted = [(name.lower(), value) for name, value in headers]
    handshake = server(a_request(headers))
    assert handshake.headers == wanted
    assert accepted(handshake)[1].headers == tuple(wanted)


def test_server_handshake_trailing_bytes_are_kept() -> None:
    _, opened = accepted(server(a_request(body=b"\x89\x80\0\0\0\0")))
    assert opened.trailing == b"\x89\x80\0\0\0\0"


def test_server_handshake_accepted_exchanges_frames() -> None:
    _, opened = accepted(server())
    protocol = Protocol(opened.side, Options())
    protocol.reader.receive_data(b"\x81\x82\0\0\0\0hi")
    assert protocol.next_event() == "hi"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (b"Connection", [b"keep-alive, Upgrade"]),
        (b"Connection", [b"upgrade"]),
        (b"Connection", [b"close, Upgrade"]),
        (b"Connection", [b", ,Upgrade,"]),
        (b"Upgrade", [b"WebSocket"]),
        (b"Upgrade", [b"h2c, websocket"]),
        (b"Sec-WebSocket-Version", [b" 13\t"]),
        (b"Content-Length", [b"0"]),
        (b"Expect", [b"100-continue"]),
        (b"Origin", [b"null"]),
        (b"Sec-WebSocket-Extensions", [b"permessage-deflate; client_max_window_bits"]),
        (b"Sec-WebSocket-Protocol", [b""]),
    ],
)
def test_server_handshake_valid_request_is_accepted(name: bytes, values: list[bytes]) -> None:
    handshake = server(a_request(replaced(REQUEST, name, *values)))
    assert accepted(handshake)[0].status == 101


def test_server_handshake_connection_headers_are_combined() -> None:
    headers = replaced(REQUEST, b"Connection", b"keep-alive", b"Upgrade")
    assert accepted(server(a_request(headers)))[0].status == 101


def test_server_handshake_upgrade_headers_are_combined() -> None:
    headers = replaced(REQUEST, b"Upgrade", b"h2c", b"websocket")
    assert accepted(server(a_request(headers)))[0].status == 101


def test_server_handshake_accepts_no_extension() -> None:
    headers = replaced(REQUEST, b"Sec-WebSocket-Extensions", b"permessage-deflate")
    response, _ = accepted(server(a_request(headers)))
    assert response.values(b"Sec-WebSocket-Extensions") == []


# Invalid requests


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT"])
def test_server_handshake_other_method_gets_405(method: bytes) -> None:
    response = refused(a_request(start=method + b" /chat HTTP/1.1"))
    assert response.status == 405
    assert response.value(b"Allow") == b"GET"


def test_server_handshake_head_gets_405_without_body() -> None:
    response = refused(a_request(start=b"HEAD /chat HTTP/1.1"))
    assert response.status == 405
    assert int(response.value(b"Content-Length")) > 0
    assert response.body == b""


def test_server_handshake_plain_http_gets_426() -> None:
    response = refused(a_request([(b"Host", b"example.com"), (b"Connection", b"keep-alive")]))
    assert response.status == 426
    assert response.value(b"Upgrade") == b"websocket"


def test_server_handshake_426_has_connection_upgrade() -> None:
    # RFC 9110, 7.8: a sender of Upgrade must also send an "Upgrade" connection option
    response = refused(a_request([(b"Host", b"example.com")]))
    assert response.tokens(b"Connection") == {b"upgrade", b"close"}


@pytest.mark.parametrize("version", [b"8", b"12", b"14", b"013", b"13, 8", b"", b"\xff"])
def test_server_handshake_other_version_gets_426(version: bytes) -> None:
    response = refused(a_request(replaced(REQUEST, b"Sec-WebSocket-Version", version)))
    assert response.status == 426
    assert response.value(b"Sec-WebSocket-Version") == b"13"


def test_server_handshake_426_for_version_has_upgrade() -> None:
    # RFC 9110, 15.5.22: the server must send an Upgrade header field in a 426 response
    response = refused(a_request(replaced(REQUEST, b"Sec-WebSocket-Version", b"8")))
    assert response.value(b"Upgrade") == b"websocket"


def changed(name: bytes, value: bytes) -> bytes:
    """Return a valid request with another value of a header."""
    return a_request(replaced(REQUEST, name, value))


def added(name: bytes, value: bytes, body: bytes = b"") -> bytes:
    """Return a valid request with one more header."""
    return a_request([*REQUEST, (name, value)], body=body)


REFUSED_REQUESTS: dict[str, tuple[bytes, int]] = {
    # A header is missing or repeated.
    "no Host": (a_request(without(REQUEST, b"Host")), 400),
    "no Connection": (a_request(without(REQUEST, b"Connection")), 400),
    "no key": (a_request(without(REQUEST, b"Sec-WebSocket-Key")), 400),
    "no version": (a_request(without(REQUEST, b"Sec-WebSocket-Version")), 400),
    "two Host": (added(b"Host", b"example.com"), 400),
    "two keys": (added(b"Sec-WebSocket-Key", KEY), 400),
    "two versions": (added(b"Sec-WebSocket-Version", b"13"), 426),
    # The key is not 16 bytes in base64.
    "empty key": (changed(b"Sec-WebSocket-Key", b""), 400),
    "short key": (changed(b"Sec-WebSocket-Key", b"bad"), 400),
    "key of 15 bytes": (changed(b"Sec-WebSocket-Key", base64.b64encode(bytes(15))), 400),
    "key of 17 bytes": (changed(b"Sec-WebSocket-Key", base64.b64encode(bytes(17))), 400),
    "key without padding": (changed(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ"), 400),
    "key with more padding": (changed(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZ==="), 400),
    "key not base64": (changed(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZ!=="), 400),
    "key not ASCII": (changed(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZ\xff=="), 400),
    "list of keys": (changed(b"Sec-WebSocket-Key", KEY + b", " + KEY), 400),
    # Versions before HTTP/1.1.
    "HTTP/1.0": (a_request(start=b"GET /chat HTTP/1.0"), 400),
    "HTTP/0.9": (a_request(start=b"GET /chat HTTP/0.9"), 400),
    # Bytes outside ASCII where they matter.
    "Host not ASCII": (changed(b"Host", b"caf\xc3\xa9"), 400),
    "subprotocol not ASCII": (changed(b"Sec-WebSocket-Protocol", b"caf\xc3\xa9"), 400),
    "Connection not ASCII": (changed(b"Connection", b"\xff"), 400),
    "Connection with a byte not ASCII": (changed(b"Connection", b"Upgrade\xff"), 400),
    # A body.
    "Content-Length": (added(b"Content-Length", b"5", b"hello"), 400),
    "chunked": (added(b"Transfer-Encoding", b"chunked", b"0\r\n\r\n"), 400),
    "unknown transfer coding": (added(b"Transfer-Encoding", b"gzip"), 501),
    # Not HTTP.
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a word": (b"hello\r\n\r\n", 400),
    "space after a name": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    "path not ASCII": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "null byte": (b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n", 400),
    "length not a number": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED_REQUESTS)
def test_server_handshake_bad_request_is_refused(name: str) -> None:
    data, status = REFUSED_REQUESTS[name]
    assert refused(data).status == status


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Sec-WebSocket-Extensions", b"\xff"),
        (b"Cookie", b"\xff"),
        (b"Origin", b"\xff"),
        (b"Connection", b"\xff, Upgrade"),
    ],
)
def test_server_handshake_non_ascii_elsewhere_is_accepted(name: bytes, value: bytes) -> None:
    assert accepted(server(changed(name, value)))[0].status == 101


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/2.0"])
def test_server_handshake_later_http_version_needs_host(version: bytes) -> None:
    data = a_request(without(REQUEST, b"Host"), start=b"GET /chat " + version)
    assert refused(data).status in (400, 505)


def test_server_handshake_missing_version_names_13() -> None:
    response = refused(a_request(without(REQUEST, b"Sec-WebSocket-Version")))
    assert response.value(b"Sec-WebSocket-Version") == b"13"


@pytest.mark.parametrize(
    "data",
    [
        a_request(start=b"POST / HTTP/1.1"),
        a_request([(b"Host", b"h")]),
        a_request(without(REQUEST, b"Sec-WebSocket-Key")),
        b"hello\r\n\r\n",
    ],
)
def test_server_handshake_bad_request_says_why(data: bytes) -> None:
    response = refused(data)
    assert response.value(b"Content-Type") == b"text/plain; charset=utf-8"
    assert int(response.value(b"Content-Length")) == len(response.body)
    assert response.body.decode().strip()


@pytest.mark.parametrize(
    "data", [a_request(start=b"POST / HTTP/1.1"), a_request(without(REQUEST, b"Sec-WebSocket-Key"))]
)
def test_server_handshake_bad_request_closes_connection(data: bytes) -> None:
    assert b"close" in refused(data).tokens(b"Connection")


def test_server_handshake_bad_request_is_not_repeated() -> None:
    data = b"GET / HTTP/1.1\r\nX: " + b"\0" * 10000 + b"\r\n\r\n"
    assert len(refused(data).body) < 1000


# Limits on a head

LONG = a_request([*REQUEST, (b"X-Padding", b"x" * 5000)])


def test_server_handshake_head_within_limit_is_accepted() -> None:
    server(LONG, max_header_size=len(LONG))


def test_server_handshake_incomplete_head_over_limit_gets_431() -> None:
    response = refused(LONG[:1001], max_header_size=1000)
    assert response.status == 431
    assert b"more than max_header_size=1000 bytes, or more than 256 lines" in response.body


def test_server_handshake_head_over_limit_at_once_gets_431() -> None:
    assert refused(LONG, max_header_size=1000).status == 431


def test_server_handshake_head_over_limit_by_bytes_gets_431() -> None:
    handshake = ServerHandshake(Options(max_header_size=1000))
    for piece in single_bytes(LONG[:1000]):
        handshake.receive_data(piece)
        assert not handshake.has_request()
    handshake.receive_data(LONG[1000:1001])
    with pytest.raises(BadRequest) as caught:
        handshake.has_request()
    assert Message.parse(caught.value.response).status == 431


def test_server_handshake_limit_excludes_trailing_bytes() -> None:
    data = a_request(body=b"x" * 5000)
    _, opened = accepted(server(data, max_header_size=len(a_request())))
    assert len(opened.trailing) == 5000


def test_server_handshake_default_limit_is_64_kib() -> None:
    padding = 65536 - len(a_request([*REQUEST, (b"X", b"")]))
    server(a_request([*REQUEST, (b"X", b"x" * padding)]))


# A server's responses


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([b"chat, superchat"], ("chat", "superchat")),
        ([b"chat", b"superchat"], ("chat", "superchat")),
        ([b",chat ,, superchat,"], ("chat", "superchat")),
        ([], ()),
    ],
)
def test_server_handshake_lists_subprotocols(values: list[bytes], names: tuple[str, ...]) -> None:
    handshake = server(a_request(replaced(REQUEST, b"Sec-WebSocket-Protocol", *values)))
    assert handshake.proposed_subprotocols == names


def offering_chat() -> ServerHandshake:
    return server(a_request([*REQUEST, (b"Sec-WebSocket-Protocol", b"chat, superchat")]))


def test_server_handshake_accept_sends_subprotocol() -> None:
    response, opened = accepted(offering_chat(), subprotocol="superchat")
    assert response.value(b"Sec-WebSocket-Protocol") == b"superchat"
    assert opened.subprotocol == "superchat"


def test_server_handshake_accept_without_subprotocol() -> None:
    response, opened = accepted(offering_chat())
    assert response.values(b"Sec-WebSocket-Protocol") == []
    assert opened.subprotocol is None


@pytest.mark.parametrize(
    ("handshake", "offers"), [(offering_chat(), "chat, superchat"), (server(), "none")]
)
def test_server_handshake_accept_other_subprotocol_raises(
    handshake: ServerHandshake, offers: str
) -> None:
    with pytest.raises(ValueError, match=f"'soap' is not among those offered: {offers}"):
        handshake.accept("soap", None)


def test_server_handshake_accept_again_after_error() -> None:
    handshake = server()
    with pytest.raises(ValueError, match="header name"):
        handshake.accept(None, [(b"no name", b"")])
    assert accepted(handshake)[0].status == 101


# Extra headers, in accept, reject and requests


def of_a_client(extra_headers: ExtraHeaders) -> bytes:
    return ClientHandshake("example.com", "/", None, extra_headers, Options()).request


def of_an_acceptance(extra_headers: ExtraHeaders) -> bytes:
    return server().accept(None, extra_headers)[0]


def of_a_rejection(extra_headers: ExtraHeaders) -> bytes:
    return server().reject(403, extra_headers)


TAKERS = [of_a_client, of_an_acceptance, of_a_rejection]
taken = pytest.mark.parametrize("take", TAKERS)


@taken
def test_server_handshake_extra_headers_are_sent_unchanged(
    take: Callable[[ExtraHeaders], bytes],
) -> None:
    message = Message.parse(take([(b"x-ONE", b"1"), ("X-Two", "2"), (b"x-one", b"\xff")]))
    ours = [pair for pair in message.headers if pair[0].lower().startswith(b"x-")]
    assert ours == [(b"x-ONE", b"1"), (b"X-Two", b"2"), (b"x-one", b"\xff")]


@taken
def test_server_handshake_extra_headers_from_iterator(
    take: Callable[[ExtraHeaders], bytes],
) -> None:
    message = Message.parse(take(iter([(b"X-A", b"1"), (b"X-B", b"2")])))
    assert {(b"X-A", b"1"), (b"X-B", b"2")} <= set(message.headers)


@taken
def test_server_handshake_extra_headers_replace_own(take: Callable[[ExtraHeaders], bytes]) -> None:
    message = Message.parse(take([(b"connection", b"Upgrade, X")]))
    assert message.values(b"Connection") == [b"Upgrade, X"]


@taken
def test_extra_headers_list_is_not_changed(take: Callable[[ExtraHeaders], bytes]) -> None:
    extra_headers: list[Any] = [(b"X", b"1")]
    take(extra_headers)
    assert extra_headers == [(b"X", b"1")]


@taken
@pytest.mark.parametrize(
    "header",
    [
        (b"no name", b""),
        (b"", b""),
        (b"X", b"a\r\nY: b"),
        (b"X", b"a\0b"),
        ("X", "a\nb"),
        ("Ä", "x"),
        ("X", "ä"),
        (b"Content-Length", b"x"),
    ],
)
def test_extra_headers_impossible_raises(
    take: Callable[[ExtraHeaders], bytes], header: tuple[bytes, bytes]
) -> None:
    with pytest.raises(ValueError, match=r"can't be sent|can't encode"):
        take([header])


@pytest.mark.parametrize("take", [of_a_client, of_a_rejection])
def test_reject_wrong_content_length_raises(
    take: Callable[[ExtraHeaders], bytes],
) -> None:
    with pytest.raises(ValueError, match="can't be sent"):
        take([(b"Content-Length", b"5")])


@taken
@pytest.mark.parametrize("header", [(b"X", None), (1, b"x"), (b"X", bytearray(b"x"))])
def test_extra_headers_wrong_type_raises(
    take: Callable[[ExtraHeaders], bytes], header: Any
) -> None:
    with pytest.raises(TypeError, match="the name and value of a header must be bytes or str"):
        take([header])


@taken
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"A": "b"}, "not a dict"),
        ("A: b", "not 'A: b'"),
        (5, "not 5"),
        (["A: b"], "and one element is 'A: b'"),
        ([(b"A", b"b", b"c")], "and one element is (b'A', b'b', b'c')"),
        (["ab"], "and one element is 'ab'"),
    ],
)
def test_extra_headers_other_than_pairs_raise_type_error(
    take: Callable[[ExtraHeaders], bytes], headers: Any, text: str
) -> None:
    expected = f"extra_headers must be a list of (name, value) pairs, {text}"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        take(headers)


@taken
def test_extra_headers_may_be_an_iterator(take: Callable[[ExtraHeaders], bytes]) -> None:
    assert b"X: 1" in take(iter([(b"X", b"1")]))


# A server's rejections


def rejected(status_code: int, *arguments: Any) -> Message:
    return Message.parse(server().reject(status_code, *arguments))


def test_reject_sends_status_body_and_length() -> None:
    response = rejected(403, [(b"X", b"1")], b"no entry")
    assert response.status == 403
    assert response.value(b"Content-Length") == b"8"
    assert response.value(b"X") == b"1"
    assert response.body == b"no entry"


@pytest.mark.parametrize("body", [None, b""])
def test_reject_without_body_sends_length_0(body: bytes | None) -> None:
    response = rejected(403, None, body)
    assert response.value(b"Content-Length") == b"0"
    assert response.body == b""


def test_reject_sends_connection_close() -> None:
    assert rejected(403).tokens(b"Connection") == {b"close"}


@pytest.mark.parametrize("status_code", [200, 302, 401, 503, 999])
def test_reject_any_final_status_is_accepted(status_code: int) -> None:
    assert rejected(status_code).status == status_code


@pytest.mark.parametrize("status_code", [0, 100, 101, 199, 1000, -1])
def test_reject_status_not_final_raises(status_code: int) -> None:
    with pytest.raises(ValueError, match="status_code must be between 200 and 999"):
        server().reject(status_code)


def test_reject_chunked_body_is_sent() -> None:
    response = rejected(403, [(b"Transfer-Encoding", b"chunked")], b"hello")
    assert response.body == b"5\r\nhello\r\n0\r\n\r\n"
    assert response.values(b"Content-Length") == []


def test_reject_given_content_length_is_sent() -> None:
    response = rejected(403, [(b"content-length", b"5")], b"hello")
    assert response.values(b"Content-Length") == [b"5"]
    assert response.body == b"hello"


@pytest.mark.parametrize("status_code", [204, 304])
def test_reject_status_without_body_has_no_length(status_code: int) -> None:
    # RFC 9110, 8.6: a 204 has none, and a 304 could only have that of the 200.
    assert rejected(status_code).values(b"Content-Length") == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((100,), ValueError),
        ((403, [(b"no name", b"")]), ValueError),
        ((403, [("Ä", b"")]), ValueError),
        ((403, [(b"X", None)]), TypeError),
        ((403, [(b"Content-Length", b"3")], b"hello"), ValueError),
        ((403, [(b"Content-Length", b"9")], b"hello"), ValueError),
        ((204, None, b"hello"), ValueError),
        ((403, None, "hello"), TypeError),
        ((403.0,), (TypeError, ValueError)),
    ],
)
def test_reject_again_after_error(arguments: tuple[Any, ...], error: Any) -> None:
    handshake = server()
    with pytest.raises(error):
        handshake.reject(*arguments)
    assert Message.parse(handshake.reject(404)).status == 404


@pytest.mark.timeout(2)
def test_accept_after_error_of_reject() -> None:
    handshake = server()
    with pytest.raises(ValueError, match="can't be sent"):
        handshake.reject(204, None, b"hello")
    assert accepted(handshake)[0].status == 101


# The client


def client(
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Any,
) -> ClientHandshake:
    return ClientHandshake("example.com", "/chat", subprotocols, extra_headers, Options(**options))


def requested(handshake: ClientHandshake) -> Message:
    return Message.parse(handshake.request)


def accept_of(handshake: ClientHandshake) -> bytes:
    key = requested(handshake).value(b"Sec-WebSocket-Key")
    magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key + magic).digest())


def acceptance(handshake: ClientHandshake) -> Headers:
    return [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", accept_of(handshake)),
    ]


def answered(
    handshake: ClientHandshake,
    headers: Headers,
    *,
    start: bytes = b"HTTP/1.1 101 Switching Protocols",
    body: bytes = b"",
) -> HandshakeResult:
    handshake.receive_data(written(start, headers, body))
    opened = handshake.result()
    assert opened is not None
    return opened


def rejection(
    *pieces: bytes, options: dict[str, Any] | None = None, eof: bool = False
) -> ConnectionRejected:
    """Return the exception for a response with this HTTP status."""
    handshake = client(**(options or {}))
    with pytest.raises(ConnectionRejected) as caught:
        for piece in pieces:
            assert handshake.result() is None
            handshake.receive_data(piece)
        if eof:
            assert handshake.result() is None
            handshake.receive_data(b"")
        handshake.result()
    return caught.value


def test_client_handshake_sends_request() -> None:
    request = requested(client())
    key = request.value(b"Sec-WebSocket-Key")
    assert request.start == b"GET /chat HTTP/1.1"
    assert request.headers == [
        (b"Host", b"example.com"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Version", b"13"),
    ]
    assert request.body == b""


def test_client_handshake_key_has_16_bytes() -> None:
    key = requested(client()).value(b"Sec-WebSocket-Key")
    assert len(base64.b64decode(key, validate=True)) == 16


def test_client_handshake_keys_differ() -> None:
    keys = {requested(client()).value(b"Sec-WebSocket-Key") for _ in range(20)}
    assert len(keys) == 20


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:8000", "[::1]", "[::1]:8000", "localhost"]
)
def test_client_handshake_sends_host(host: str) -> None:
    handshake = ClientHandshake(host, "/", None, None, Options())
    assert requested(handshake).value(b"Host") == host.encode()


@pytest.mark.parametrize(
    ("host", "resource"),
    [("example.com", "/a b"), ("example.com", ""), ("example.com", "/\n"), ("a\r\nb", "/")],
)
def test_client_handshake_impossible_request_raises(host: str, resource: str) -> None:
    with pytest.raises(ValueError, match="can't be sent in an HTTP request"):
        ClientHandshake(host, resource, None, None, Options())


@pytest.mark.parametrize(
    ("subprotocols", "values"),
    [
        (None, []),
        ([], []),
        (["chat"], [b"chat"]),
        (["superchat", "chat"], [b"superchat, chat"]),
        (("v1.json", "v1.json", "v2"), [b"v1.json, v2"]),
        (iter(["chat"]), [b"chat"]),
    ],
)
def test_client_handshake_sends_subprotocols(
    subprotocols: Iterable[str] | None, values: list[bytes]
) -> None:
    assert requested(client(subprotocols)).values(b"Sec-WebSocket-Protocol") == values


@pytest.mark.parametrize("subprotocols", ["chat", b"chat", [b"chat"], [None]])
def test_client_handshake_subprotocols_wrong_type_raises(subprotocols: Any) -> None:
    with pytest.raises(TypeError, match="str"):
        client(subprotocols)


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "a\r\nb", '"a"', "a/b"])
def test_client_handshake_subprotocol_no_token_raises(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of a subprotocol"):
        client([name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Host", b"other.example"),
        (b"host", b"other.example"),
        (b"Sec-WebSocket-Key", KEY),
        (b"Sec-WebSocket-Protocol", b"soap"),
        (b"Authorization", b"Basic Og=="),
    ],
)
def test_client_handshake_extra_header_is_sent_once(name: bytes, value: bytes) -> None:
    request = requested(client(["chat"], [(name, value)]))
    assert [pair for pair in request.headers if pair[0].lower() == name.lower()] == [(name, value)]


def test_client_handshake_two_hosts_raise() -> None:
    with pytest.raises(ValueError, match="multiple Host"):
        client(None, [(b"Host", b"a"), (b"Host", b"b")])


# Responses that a client accepts


def test_client_handshake_101_is_accepted() -> None:
    handshake = client()
    opened = answered(handshake, acceptance(handshake))
    assert opened.path == "/chat"
    assert opened.subprotocol is None
    assert opened.trailing == b""


def test_client_handshake_101_byte_by_byte() -> None:
    handshake = client()
    data = written(b"HTTP/1.1 101 OK", acceptance(handshake))
    *pieces, last = single_bytes(data)
    for piece in pieces:
        handshake.receive_data(piece)
        assert handshake.result() is None
    handshake.receive_data(last)
    assert handshake.result() is not None


def test_client_handshake_trailing_bytes_are_kept() -> None:
    handshake = client()
    opened = answered(handshake, acceptance(handshake), body=b"\x81\x02hi")
    assert opened.trailing == b"\x81\x02hi"


def test_client_handshake_accepted_exchanges_frames() -> None:
    handshake = client()
    protocol = Protocol(answered(handshake, acceptance(handshake)).side, Options())
    protocol.reader.receive_data(b"\x81\x02hi")
    assert protocol.next_event() == "hi"


def test_server_handshake_own_headers_come_first() -> None:
    handshake = client()
    headers = [(b"Server", b"x"), *acceptance(handshake), (b"Date", b"y"), (b"Server", b"z")]
    opened = answered(handshake, headers)
    assert opened.headers == (
        (b"server", b"x"),
        (b"date", b"y"),
        (b"server", b"z"),
        *((name.lower(), value) for name, value in acceptance(handshake)),
    )


def test_client_handshake_accept_value_is_checked() -> None:
    handshake = client(None, [(b"Sec-WebSocket-Key", KEY)])
    answered(handshake, replaced(acceptance(handshake), b"Sec-WebSocket-Accept", ACCEPT))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (b"Upgrade", [b"WebSocket"]),
        (b"Connection", [b"upgrade"]),
        (b"Connection", [b"keep-alive, Upgrade"]),
        (b"Connection", [b"keep-alive", b"Upgrade"]),
        (b"Sec-WebSocket-Extensions", [b""]),
        (b"X", [b"\xff"]),
    ],
)
def test_client_handshake_valid_101_is_accepted(name: bytes, values: list[bytes]) -> None:
    handshake = client()
    answered(handshake, replaced(acceptance(handshake), name, *values))


@pytest.mark.parametrize("name", [b"superchat", b"chat"])
def test_client_handshake_subprotocol_of_server(name: bytes) -> None:
    handshake = client(["superchat", "chat"])
    opened = answered(handshake, [*acceptance(handshake), (b"Sec-WebSocket-Protocol", name)])
    assert opened.subprotocol == name.decode()


def test_client_handshake_no_subprotocol_of_server() -> None:
    handshake = client(["chat"])
    assert answered(handshake, acceptance(handshake)).subprotocol is None


def test_client_handshake_subprotocol_in_extra_header() -> None:
    handshake = client(None, [(b"Sec-WebSocket-Protocol", b"chat")])
    opened = answered(handshake, [*acceptance(handshake), (b"Sec-WebSocket-Protocol", b"chat")])
    assert opened.subprotocol == "chat"


# Responses that a client refuses


def test_client_handshake_subprotocol_non_ascii_fails() -> None:
    header = (b"Sec-WebSocket-Protocol", b"caf\xc3\xa9")
    handshake = client(None, [header])
    with pytest.raises(HandshakeError):
        answered(handshake, [*acceptance(handshake), header])


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        (b"Upgrade", [], "lacks 'Upgrade: websocket'"),
        (b"Upgrade", [b"h2c"], "lacks 'Upgrade: websocket'"),
        (b"Upgrade", [b"websocket, h2c"], "lacks 'Upgrade: websocket'"),
        (b"Connection", [], "lacks 'Connection: Upgrade'"),
        (b"Connection", [b"close"], "lacks 'Connection: Upgrade'"),
        (b"Connection", [b"\xff"], "lacks 'Connection: Upgrade'"),
        (b"Sec-WebSocket-Accept", [], "does not match our key"),
        (b"Sec-WebSocket-Accept", [b""], "does not match our key"),
        (b"Sec-WebSocket-Accept", [b"\xff"], "does not match our key"),
        (b"Sec-WebSocket-Accept", [ACCEPT], "does not match our key"),
        (b"Sec-WebSocket-Extensions", [b"permessage-deflate"], "an extension that was not offered"),
        (b"Sec-WebSocket-Extensions", [b"\xff"], "an extension that was not offered"),
        (b"Sec-WebSocket-Protocol", [b"soap"], "chose the subprotocol 'soap', not offered"),
        (b"Sec-WebSocket-Protocol", [b"CHAT"], "chose the subprotocol 'CHAT', not offered"),
        (b"Sec-WebSocket-Protocol", [b""], "chose the subprotocol '', not offered"),
        (b"Sec-WebSocket-Protocol", [b"\xff"], "chose the subprotocol 'ÿ', not offered"),
        (b"Sec-WebSocket-Protocol", [b"chat", b"chat"], "chose the subprotocol 'chat, chat'"),
    ],
)
def test_client_handshake_invalid_101_fails(name: bytes, values: list[bytes], text: str) -> None:
    handshake = client(["chat"])
    with pytest.raises(HandshakeError, match=text):
        answered(handshake, replaced(acceptance(handshake), name, *values))


def test_client_handshake_repeated_accept_fails() -> None:
    handshake = client()
    double = (b"Sec-WebSocket-Accept", accept_of(handshake))
    with pytest.raises(HandshakeError, match="does not match our key"):
        answered(handshake, [*acceptance(handshake), double])


def test_client_handshake_unrequested_subprotocol_fails() -> None:
    handshake = client()
    with pytest.raises(HandshakeError, match="not offered"):
        answered(handshake, [*acceptance(handshake), (b"Sec-WebSocket-Protocol", b"chat")])


def test_client_handshake_http_1_0_fails() -> None:
    handshake = client()
    with pytest.raises(HandshakeError, match=r"HTTP/1\.0"):
        answered(handshake, acceptance(handshake), start=b"HTTP/1.0 101 OK")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",  # a TLS alert
        b"\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 099 Too Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: x\r\n\r\n",
        b"Content-Length: x\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"Content-Length: x\r\n" * 257 + b"\r\n",
    ],
)
def test_client_handshake_not_http_fails(data: bytes) -> None:
    handshake = client()
    handshake.receive_data(data)
    with pytest.raises(HandshakeError, match="the server did not answer in HTTP") as caught:
        handshake.result()
    assert caught.value.__cause__ is not None


def test_client_handshake_response_without_upgrade_fails() -> None:
    handshake = client(None, [(b"Upgrade", b"")])
    with pytest.raises(HandshakeError):
        answered(handshake, acceptance(handshake))


@pytest.mark.parametrize("size", [0, 1, 30])
def test_client_handshake_eof_before_response_fails(size: int) -> None:
    handshake = client()
    if size:
        handshake.receive_data(b"HTTP/1.1 101 Switching Protocols\r\n"[:size])
    assert handshake.result() is None
    with pytest.raises(ConnectionFailed, match="before it answered"):
        handshake.receive_data(b"")


@pytest.mark.parametrize("start", [b"HTTP/1.1 101 OK", b"HTTP/1.1 403 Forbidden"])
@pytest.mark.parametrize("size", [1001, 1500])
def test_client_handshake_head_over_limit_fails(start: bytes, size: int) -> None:
    handshake = client(max_header_size=1000)
    data = written(start, [*acceptance(handshake), (b"X", b"x" * 2000)])
    handshake.receive_data(data[:size])
    with pytest.raises(HandshakeError, match="response has more than max_header_size=1000 bytes"):
        handshake.result()


@pytest.mark.parametrize("start", [b"HTTP/1.1 101 OK", b"HTTP/1.1 403 Forbidden"])
def test_client_handshake_head_over_limit_at_once_fails(start: bytes) -> None:
    handshake = client(max_header_size=1000)
    with pytest.raises(HandshakeError, match="response has more than max_header_size=1000 bytes"):
        answered(handshake, [*acceptance(handshake), (b"X", b"x" * 1000)], start=start)


def test_client_handshake_limit_excludes_trailing_bytes() -> None:
    handshake = client(max_header_size=200)
    assert len(answered(handshake, acceptance(handshake), body=b"x" * 500).trailing) == 500


def test_client_handshake_limit_excludes_rejection_body() -> None:
    pieces = [b"HTTP/1.1 403 X\r\nContent-Length: 500\r\n\r\n", b"x" * 200, b"x" * 300]
    assert rejection(*pieces, options={"max_header_size": 100}).body == b"x" * 500


# Rejections, as a client sees them


@pytest.mark.parametrize("status_code", [200, 302, 401, 403, 426, 500, 999])
def test_client_handshake_other_status_is_rejection(status_code: int) -> None:
    exc = rejection(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nX-Y: z\r\n\r\nno" % status_code)
    assert exc.status_code == status_code
    assert exc.headers == ((b"content-length", b"2"), (b"x-y", b"z"))
    assert exc.body == b"no"


def test_client_handshake_rejected_before_body() -> None:
    handshake = client()
    handshake.receive_data(b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\n")
    assert not handshake.has_response
    assert handshake.result() is None
    assert handshake.has_response


def test_client_handshake_rejection_has_received_body() -> None:
    handshake = client()
    handshake.receive_data(b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\nno")
    assert handshake.result() is None
    exc = handshake.rejected()
    assert (exc.status_code, exc.body) == (403, b"no")


@pytest.mark.parametrize("status_code", [100, 102, 103, 199])
def test_client_handshake_1xx_is_rejection_without_body(status_code: int) -> None:
    exc = rejection(b"HTTP/1.1 %d X\r\nX-Y: z\r\n\r\n" % status_code, eof=True)
    assert (exc.status_code, exc.headers, exc.body) == (status_code, ((b"x-y", b"z"),), None)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\nno entry",
        b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n5\r\nentry\r\n0\r\n\r\n",
        b"HTTP/1.0 403 X\r\nContent-Length: 8\r\n\r\nno entry",
    ],
)
def test_client_handshake_rejection_body_byte_by_byte(response: bytes) -> None:
    assert rejection(*single_bytes(response)).body == b"no entry"


def test_client_handshake_rejection_without_length_to_eof() -> None:
    exc = rejection(b"HTTP/1.1 403 X\r\n\r\nno ", b"entry", eof=True)
    assert (exc.status_code, exc.body) == (403, b"no entry")


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\nno", b"no"),
        (b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\n", b""),
        (b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nno", b"no"),
    ],
)
def test_client_handshake_rejection_body_cut_off(response: bytes, body: bytes) -> None:
    exc = rejection(response, eof=True)
    assert (exc.status_code, exc.body) == (403, body)


def test_client_handshake_rejection_body_malformed() -> None:
    exc = rejection(b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\nx\r\n")
    assert (exc.status_code, exc.body) == (403, b"no")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 304 X\r\nContent-Length: 8\r\n\r\n",
        b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_client_handshake_rejection_no_body_needs_no_eof(response: bytes) -> None:
    assert rejection(response).body == b""


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 X\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n3B9ACA00\r\n",
        b"HTTP/1.1 403 X\r\n\r\n",
    ],
)
def test_client_handshake_rejection_body_is_limited(head: bytes) -> None:
    exc = rejection(head, b"x" * 60, b"x" * 60, options={"max_rejection_body": 100})
    assert exc.body == b"x" * 100


def test_client_handshake_rejection_body_stops_at_limit() -> None:
    head = b"HTTP/1.1 403 X\r\nContent-Length: 101\r\n\r\n"
    exc = rejection(head, b"x" * 100, options={"max_rejection_body": 100})
    assert exc.body == b"x" * 100


def test_client_handshake_rejection_body_limit_0() -> None:
    exc = rejection(
        b"HTTP/1.1 403 X\r\nContent-Length: 8\r\n\r\nno entry", options={"max_rejection_body": 0}
    )
    assert exc.body == b""


# Both sides together


@pytest.mark.parametrize("split", [single_bytes, lambda data: [data]])
@pytest.mark.parametrize("subprotocol", [None, "chat"])
def test_handshake_client_and_server_agree(
    split: Callable[[bytes], list[bytes]], subprotocol: str | None
) -> None:
    asking, asked = client(["soap", "chat"], [(b"X-Ask", b"1")]), ServerHandshake(Options())
    for piece in split(asking.request):
        assert not asked.has_request()
        asked.receive_data(piece)
    assert asked.has_request()
    assert asked.proposed_subprotocols == ("soap", "chat")
    response, of_server = asked.accept(subprotocol, [(b"X-Answer", b"2")])
    of_client = None
    for piece in split(response):
        assert of_client is None
        asking.receive_data(piece)
        of_client = asking.result()
    assert of_client is not None
    assert of_client.subprotocol == of_server.subprotocol == subprotocol
    assert of_client.path == of_server.path == "/chat"
    assert (b"x-ask", b"1") in of_server.headers
    assert of_client.headers[0] == (b"x-answer", b"2")
    ours, theirs = Protocol(of_client.side, Options()), Protocol(of_server.side, Options())
    theirs.reader.receive_data(ours.writer.message(True, "grüß".encode()))
    assert [theirs.next_event(), theirs.next_event()] == ["grüß", NEED_DATA]


def test_handshake_client_sees_rejection_of_server() -> None:
    asking, asked = client(), ServerHandshake(Options())
    asked.receive_data(asking.request)
    assert asked.has_request()
    asking.receive_data(asked.reject(403, [(b"X", b"1")], b"no entry"))
    with pytest.raises(ConnectionRejected) as caught:
        asking.result()
    exc = caught.value
    assert (exc.status_code, exc.body) == (403, b"no entry")
    assert (b"x", b"1") in exc.headers


def test_handshake_client_sees_why_request_was_bad() -> None:
    asking, asked = client(None, [(b"Sec-WebSocket-Key", b"bad")]), ServerHandshake(Options())
    asked.receive_data(asking.request)
    with pytest.raises(BadRequest) as bad:
        asked.has_request()
    asking.receive_data(bad.value.response)
    with pytest.raises(ConnectionRejected) as caught:
        asking.result()
    assert caught.value.status_code == 400
    assert caught.value.body == str(bad.value).encode() + b"\n"


@pytest.mark.parametrize(
    "name", [b"Sec-WebSocket-Extensions", b"Content-Length", b"transfer-encoding"]
)
def test_accept_misleading_extra_header_raises(name: bytes) -> None:
    handshake = server()
    with pytest.raises(ValueError, match="can't be sent"):
        handshake.accept(None, [(name, b"chunked")])
    assert handshake.accept(None, None)[0].startswith(b"HTTP/1.1 101 ")


def test_accept_subprotocol_in_extra_headers() -> None:
    response, opened = server().accept(None, [(b"Sec-WebSocket-Protocol", b"chat")])
    assert Message.parse(response).values(b"Sec-WebSocket-Protocol") == [b"chat"]
    assert opened.subprotocol == "chat"


def test_server_handshake_offered_subprotocol_no_token_gets_400() -> None:
    extra = [*REQUEST, (b"Sec-WebSocket-Protocol", b"a b")]
    assert refused(a_request(extra)).status == 400


def test_client_handshake_rejection_body_unwanted_no_wait() -> None:
    handshake = client(max_rejection_body=0)
    handshake.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n")
    with pytest.raises(ConnectionRejected) as caught:
        handshake.result()
    assert caught.value.body == b""


def test_client_handshake_long_subprotocol_is_truncated() -> None:
    handshake = client()
    chosen = [(b"Sec-WebSocket-Protocol", b"x" * 60_000)]
    handshake.receive_data(written(b"HTTP/1.1 101 OK", [*acceptance(handshake), *chosen]))
    with pytest.raises(HandshakeError, match="xxxx") as caught:
        handshake.result()
    assert len(str(caught.value)) < 300


def test_server_handshake_length_of_many_digits_is_refused() -> None:
    data = a_request([*REQUEST, (b"Content-Length", b"9" * 5000)])
    assert refused(data).status == 400


def test_client_handshake_length_of_many_digits_fails() -> None:
    handshake = client()
    handshake.receive_data(written(b"HTTP/1.1 503 No", [(b"Content-Length", b"9" * 5000)]))
    with pytest.raises(ConnectionRejected):
        handshake.result()


@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Length: x",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Transfer-Encoding: chunked\r\ntransfer-encoding : x",
    ],
)
def test_client_handshake_odd_framing_is_rejection(framing: bytes) -> None:
    exc = rejection(b"HTTP/1.1 503 Too Busy\r\nX: y\r\n" + framing + b"\r\n\r\nno ", b"room")
    assert (exc.status_code, exc.reason_phrase) == (503, "Too Busy")
    assert exc.headers[0] == (b"x", b"y")
    assert exc.headers[1][0] in (b"transfer-encoding", b"content-length")
    assert exc.body == b""


@pytest.mark.parametrize(
    ("framing", "header"),
    [
        (b"Content-Length: x\n", (b"content-length", b"x")),
        (b"Transfer-Encoding: gzip,\r\n\tchunked\r\n", (b"transfer-encoding", b"gzip, chunked")),
    ],
)
def test_client_handshake_odd_framing_header_is_rejection(
    framing: bytes, header: tuple[bytes, bytes]
) -> None:
    exc = rejection(b"HTTP/1.1 503 Busy\nX: y\n" + framing + b"\nno room")
    assert exc.headers == ((b"x", b"y"), header)


@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "single bytes"])
def test_client_handshake_interim_then_odd_framing_is_rejection(
    cut: Callable[[bytes], list[bytes]],
) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    exc = rejection(*cut(interim + b"HTTP/1.1 403 No\r\nTransfer-Encoding: identity\r\n\r\n"))
    assert (exc.status_code, exc.reason_phrase) == (403, "No")
    assert exc.headers == ((b"transfer-encoding", b"identity"),)


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_client_handshake_interim_responses_are_skipped(status: int) -> None:
    handshake = client()
    for _ in range(10):
        handshake.receive_data(b"HTTP/1.1 %d Wait\r\nLink: x\r\n\r\n" % status)
        assert handshake.result() is None
    assert answered(handshake, acceptance(handshake)).headers[0][0] != b"link"


def test_client_handshake_interim_then_rejection() -> None:
    exc = rejection(b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n", eof=True)
    assert exc.status_code == 403


def test_client_handshake_eleven_interim_responses_fails() -> None:
    handshake = client()
    handshake.receive_data(11 * b"HTTP/1.1 100 Continue\r\n\r\n")
    with pytest.raises(HandshakeError, match="more than 10 interim responses"):
        handshake.result()


def test_server_handshake_empty_lines_before_are_ignored() -> None:
    handshake = ServerHandshake(Options())
    for data in (b"\r", b"\n\r\n", a_request()):
        assert not handshake.has_request()
        handshake.receive_data(data)
    assert handshake.has_request()
    assert server(b"\r\n" + a_request()).path == handshake.path


def test_server_handshake_only_empty_lines_gets_431() -> None:
    handshake = ServerHandshake(Options(max_header_size=100))
    handshake.receive_data(b"\r\n" * 50)
    with pytest.raises(BadRequest) as caught:
        handshake.receive_data(b"\r\n")
    assert Message.parse(caught.value.response).status == 431


def test_server_handshake_value_error_of_h11_gets_400(monkeypatch: pytest.MonkeyPatch) -> None:
    # h11 before 0.15 converts any Content-Length to an int, which fails for thousands of digits.
    def fail(self: h11.Connection) -> None:
        raise ValueError("Exceeds the limit for integer string conversion")

    monkeypatch.setattr(h11.Connection, "next_event", fail)
    request = a_request().replace(b"GET ", b"POST ")  # not plain, so h11 parses it
    assert refused(request).status == 400


# Plain requests are parsed without h11


ODD_REQUESTS = {
    "plain": a_request(),
    "frames behind it": a_request(body=b"\x81\x80\0\0\0\0"),
    "a query": a_request(start=b"GET /?a=b&c HTTP/1.1"),
    "an absolute target": a_request(start=b"GET ws://example.com/x HTTP/1.1"),
    "no target": a_request(start=b"GET  HTTP/1.1"),
    "POST": a_request(start=b"POST / HTTP/1.1"),
    "lower case": a_request(start=b"get / HTTP/1.1"),
    "HTTP/1.0": a_request(start=b"GET / HTTP/1.0"),
    "HTTP/2.0": a_request(start=b"GET / HTTP/2.0"),
    "two Hosts": a_request([*REQUEST, (b"Host", b"b")]),
    "host": a_request([(b"host" if name == b"Host" else name, value) for name, value in REQUEST]),
    "no Host": a_request(without(REQUEST, b"Host")),
    "an empty Host": a_request(replaced(REQUEST, b"Host", b"")),
    "Content-Length: 0": a_request([*REQUEST, (b"Content-Length", b"0")]),
    "Content-Length: 5": a_request([*REQUEST, (b"Content-Length", b"5")]),
    "Content-Length: x": a_request([*REQUEST, (b"Content-Length", b"x")]),
    "Transfer-Encoding": a_request([*REQUEST, (b"Transfer-Encoding", b"chunked")]),
    "256 lines": a_request([*REQUEST, *[(b"a", b"b")] * (256 - len(REQUEST))]),
    "257 lines": a_request([*REQUEST, *[(b"a", b"b")] * (257 - len(REQUEST))]),
    "a long line": a_request([*REQUEST, (b"a", b"b" * 70_000)]),
    "spaces": a_request([*REQUEST, (b"a", b"  b  c  ")]),
    "tabs": a_request([*REQUEST, (b"a", b"\tb\tc\t")]),
    "no space": a_request().replace(b": ", b":"),
    "a space before the colon": a_request([*REQUEST, (b"a ", b"b")]),
    "an empty value": a_request([*REQUEST, (b"a", b"")]),
    "an empty name": a_request([*REQUEST, (b"", b"b")]),
    "a folded line": a_request([*REQUEST, (b"a", b"b\r\n c")]),
    "bytes": a_request([*REQUEST, (b"a", b"\xff\x80")]),
    "a NUL": a_request([*REQUEST, (b"a", b"b\0c")]),
    "DEL": a_request([*REQUEST, (b"a", b"b\x7fc")]),
    "line feeds": a_request().replace(b"\r\n", b"\n"),
    "carriage returns": a_request([*REQUEST, (b"a", b"b\rc")]),
    "lines before": b"\r\n\r\n" + a_request(),
    "subprotocols": a_request([*REQUEST, (b"Sec-WebSocket-Protocol", b"a, b")]),
    "two lines of subprotocols": a_request([*REQUEST, *[(b"sec-websocket-protocol", b"a")] * 2]),
    "bad subprotocols": a_request([*REQUEST, (b"Sec-WebSocket-Protocol", b"a b")]),
    "no end": a_request()[:-2],
}


@pytest.mark.parametrize("request_", ODD_REQUESTS.values(), ids=list(ODD_REQUESTS))
def test_server_handshake_at_once_or_in_parts_is_same(request_: bytes) -> None:
    assert outcome(request_) == outcome(request_[:1], request_[1:])


def test_server_handshake_limit_holds_for_plain_requests() -> None:
    size = len(a_request())
    for limit in (size - 1, size):
        request = a_request(body=b"\x81\x80\0\0\0\0")
        both = [
            outcome(*chunks, max_header_size=limit)
            for chunks in ([request], [request[:1], request[1:]])
        ]
        assert both[0] == both[1]
        assert isinstance(both[0], bytes) == (limit < size)


LISTS = [b"Connection", b"Upgrade", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("lines", [1, 2])
def test_server_handshake_101_list_elements_gets_431(name: bytes, lines: int) -> None:
    others = [(key, value) for key, value in REQUEST if key != name]
    (first, *_) = [value for key, value in REQUEST if key == name] or [b"a"]
    elements = [first, *(b"a%d" % i for i in range(99))]
    assert server(a_request([*others, (name, b",".join(elements))])).path
    elements.append(b"x")
    half = len(elements) // lines
    values = [b", ".join(elements[:half]), b", ".join(elements[half:])][:lines]
    assert refused(a_request([*others, *((name, value) for value in values)])).status == 431


def test_server_handshake_101_parameters_gets_431() -> None:
    value = b"x" + b";a" * 100
    assert refused(a_request([*REQUEST, (b"Sec-WebSocket-Extensions", value)])).status == 431


@pytest.mark.parametrize("name", LISTS)
def test_client_handshake_101_list_elements_fails(name: bytes) -> None:
    handshake = client()
    headers = [*acceptance(handshake), (name, b"," * 100)]
    with pytest.raises(HandshakeError, match="has more than 100 elements"):
        answered(handshake, headers)


@pytest.mark.parametrize("lines", [255, 256])
def test_client_handshake_odd_framing_over_limits_fails(lines: int) -> None:
    head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: identity\r\n" + b"X: y\r\n" * lines
    handshake = client()
    handshake.receive_data(head + b"\r\n")
    is_allowed = lines < 256
    with pytest.raises(ConnectionRejected if is_allowed else HandshakeError) as caught:
        handshake.result()
    assert isinstance(caught.value, ConnectionRejected) == is_allowed


def test_server_handshake_empty_lines_count_in_size() -> None:
    answer = refused(b"\r\n" * 10 + b"GET / HTTP/1.1\r\nX: " + b"x" * 70, max_header_size=100)
    assert answer.status == 431


def test_client_handshake_interim_responses_count_in_size() -> None:
    handshake = client(max_header_size=100)
    handshake.receive_data(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert handshake.result() is None
    handshake.receive_data(b"x" * 80)  # a head that never ends
    with pytest.raises(HandshakeError, match="max_header_size=100"):
        handshake.result()


LINES = b"X: ,\r\n" * 300
START_LINES = {"valid": b"GET / HTTP/1.1\r\n", "invalid": b"\x01 / HTTP/1.1\r\n"}


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["partial", "complete"])
@pytest.mark.parametrize("start_line", ["valid", "invalid"])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_server_handshake_many_lines_refused_before_they_are_parsed(
    monkeypatch: pytest.MonkeyPatch, size: int, start_line: str, end: bytes
) -> None:
    fed: list[bytes] = []
    receive_data = h11.Connection.receive_data

    def note(http: h11.Connection, data: bytes) -> None:
        fed.append(bytes(data))
        receive_data(http, data)

    monkeypatch.setattr(h11.Connection, "receive_data", note)
    handshake = ServerHandshake(Options())
    head = START_LINES[start_line] + LINES + end
    with pytest.raises(BadRequest) as caught:
        for start in range(0, len(head), size):
            handshake.receive_data(head[start : start + size])
            assert not handshake.has_request()
    status = b" 431 " if start_line == "valid" else b" 400 "
    assert status in caught.value.response
    assert b"".join(fed).count(b"\n") <= 259


@pytest.mark.parametrize("fields", [256, 257])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_server_handshake_number_of_lines_is_exact(size: int, fields: int) -> None:
    extra = [(b"X", b"y")] * (fields - len(REQUEST))
    data = a_request([*REQUEST, *extra])
    handshake = ServerHandshake(Options())
    with pytest.raises(BadRequest) if fields > 256 else contextlib.nullcontext():
        for start in range(0, len(data), size):
            handshake.receive_data(data[start : start + size])
            if handshake.has_request():
                assert start + size >= len(data)
                return


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_client_handshake_many_lines_fails(size: int) -> None:
    handshake = client()
    head = b"HTTP/1.1 101 Switching Protocols\r\n" + LINES + b"\r\n"
    with pytest.raises(HandshakeError, match="more than 256 lines"):
        for start in range(0, len(head), size):
            handshake.receive_data(head[start : start + size])
            assert handshake.result() is None


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_client_handshake_lines_of_each_head_are_counted_alone(size: int) -> None:
    handshake = client()
    hints = b"HTTP/1.1 103 Early Hints\r\n" + b"X: y\r\n" * 200 + b"\r\n"
    data = hints * 3 + b"HTTP/1.1 101 Switching Protocols\r\n" + LINES
    with pytest.raises(HandshakeError, match="more than 256 lines"):
        for start in range(0, len(data), size):
            handshake.receive_data(data[start : start + size])
            assert handshake.result() is None
    assert handshake.interim is not None


@pytest.mark.parametrize("size", [1, 3, 5000])
def test_server_handshake_lines_after_folded_head_are_not_counted(size: int) -> None:
    handshake = ServerHandshake(Options())
    request = a_request([*REQUEST, (b"X", b" folded")])
    data = request.replace(b"X:", b"X:\r\n ") + b"\n" * 1000
    for start in range(0, len(data), size):
        handshake.receive_data(data[start : start + size])
    assert handshake.has_request()
    _, result = handshake.accept(None, None)
    assert result.trailing == b"\n" * 1000


def test_client_handshake_oddly_framed_rejection_over_size_fails() -> None:
    handshake = client(max_header_size=1000)
    head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: identity\r\nX: " + b"y" * 1000
    handshake.receive_data(head + b"\r\n\r\n")
    with pytest.raises(HandshakeError) as caught:
        handshake.result()
    assert not isinstance(caught.value, ConnectionRejected)
