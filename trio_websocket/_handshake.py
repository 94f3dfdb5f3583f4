"""The opening handshake over HTTP/1.1, both sides (RFC 6455, 4): bytes in, bytes out.

h11, the engine of wsproto's own handshake, parses and writes HTTP. The rules of RFC 6455 are
checked here, and not by wsproto, because it takes what it must refuse (a bad key), refuses what it
must take (a header in two lines), fails on bytes outside ASCII, and can't bound the size of a head.
What comes out is what an open connection needs.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, List, NamedTuple, Tuple, Union

import h11
import wsproto
import wsproto.connection
import wsproto.extensions
import wsproto.utilities

from ._deflate import Deflate, DeflateExtension
from ._errors import ConnectionFailed, ConnectionRejected, HandshakeError
from ._extensions import DeflateParameters, answer, check_answer, offer
from ._options import Options
from ._url import request_target

Headers = List[Tuple[bytes, bytes]]
#: Headers as users give them. 0.12 took str as well, so we do.
ExtraHeaders = Iterable[Tuple[Union[bytes, str], Union[bytes, str]]]

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64 (RFC 6455, 4.1)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VERSION = b"13"
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")  # what precedes the path in a URI
# Lines in a head. Without a limit, 64 KiB of short ones would become 2 MiB of header fields.
_MAX_FIELDS = 256
_LONG_REQUEST = "the head of the request is too long"
_LONG_RESPONSE = "the head of the server's response is too long"
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
# The headers of a response that belong to the handshake rather than to the application.
_UPGRADE_HEADERS = frozenset({b"connection", b"upgrade"})


@dataclasses.dataclass(frozen=True)
class Opened:
    """The outcome of an opening handshake."""

    #: Which side it is of.
    side: wsproto.ConnectionType
    #: The request target.
    path: str | None
    #: The subprotocol that the server chose.
    subprotocol: str | None
    #: The headers that the peer sent, with names in lower case.
    headers: tuple[tuple[bytes, bytes], ...]
    #: What came behind the peer's head: the first frames.
    trailing: bytes
    #: The compression of messages, if it was agreed on.
    extension: DeflateExtension | None = None


class BadRequest(Exception):
    """A request that is no WebSocket handshake. ``response`` is the answer to it."""

    def __init__(self, text: str, response: bytes) -> None:
        super().__init__(text)
        self.response = response


class ClientHandshake:
    """The client's side: sends ``request``, then takes the response."""

    def __init__(
        self,
        host: str,
        resource: str,
        subprotocols: Iterable[str] | None,
        extra_headers: ExtraHeaders | None,
        options: Options,
    ) -> None:
        """
        :param host: The value of the Host header.
        :param resource: The request target, with the query.
        :param subprotocols: The subprotocols to offer, the preferred one first.
        :param extra_headers: Headers that are added, or take the place of those of that name.
        :param options: The bounds.
        """
        offered = _subprotocols(subprotocols)
        headers = [
            (b"Host", host.encode("ascii")),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", wsproto.utilities.generate_nonce()),
            (b"Sec-WebSocket-Version", _VERSION),
        ]
        if offered:
            headers.append((b"Sec-WebSocket-Protocol", ", ".join(offered).encode("ascii")))
        self._compression = options.compression
        if self._compression is not None:
            headers.append((b"Sec-WebSocket-Extensions", offer(self._compression)))
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=options.max_header_size)
        try:
            request = h11.Request(
                method="GET", target=resource, headers=_merged(headers, extra_headers)
            )
            #: The bytes of the request.
            self.request: bytes = b"".join(
                self._http.send(event) for event in (request, h11.EndOfMessage())
            )
        except h11.LocalProtocolError as exc:
            raise ValueError(f"can't be sent in an HTTP request: {exc}") from exc
        self._head = _HeadSize(options.max_header_size)
        self._path = resource
        self._key = _values(request.headers, b"sec-websocket-key")[0]
        offers = _tokens(_values(request.headers, b"sec-websocket-protocol"))
        self._offered = [offer for offer in offers if offer.isascii()]
        self._max_body = options.max_rejection_body
        self._rejection: h11.Response | None = None
        self._body = b""

    @property
    def has_response(self) -> bool:
        """Whether the server has answered, with something else than 101."""
        return self._rejection is not None

    def receive_data(self, data: bytes) -> None:
        """Take bytes of the response; ``b""`` is the end of the stream."""
        if not data and not self.has_response:
            raise ConnectionFailed("the server closed the connection before it answered")
        self._head.received += len(data)
        self._http.receive_data(data)

    def result(self) -> Opened | None:
        """The outcome, or None while more data is needed.

        :raises ConnectionRejected: The server answered with another status than 101.
        :raises HandshakeError: The answer is no valid one.
        """
        while True:
            try:
                event = _next_event(self._http)
            except h11.RemoteProtocolError as exc:
                if self._rejection is None:
                    text = f"the server did not answer in HTTP: {_shortened(exc)}"
                    is_long = exc.error_status_hint == 431
                    raise HandshakeError(_LONG_RESPONSE if is_long else text) from exc
                raise self.rejected() from None  # its body is cut off; what it says still counts
            if event is h11.NEED_DATA:
                return None
            if isinstance(
                event, (h11.InformationalResponse, h11.Response)
            ) and not self._head.is_allowed(self._http, event):
                raise HandshakeError(_LONG_RESPONSE)
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != 101:
                    headers = tuple(event.headers)
                    raise ConnectionRejected(event.status_code, headers, None)
                return self._accepted(event)
            if isinstance(event, h11.Response):
                self._rejection = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            else:
                raise self.rejected()
            if len(self._body) >= self._max_body:
                raise self.rejected()

    def rejected(self) -> ConnectionRejected:
        """The error for an answer with another status than 101, as far as it is there."""
        assert self._rejection is not None
        headers = tuple(self._rejection.headers)
        body = self._body[: self._max_body]
        return ConnectionRejected(self._rejection.status_code, headers, body)

    def _accepted(self, response: h11.InformationalResponse) -> Opened:
        # RFC 6455, 4.1, the client's checks of the response
        headers = list(response.headers)
        if response.http_version < b"1.1":
            raise HandshakeError("the server answered 101 in HTTP/1.0")
        if _lower_tokens(_values(headers, b"upgrade")) != [b"websocket"]:
            raise HandshakeError("the server's response lacks 'Upgrade: websocket'")
        if b"upgrade" not in _lower_tokens(_values(headers, b"connection")):
            raise HandshakeError("the server's response lacks 'Connection: Upgrade'")
        if _values(headers, b"sec-websocket-accept") != [
            wsproto.utilities.generate_accept_token(self._key)
        ]:
            raise HandshakeError("the server's Sec-WebSocket-Accept does not match our key")
        chosen = _values(headers, b"sec-websocket-protocol")
        if chosen and (len(chosen) > 1 or chosen[0] not in self._offered):
            names = b", ".join(chosen).decode("latin-1")[:200]
            raise HandshakeError(f"the server chose the subprotocol {names!r}, not offered")
        extension = self._extension(headers)
        return Opened(
            side=wsproto.ConnectionType.CLIENT,
            extension=extension,
            path=self._path,
            subprotocol=chosen[0].decode("ascii") if chosen else None,
            headers=tuple(sorted(headers, key=_is_handshake_header)),
            trailing=bytes(self._http.trailing_data[0]),
        )

    def _extension(self, headers: Headers) -> DeflateExtension | None:
        values = _values(headers, b"sec-websocket-extensions")
        if self._compression is None:
            if any(_tokens(values)):
                raise HandshakeError("the server chose an extension that was not offered")
            return None
        try:
            agreed = check_answer(values, self._compression)
        except ValueError as exc:
            raise HandshakeError(str(exc)) from exc
        if agreed is None:
            return None
        return DeflateExtension(Deflate(agreed, self._compression, is_client=True))


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
        self._head = _HeadSize(options.max_header_size)
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
        if not self._head.received:
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
        self._fields = _by_name(self.headers)
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
            event = _next_event(http)
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
            text = f"this is no HTTP request: {_shortened(exc)}"
            raise self._refuse(status, _LONG_REQUEST if status == 431 else text) from exc
        if event is h11.NEED_DATA:
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
            raise self._refuse(431, _LONG_REQUEST)
        if request.method != b"GET":
            raise self._refuse(405, "the method must be GET", (b"Allow", b"GET"))
        if request.http_version < b"1.1":
            raise self._refuse(400, "WebSocket needs HTTP/1.1")
        fields = self._fields
        if b"transfer-encoding" in fields or any(map(int, fields.get(b"content-length", ()))):
            raise self._refuse(400, "a WebSocket handshake has no body")
        if b"websocket" not in _lower_tokens(fields.get(b"upgrade", ())):
            text = "this is a WebSocket server, and the request lacks 'Upgrade: websocket'"
            raise self._refuse(426, text)
        if b"upgrade" not in _lower_tokens(fields.get(b"connection", ())):
            raise self._refuse(400, "the request lacks 'Connection: Upgrade'")
        versions = fields.get(b"sec-websocket-version")
        if versions != [_VERSION]:
            status = 426 if versions else 400
            text = "the request lacks 'Sec-WebSocket-Version: 13'"
            raise self._refuse(status, text, (b"Sec-WebSocket-Version", _VERSION))
        keys = fields.get(b"sec-websocket-key", ())
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise self._refuse(400, "a Sec-WebSocket-Key has 16 bytes in base64")
        hosts = fields.get(b"host", ())
        if len(hosts) != 1 or not hosts[0].isascii():
            raise self._refuse(400, "a request has one Host header, in ASCII")
        offers = _tokens(fields.get(b"sec-websocket-protocol", ()))
        self.proposed_subprotocols = tuple(offer.decode("latin-1") for offer in offers)
        if not all(_TOKEN.fullmatch(offer) for offer in self.proposed_subprotocols):
            raise self._refuse(400, "the name of a subprotocol has other characters than a token")

    def accept(
        self, subprotocol: str | None, extra_headers: ExtraHeaders | None
    ) -> tuple[bytes, Opened]:
        """The bytes of the response, and the open connection.

        :raises ValueError: The arguments can't be sent. The request can still be answered.
        """
        if subprotocol is not None and subprotocol not in self.proposed_subprotocols:
            offers = ", ".join(self.proposed_subprotocols) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} is not among those offered: {offers}")
        extra = list(extra_headers or ())
        for name, _ in extra:
            if _header_bytes(name).lower() in _NOT_IN_101:
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
            extension = DeflateExtension(Deflate(agreed, self._compression, is_client=False))
        chosen = subprotocol
        if extra:
            headers = _merged(headers, extra)
            try:
                checked = h11.InformationalResponse(status_code=101, headers=headers)
            except h11.LocalProtocolError as exc:
                raise ValueError(f"can't be sent in an HTTP response: {exc}") from exc
            names = _values(checked.headers, b"sec-websocket-protocol")  # it may be an extra one
            chosen = names[0].decode("latin-1") if names else None
        opened = Opened(
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
        if not 200 <= status_code <= 999:
            raise ValueError(f"a rejection has a status from 200 to 999, not {status_code!r}")
        body = b"" if body is None else body
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError(f"the body of a response is bytes, not {body!r:.100}")
        headers = _merged([(b"Connection", b"close")], extra_headers)
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
    if len(names) > _MAX_FIELDS or names.count(b"host") != 1:
        return None
    if b"content-length" in names or b"transfer-encoding" in names:
        return None
    return _Request(
        *(b"GET", match[1].decode("ascii"), b"1.1", headers, data[match.end() :]), is_allowed=True
    )


def _next_event(http: h11.Connection) -> object:
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        # A frame of h11's refers to it, so that only the garbage collector would free both.
        raise exc.with_traceback(None)  # noqa: B904 # it is the same one
    except ValueError as exc:
        # h11 before 0.15 makes an int of any Content-Length; Python has a limit for their digits.
        raise h11.RemoteProtocolError("bad Content-Length") from exc


def _shortened(exc: Exception) -> str:
    return str(exc)[:200]  # h11's text repeats what it got, whatever its size


class _HeadSize:
    """How long a head is. h11 looks at those only that are not whole after a read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.received = 0

    def is_allowed(
        self, http: h11.Connection, head: h11.Request | h11.InformationalResponse | h11.Response
    ) -> bool:
        """Whether the head that was parsed just now is within the limits."""
        size = self.received - len(http.trailing_data[0])
        return size <= self._limit and len(head.headers) <= _MAX_FIELDS


def _merged(headers: Headers, extra_headers: ExtraHeaders | None) -> Headers:
    # What the user gives takes the place of ours: HTTP has one Host and one Authorization.
    extra = [(_header_bytes(name), _header_bytes(value)) for name, value in extra_headers or ()]
    replaced = {name.lower() for name, _ in extra}
    return [pair for pair in headers if pair[0].lower() not in replaced] + extra


def _header_bytes(text: bytes | str) -> bytes:
    if isinstance(text, str):
        return text.encode("ascii")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"a header's name and value are bytes, not {text!r}")


def _subprotocols(subprotocols: Iterable[str] | None) -> list[str]:
    if isinstance(subprotocols, (str, bytes)):
        raise TypeError(f"subprotocols is a list of str, not {subprotocols!r}")
    offered = list(dict.fromkeys(subprotocols or ()))  # each once (RFC 6455, 4.1)
    for name in offered:
        if not isinstance(name, str):
            raise TypeError(f"a subprotocol is a str, not {name!r}")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} can't be the name of a subprotocol (RFC 6455, 4.1)")
    return offered


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _by_name(headers: Headers) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields


def _tokens(values: Iterable[bytes]) -> list[bytes]:
    # A list may stand in one line or in several (RFC 9110, 5.3), and have empty elements.
    pieces = b",".join(values).split(b",")
    return [piece.strip() for piece in pieces if piece.strip()]


def _lower_tokens(values: Iterable[bytes]) -> list[bytes]:
    return [token.lower() for token in _tokens(values)]


def _is_handshake_header(header: tuple[bytes, bytes]) -> bool:
    return header[0] in _UPGRADE_HEADERS or header[0].startswith(b"sec-websocket-")
