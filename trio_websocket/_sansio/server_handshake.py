"""The server's side of the opening handshake (RFC 6455, 4.2).

Nearly all clients send a plain request that arrives in one segment. `_parse_plain` parses such a
request with a regular expression, in a third of the time that h11 takes. h11 parses all other
requests, and it generates all responses except those that accept a request.
"""

from __future__ import annotations

import re
from typing import Mapping, NamedTuple

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
    HeadBuffer,
    Headers,
    check_elements,
    check_headers,
    group_headers,
    has_token,
    header_bytes,
    header_values,
    merge_headers,
    next_event,
    split_tokens,
)
from .options import Options
from .url import request_target

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64 (RFC 6455, 4.1)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")  # the part of a URI before the path
# Headers that users must not add to a response with status 101.
_NOT_IN_101 = (b"sec-websocket-extensions", b"content-length", b"transfer-encoding")
_PLAIN_REQUEST = re.compile(
    rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[!-~][ -~]*\r\n)+)\r\n"
)
_HEADER = re.compile(rb"([^:]+): ?([^\r]*)\r\n")  # a header line of a plain request
# The lower-case names of common request headers, indexed by their usual spellings. Sharing these
# objects between requests saves memory.
_NAMES = {
    written: name
    for name in (
        *(b"host", b"upgrade", b"connection", b"origin", b"user-agent", b"cookie", b"pragma"),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"),
        *(b"sec-websocket-extensions", b"accept-encoding", b"accept-language", b"cache-control"),
    )
    for written in (name, name.title().replace(b"Websocket", b"WebSocket"))
}


class BadRequest(Exception):
    """The request is not a valid WebSocket handshake."""

    def __init__(self, text: str, response: bytes) -> None:
        super().__init__(text)
        #: The bytes of the response to send.
        self.response = response


class _Request(NamedTuple):
    """An HTTP request, without a body."""

    method: bytes
    target: str
    http_version: bytes
    headers: Headers
    #: The header values, by name.
    fields: dict[bytes, list[bytes]]
    #: The bytes that were received after the request.
    trailing: bytes
    #: True if the head does not exceed its limits.
    is_allowed: bool


