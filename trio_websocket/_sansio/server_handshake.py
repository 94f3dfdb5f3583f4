"""The server's side of the opening handshake (RFC 6455, 4.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

import h11
import wsproto
import wsproto.utilities

from .deflate import DeflateCodec, DeflateExtension
from .errors import ConnectionFailed, printable
from .extensions import DeflateParameters, answer
from .handshake import (
    MAX_FIELDS,
    TOKEN,
    VERSION,
    ExtraHeaders,
    HandshakeResult,
    HeaderLimit,
    Headers,
    check_elements,
    check_headers,
    group_headers,
    header_bytes,
    header_values,
    merge_headers,
    next_event,
    split_tokens,
    split_tokens_lower,
    text_of_h11,
)
from .options import Options
from .url import request_target

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64 (RFC 6455, 4.1)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")  # what precedes the path in a URI
# Headers of a response to an accepted request that would tell what is not so.
_NOT_IN_101 = (b"sec-websocket-extensions", b"content-length", b"transfer-encoding")
# A request as nearly all clients write it, which takes a third of the time. Whatever does not match
# is for h11, that knows all of HTTP.
_PLAIN_REQUEST = re.compile(
    rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[!-~][ -~]*\r\n)+)\r\n"
)
# The names that are in most requests, so that each of those has not one of its own.
_NAMES = {
    name: name
    for name in (
        *(b"host", b"upgrade", b"connection", b"origin", b"user-agent", b"cookie", b"pragma"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"),
        *(b"sec-websocket-extensions", b"accept-encoding", b"accept-language", b"cache-control"),
    )
}


class BadRequest(Exception):
    """A request that is no WebSocket handshake. ``response`` is the answer to it."""

    def __init__(self, text: str, response: bytes) -> None:
        super().__init__(text)
        self.response = response


class _Request(NamedTuple):
    """An HTTP request, without a body."""

    method: bytes
    target: str
    http_version: bytes
    headers: Headers
    #: What came behind it.
    trailing: bytes
    #: Whether it is within the limits.
    is_allowed: bool


class ServerHandshake:
    """The server's side: takes a request, then accepts or rejects it."""

    def __init__(self, options: Options) -> None:
        """:param options: The bounds."""
        self._http: h11.Connection | None = None
        self._plain: tuple[bytes, _Request] | None = None  # what came, and what it is, without h11
        self._max_size = options.max_header_size
        self._head = HeaderLimit(options.max_header_size)
        self._is_begun = False  # the first byte of the request is here
        self._compression = options.compression
        self._answer: tuple[bytes, DeflateParameters] | None = None  # to the offers of compression
        self._method = b""
        self._trailing = b""
        self._fields: dict[bytes, list[bytes]] = {}
        #: The headers of the request, with names in lower case.
        self.headers: Headers = []
        #: The request target.
        self.path: str = ""
        #: The subprotocols that the client offers, the preferred one first.
        self.proposed_subprotocols: tuple[str, ...] = ()

    def receive_data(self, data: bytes) -> None:
        """Take bytes of the request; ``b""`` is the end of the stream."""
        if not data:
            raise ConnectionFailed("the client closed the connection before its request was whole")
        if not self._is_begun:
            # A robust server ignores empty lines before the request (RFC 9112, 2.2).
            rest = data.lstrip(b"\r\n")
            self._head.received += len(data) - len(rest)
            if self._head.received > self._max_size:
                raise self._too_long()
            if not rest:
                return
            data = rest
            self._is_begun = True
            request = _plain_request(data, self._max_size)
            if request is not None:
                self._plain = data, request
        self._head.received += len(data)
        if self._plain is None:
            self._h11().receive_data(data)

    def _h11(self) -> h11.Connection:
        if self._http is None:
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_size)
        return self._http

    def has_request(self) -> bool:
        """Whether the request is there, whole and valid.

        :raises BadRequest: It is no WebSocket handshake.
        """
        request = self._next_request() if self._plain is None else self._plain[1]
        if request is None:
            return False
        self._method = request.method
        self._trailing = request.trailing
        self.headers = request.headers
        self._fields = group_headers(self.headers)
        absolute = _ABSOLUTE.match(request.target)
        self.path = request.target
        if absolute:
            self.path = request_target(request.target[absolute.end() :])
        self._check(request)
        if self._compression is not None:
            extensions = self._fields.get(b"sec-websocket-extensions", ())
            try:
                self._answer = answer(extensions, self._compression)
            except ValueError as exc:
                raise self._refuse(400, str(exc)) from exc
        return True

    def _next_request(self) -> _Request | None:
        http = self._h11()
        try:
            event = next_event(http)
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
            text = f"this is no HTTP request: {text_of_h11(exc)}"
            raise (self._too_long() if status == 431 else self._refuse(status, text)) from exc
        if event is h11.NEED_DATA:
            if not self._head.fits(0, 0):  # with the empty lines before it, which h11 has not seen
                raise self._too_long()
            return None
        assert isinstance(event, h11.Request)
        return _Request(
            method=event.method,
            target=event.target.decode("ascii"),
            http_version=event.http_version,
            headers=[(_NAMES.get(name, name), value) for name, value in event.headers],
            trailing=bytes(http.trailing_data[0]),
            is_allowed=self._head.is_allowed(http, event),
        )

    def _check(self, request: _Request) -> None:
        # RFC 6455, 4.2.1
        if not request.is_allowed:
            raise self._too_long()
        if request.method != b"GET":
            raise self._refuse(405, "the method must be GET", (b"Allow", b"GET"))
        if request.http_version < b"1.1":
            raise self._refuse(400, "WebSocket needs HTTP/1.1")
        fields = self._fields
        try:
            check_elements(fields)
        except ValueError as exc:
            raise self._refuse(431, str(exc)) from exc
        if b"transfer-encoding" in fields or any(map(int, fields.get(b"content-length", ()))):
            raise self._refuse(400, "a WebSocket handshake has no body")
        if b"websocket" not in split_tokens_lower(fields.get(b"upgrade", ())):
            text = "this is a WebSocket server, and the request lacks 'Upgrade: websocket'"
            raise self._refuse(426, text)
        if b"upgrade" not in split_tokens_lower(fields.get(b"connection", ())):
            raise self._refuse(400, "the request lacks 'Connection: Upgrade'")
        versions = fields.get(b"sec-websocket-version")
        if versions != [VERSION]:
            status = 426 if versions else 400
            text = "the request lacks 'Sec-WebSocket-Version: 13'"
            raise self._refuse(status, text, (b"Sec-WebSocket-Version", VERSION))
        keys = fields.get(b"sec-websocket-key", ())
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise self._refuse(400, "a Sec-WebSocket-Key has 16 bytes in base64")
        hosts = fields.get(b"host", ())
        if len(hosts) != 1 or not hosts[0].isascii():
            raise self._refuse(400, "a request has one Host header, in ASCII")
        offers = split_tokens(fields.get(b"sec-websocket-protocol", ()))
        self.proposed_subprotocols = tuple(offer.decode("latin-1") for offer in offers)
        if not all(TOKEN.fullmatch(offer) for offer in self.proposed_subprotocols):
            raise self._refuse(400, "the name of a subprotocol has other characters than a token")

    def accept(
        self, subprotocol: str | None, extra_headers: ExtraHeaders | None
    ) -> tuple[bytes, HandshakeResult]:
        """The bytes of the response, and the open connection.

        :raises ValueError: The arguments can't be sent. The request can still be answered.
        """
        if subprotocol is not None and subprotocol not in self.proposed_subprotocols:
            offers = printable(", ".join(self.proposed_subprotocols)) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} is not among those offered: {offers}")
        extra = list(check_headers(extra_headers) or ())
        for name, _ in extra:
            if header_bytes(name).lower() in _NOT_IN_101:
                raise ValueError(f"{name!r} can't be sent with the acceptance of a request")
        (key,) = self._fields[b"sec-websocket-key"]
        headers = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", wsproto.utilities.generate_accept_token(key)),
        ]
        if subprotocol is not None:
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        extension = None
        if self._compression is not None and self._answer is not None:
            value, agreed = self._answer
            headers.append((b"Sec-WebSocket-Extensions", value))
            extension = DeflateExtension(DeflateCodec(agreed, self._compression, is_client=False))
        chosen = subprotocol
        if extra:
            headers = merge_headers(headers, extra)
            try:
                checked = h11.InformationalResponse(status_code=101, headers=headers)
            except h11.LocalProtocolError as exc:
                raise ValueError(f"can't be sent in an HTTP response: {exc}") from exc
            names = header_values(
                checked.headers, b"sec-websocket-protocol"
            )  # it may be an extra one
            chosen = names[0].decode("latin-1") if names else None
        opened = HandshakeResult(
            side=wsproto.ConnectionType.SERVER,
            extension=extension,
            path=self.path,
            subprotocol=chosen,
            headers=tuple(self.headers),
            trailing=self._trailing,
        )
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(lines) + b"\r\n", opened

    def reject(
        self, status_code: int, extra_headers: ExtraHeaders | None = None, body: bytes | None = None
    ) -> bytes:
        """The bytes of a response that ends the connection.

        :raises ValueError: The arguments can't be sent. The request can still be answered.
        """
        if not isinstance(status_code, int):
            raise TypeError(f"status_code must be an int, not {status_code!r:.100}")
        if not 200 <= status_code <= 999:
            raise ValueError(f"status_code must be between 200 and 999, not {status_code!r}")
        body = b"" if body is None else body
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError(f"body must be bytes or None, not {body!r:.100}")
        headers = merge_headers([(b"Connection", b"close")], extra_headers)
        has_no_body = status_code in (204, 304)  # RFC 9110, 6.4.1; no length either: 8.6
        if body and has_no_body:
            raise ValueError(f"a body can't be sent with status {status_code}")
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        if lengths and lengths != [b"%d" % len(body)]:
            text = (
                f"Content-Length {lengths} can't be sent in an HTTP response with {len(body)} bytes"
            )
            raise ValueError(text)
        has_length = lengths or any(name.lower() == b"transfer-encoding" for name, _ in headers)
        if not has_length and not has_no_body:
            headers.append((b"Content-Length", b"%d" % len(body)))
        try:
            response = h11.Response(status_code=status_code, headers=headers)
        except h11.LocalProtocolError as exc:
            raise ValueError(f"can't be sent in an HTTP response: {exc}") from exc
        http = self._h11()
        if self._plain is not None:  # the answer depends on what it answers
            http.receive_data(self._plain[0])
            http.next_event()
            self._plain = None
        data = http.send(response)
        if body and self._method != b"HEAD":
            data += http.send(h11.Data(data=body))
        return data + http.send(h11.EndOfMessage())

    def _too_long(self) -> BadRequest:
        return self._refuse(431, f"the head of the request has more than {self._head.bounds}")

    def _refuse(self, status_code: int, text: str, *headers: tuple[bytes, bytes]) -> BadRequest:
        extra = [*headers, (b"Content-Type", b"text/plain; charset=utf-8")]
        if status_code == 426:  # RFC 9110, 15.5.22 and 7.8
            extra += [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade, close")]
        response = self.reject(status_code, extra, text.encode() + b"\n")
        return BadRequest(text, response)


def _plain_request(data: bytes, max_size: int) -> _Request | None:
    """The request that is there, if it is whole and simple."""
    match = _PLAIN_REQUEST.match(data)
    if match is None or match.end() > max_size:
        return None
    headers = []
    for line in match[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name = name.lower()
        headers.append((_NAMES.get(name, name), value.strip()))
    names = [name for name, _ in headers]
    if len(names) > MAX_FIELDS or names.count(b"host") != 1:
        return None
    if b"content-length" in names or b"transfer-encoding" in names:
        return None
    return _Request(
        *(b"GET", match[1].decode("ascii"), b"1.1", headers, data[match.end() :]), is_allowed=True
    )