class ServerHandshake:
    """Parses the bytes of a request, and creates the bytes of a response.

    Invariants: `_plain` contains the bytes of a plain request, which h11 has not seen. `_request`
    is set once the request has been parsed. `_negotiated` is set once the request has been checked,
    if the client offered compression that the server supports.
    """

    def __init__(self, options: Options) -> None:
        """:param options: The options that set the limits and the compression to support."""
        self._http: h11.Connection | None = None
        self._plain = b""
        self._max_size = options.max_header_size
        self._head = HeadBuffer(options.max_header_size)
        self._has_started = False  # True once the first byte of the request has been received
        self._compression = options.compression
        self._request: _Request | None = None
        self._negotiated: tuple[bytes, DeflateParameters] | None = None
        #: The request's headers, with lower-case names.
        self.headers: Headers = []
        #: The request target: a path, with the query if there is one.
        self.path: str = ""
        #: The subprotocols that the client offered, the preferred one first.
        self.proposed_subprotocols: tuple[str, ...] = ()

    def receive_data(self, data: bytes) -> None:
        """Parse bytes of the request; ``b""`` means the end of the stream.

        :raises ConnectionFailed: The stream ended before the request was complete.
        :raises BadRequest: The bytes before the request exceed the limit.
        """
        if not data:
            raise ConnectionFailed("the client closed the connection before its request was whole")
        if not self._has_started:
            # A robust server ignores empty lines before the request (RFC 9112, 2.2).
            rest = data.lstrip(b"\r\n")
            if len(rest) < len(data):
                self._head.add(len(data) - len(rest))
                if self._head.is_over:
                    raise self._too_long()
            if not rest:
                return
            data = rest
            self._has_started = True
            self._request = _parse_plain(data, self._max_size)
            if self._request is not None:
                self._plain = data
                return
        head = self._head.take(data)
        if head:  # to h11, b"" means the end of the stream
            self._h11().receive_data(head)

    def _h11(self) -> h11.Connection:
        if self._http is None:
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_size)
        return self._http

    def has_request(self) -> bool:
        """Return True once a valid request has been received, or False if more data is needed.

        :raises BadRequest: The request is not a valid WebSocket handshake.
        """
        if self._request is None:
            self._request = self._parse_with_h11()
        request = self._request
        if request is None:
            return False
        self.headers = request.headers
        self.path = request.target
        if not request.target.startswith("/"):
            absolute = _ABSOLUTE.match(request.target)  # RFC 9112, 3.2.2
            if absolute:
                self.path = request_target(request.target[absolute.end() :])
        self._check_http(request)
        self._check_websocket(request.fields)
        self._negotiate(request.fields)
        return True

    def _parse_with_h11(self) -> _Request | None:
        http = self._h11()
        try:
            event = next_event(http)
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
            text = f"this is no HTTP request: {printable(str(exc))}"
            raise (self._too_long() if status == 431 else self._invalid(status, text)) from exc
        if event is h11.NEED_DATA:
            if self._head.is_over:
                raise self._too_long()
            return None
        assert isinstance(event, h11.Request)
        headers = [(_NAMES.get(name, name), value) for name, value in event.headers]
        return _Request(
            method=event.method,
            target=event.target.decode("ascii"),
            http_version=event.http_version,
            headers=headers,
            fields=group_headers(headers),
            trailing=self._head.rest,
            is_allowed=not self._head.is_over,
        )

    def _check_http(self, request: _Request) -> None:
        # RFC 6455, 4.2.1, item 1
        if not request.is_allowed:
            raise self._too_long()
        if request.method != b"GET":
            raise self._invalid(405, "the method must be GET", (b"Allow", b"GET"))
        if request.http_version < b"1.1":
            raise self._invalid(400, "WebSocket needs HTTP/1.1")
        fields = request.fields
        try:
            check_elements(fields)
        except ValueError as exc:
            raise self._invalid(431, str(exc)) from exc
        if b"transfer-encoding" in fields or any(map(int, fields.get(b"content-length", ()))):
            raise self._invalid(400, "a WebSocket handshake has no body")

    def _check_websocket(self, fields: Mapping[bytes, list[bytes]]) -> None:
        # RFC 6455, 4.2.1, items 2 to 6 and 8
        if not has_token(fields.get(b"upgrade", ()), b"websocket"):
            text = "this is a WebSocket server, and the request lacks 'Upgrade: websocket'"
            raise self._invalid(426, text)
        if not has_token(fields.get(b"connection", ()), b"upgrade"):
            raise self._invalid(400, "the request lacks 'Connection: Upgrade'")
        versions = fields.get(b"sec-websocket-version")
        if versions != [VERSION]:
            status = 426 if versions else 400
            text = "the request lacks 'Sec-WebSocket-Version: 13'"
            raise self._invalid(status, text, (b"Sec-WebSocket-Version", VERSION))
        keys = fields.get(b"sec-websocket-key", ())
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise self._invalid(400, "a Sec-WebSocket-Key has 16 bytes in base64")
        hosts = fields.get(b"host", ())
        if len(hosts) != 1 or not hosts[0].isascii():
            raise self._invalid(400, "a request has one Host header, in ASCII")
        if b"sec-websocket-protocol" in fields:
            offers = split_tokens(fields[b"sec-websocket-protocol"])
            self.proposed_subprotocols = tuple(offer.decode("latin-1") for offer in offers)
            if not all(map(TOKEN.fullmatch, self.proposed_subprotocols)):
                text = "the name of a subprotocol has other characters than a token"
                raise self._invalid(400, text)

    def _negotiate(self, fields: Mapping[bytes, list[bytes]]) -> None:
        # RFC 6455, 4.2.1, item 9, and RFC 7692, 5.1
        if self._compression is not None:
            offers = fields.get(b"sec-websocket-extensions", ())
            try:
                self._negotiated = answer(offers, self._compression)
            except ValueError as exc:
                raise self._invalid(400, str(exc)) from exc

    def accept(
        self, subprotocol: str | None, extra_headers: ExtraHeaders | None
    ) -> tuple[bytes, HandshakeResult]:
        """Return the bytes of a response with status 101, and the result of the handshake.

        :raises ValueError: The arguments can't be sent. Another response can still be sent.
        """
        if subprotocol is not None and subprotocol not in self.proposed_subprotocols:
            offers = printable(", ".join(self.proposed_subprotocols)) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} is not among those offered: {offers}")
        assert self._request is not None
        (key,) = self._request.fields[b"sec-websocket-key"]
        headers = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", wsproto.utilities.generate_accept_token(key)),
        ]
        if subprotocol is not None:
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        extension = None
        if self._compression is not None and self._negotiated is not None:
            value, agreed = self._negotiated
            headers.append((b"Sec-WebSocket-Extensions", value))
            extension = DeflateExtension(DeflateCodec(agreed, self._compression, is_client=False))
        if extra_headers is not None:
            headers, subprotocol = _add_to_101(headers, extra_headers)
        result = HandshakeResult(
            side=wsproto.ConnectionType.SERVER,
            extension=extension,
            path=self.path,
            subprotocol=subprotocol,
            headers=tuple(self.headers),
            trailing=self._request.trailing,
        )
        lines = [b"HTTP/1.1 101 Switching Protocols", *map(b": ".join, headers), b"\r\n"]
        return b"\r\n".join(lines), result

    def reject(
        self, status_code: int, extra_headers: ExtraHeaders | None = None, body: bytes | None = None
    ) -> bytes:
        """Return the bytes of a response that rejects the request.

        :raises ValueError: The arguments can't be sent. Another response can still be sent.
        """
        if not isinstance(status_code, int):
            raise TypeError(f"status_code must be an int, not {status_code!r:.100}")
        if not 200 <= status_code <= 999:
            raise ValueError(f"status_code must be between 200 and 999, not {status_code!r}")
        body = b"" if body is None else body
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError(f"body must be bytes or None, not {body!r:.100}")
        headers = merge_headers([(b"Connection", b"close")], extra_headers)
        _frame_body(headers, status_code, len(body))
        try:
            response = h11.Response(status_code=status_code, headers=headers)
        except h11.LocalProtocolError as exc:
            raise ValueError(f"can't be sent in an HTTP response: {exc}") from exc
        http = self._h11()
        if self._plain:  # h11 must parse the request before it can generate a response
            http.receive_data(self._plain)
            http.next_event()
            self._plain = b""
        data = http.send(response)
        is_head = self._request is not None and self._request.method == b"HEAD"
        if body and not is_head:
            data += http.send(h11.Data(data=body))
        return data + http.send(h11.EndOfMessage())

    def _too_long(self) -> BadRequest:
        return self._invalid(431, f"the head of the request has more than {self._head.bounds}")

    def _invalid(self, status_code: int, text: str, *headers: tuple[bytes, bytes]) -> BadRequest:
        extra = [*headers, (b"Content-Type", b"text/plain; charset=utf-8")]
        if status_code == 426:  # RFC 9110, 15.5.22 and 7.8
            extra += [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade, close")]
        response = self.reject(status_code, extra, text.encode() + b"\n")
        return BadRequest(text, response)


def _parse_plain(data: bytes, max_size: int) -> _Request | None:
    """Return the request if the data contains a complete, plain one; None if h11 must parse it."""
    match = _PLAIN_REQUEST.match(data)
    if match is None or match.end() > max_size or match[2].count(b"\n") > MAX_FIELDS:
        return None
    headers = [
        (_NAMES.get(name) or name.lower(), value.rstrip())
        for name, value in _HEADER.findall(match[2])
    ]
    fields = group_headers(headers)
    if len(fields.get(b"host", ())) != 1:
        return None
    if b"content-length" in fields or b"transfer-encoding" in fields:
        return None
    target, trailing = match[1].decode("ascii"), data[match.end() :]
    return _Request(b"GET", target, b"1.1", headers, fields, trailing, is_allowed=True)


def _add_to_101(headers: Headers, extra_headers: ExtraHeaders) -> tuple[Headers, str | None]:
    """Combine the headers with the user's, and return them and the subprotocol that they select.

    :raises ValueError: A header can't be sent with status 101.
    """
    extra = list(check_headers(extra_headers) or ())
    for name, _ in extra:
        if header_bytes(name).lower() in _NOT_IN_101:
            raise ValueError(f"{name!r} can't be sent with the acceptance of a request")
    headers = merge_headers(headers, extra)
    try:
        checked = h11.InformationalResponse(status_code=101, headers=headers)
    except h11.LocalProtocolError as exc:
        raise ValueError(f"can't be sent in an HTTP response: {exc}") from exc
    # The user may have set the subprotocol with a header.
    chosen = header_values(checked.headers, b"sec-websocket-protocol")
    return headers, chosen[0].decode("latin-1") if chosen else None


def _frame_body(headers: Headers, status_code: int, size: int) -> None:
    """Add a Content-Length header to a response if it needs one (RFC 9110, 8.6).

    :param headers: The headers, which are modified in place.
    :param status_code: The status of the response.
    :param size: The size of the body.
    :raises ValueError: The status does not allow a body, or the user's Content-Length is wrong.
    """
    has_no_body = status_code in (204, 304)  # RFC 9110, 6.4.1
    if size and has_no_body:
        raise ValueError(f"a body can't be sent with status {status_code}")
    names = [name.lower() for name, _ in headers]
    lengths = [value for name, (_, value) in zip(names, headers) if name == b"content-length"]
    if lengths and lengths != [b"%d" % size]:
        text = f"Content-Length {lengths} can't be sent in an HTTP response with {size} bytes"
        raise ValueError(text)
    if not (lengths or has_no_body or b"transfer-encoding" in names):
        headers.append((b"Content-Length", b"%d" % size))
