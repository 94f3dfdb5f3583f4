"""The client's side of the opening handshake (RFC 6455, 4.1)."""

from __future__ import annotations

import re
from typing import Iterable, Mapping, NamedTuple

import h11
import wsproto
import wsproto.utilities

from .deflate import DeflateCodec, DeflateExtension
from .errors import ConnectionFailed, ConnectionRejected, HandshakeError, printable
from .extensions import check_answer, offer
from .handshake import (
    MAX_INTERIM_RESPONSES,
    TOKEN,
    VERSION,
    ExtraHeaders,
    HandshakeResult,
    HeadBuffer,
    Headers,
    check_elements,
    group_headers,
    has_token,
    header_values,
    merge_headers,
    next_event,
    split_tokens,
    split_tokens_lower,
)
from .options import Options

# A header that determines the body's length, with its continuation lines (RFC 9112, 5.2 and 6).
_FRAMING = re.compile(
    rb"(?<=\n)(transfer-encoding|content-length)[ \t]*:(.*\n(?:[ \t].*\n)*)", re.IGNORECASE
)
# Response headers that belong to the handshake rather than to the application.
_UPGRADE_HEADERS = frozenset({b"connection", b"upgrade"})


class _Response(NamedTuple):
    """The head of a response whose status is not 101."""

    status_code: int
    reason_phrase: str
    headers: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, response: h11.InformationalResponse | h11.Response) -> _Response:
        """Copy the head of a response that h11 has parsed."""
        reason_phrase = bytes(response.reason).decode("latin-1")
        return cls(response.status_code, reason_phrase, tuple(response.headers))

    def error(self, body: bytes | None) -> ConnectionRejected:
        """Return the error for an opening handshake that received this response."""
        return ConnectionRejected(
            self.status_code, self.headers, body, reason_phrase=self.reason_phrase
        )


class ClientHandshake:
    """Creates the bytes of the request, and parses the bytes of the response.

    Invariants: `_received` contains the bytes of the latest head that have been passed to h11.
    `_body` stays empty until a final response has been parsed, which sets `_rejection`.
    """

    def __init__(
        self,
        host: str,
        resource: str,
        subprotocols: Iterable[str] | None,
        extra_headers: ExtraHeaders | None,
        options: Options,
        *,
        origin: str | None = None,
        hint: str = "",
    ) -> None:
        """
        :param host: The value of the Host header.
        :param resource: The request target, including the query.
        :param subprotocols: The subprotocols to offer, the preferred one first.
        :param extra_headers: Headers to add. Each replaces the default header of the same name.
        :param options: The options that set the limits and the compression to offer.
        :param origin: The part of the URL before the path. The result will contain it.
        :param hint: The likely mistake if the server's answer is not HTTP, for the error text.
        """
        self._compression = options.compression
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=options.max_header_size)
        headers = merge_headers(_request_headers(host, subprotocols, options), extra_headers)
        try:
            request = h11.Request(method="GET", target=resource, headers=headers)
            #: The bytes of the request.
            self.request: bytes = b"".join(
                self._http.send(event) for event in (request, h11.EndOfMessage())
            )
        except h11.LocalProtocolError as exc:
            raise ValueError(f"can't be sent in an HTTP request: {exc}") from exc
        self._head = HeadBuffer(options.max_header_size)
        self._path = resource
        self._origin = origin
        self._key = header_values(request.headers, b"sec-websocket-key")[0]
        offers = split_tokens(header_values(request.headers, b"sec-websocket-protocol"))
        self._offered = [offer for offer in offers if offer.isascii()]
        self._max_body = options.max_rejection_body
        #: The likely mistake if the server's answer is not HTTP, for the error text.
        self.hint = hint
        #: The latest interim response (RFC 9110, 15.2).
        self.interim: _Response | None = None
        self._interims = 0
        self._received = bytearray()
        self._rejection: _Response | None = None
        self._body = b""

    @property
    def has_response(self) -> bool:
        """True if the server has sent a final response whose status is not 101."""
        return self._rejection is not None

    @property
    def has_answer(self) -> bool:
        """True if the server has sent a response, interim or final."""
        return self.has_response or self.interim is not None

    def receive_data(self, data: bytes) -> None:
        """Parse bytes of the response; ``b""`` means the end of the stream.

        :raises HandshakeError: The stream ended before the final response.
        """
        if not data and not self.has_response:
            if self.interim is not None:
                raise self.interim.error(None)
            text = "the server closed the connection before it answered"
            raise ConnectionFailed(text + self.hint)
        if self._rejection is None:
            self._parse_head(self._head.take(data))
        else:
            self._http.receive_data(data)

    def _parse_head(self, data: bytes) -> None:
        self._received += data
        if data:  # to h11, b"" means the end of the stream
            self._http.receive_data(data)

    def result(self) -> HandshakeResult | None:
        """Return the outcome, or None if more data is needed.

        :raises ConnectionRejected: The server answered with a status other than 101.
        :raises HandshakeError: The response is not valid.
        """
        while True:
            try:
                event = next_event(self._http)
            except h11.RemoteProtocolError as exc:
                raise self._not_http(exc) from (None if self.has_response else exc)
            if event is h11.NEED_DATA:
                # h11's limit does not cover an incomplete head that follows interim responses.
                if not self.has_response and self._head.is_over:
                    raise self._too_long()
                return None
            if isinstance(event, (h11.InformationalResponse, h11.Response)):
                if self._head.is_over:
                    raise self._too_long()
                if event.status_code == 101:
                    return self._accepted(event)
                self._note_response(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
            else:  # the end of the response
                raise self.rejected()
            if len(self._body) >= self._max_body and self.has_response:
                raise self.rejected()

    def _note_response(self, response: h11.InformationalResponse | h11.Response) -> None:
        if not isinstance(response, h11.Response):
            self._skip_interim(response)
            return
        self._rejection = _Response.of(response)
        if self._head.rest:
            self._http.receive_data(self._head.rest)

    def _skip_interim(self, response: h11.InformationalResponse) -> None:
        # RFC 9110, 15.2
        self.interim = _Response.of(response)
        self._received.clear()
        self._parse_head(self._head.begin_next())
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            raise HandshakeError(
                f"the server sent more than {MAX_INTERIM_RESPONSES} interim responses"
            )

    def _too_long(self) -> HandshakeError:
        text = f"the head of the server's response has more than {self._head.bounds}"
        return HandshakeError(text)

    def _not_http(self, exc: h11.RemoteProtocolError) -> HandshakeError:
        if self._rejection is None:
            self._rejection = self._oddly_framed()
        if self._rejection is not None:
            return self.rejected()  # with the part of the body that has arrived
        if exc.error_status_hint == 431:
            return self._too_long()
        return HandshakeError(
            f"the server did not answer in HTTP: {printable(str(exc))}{self.hint}"
        )

    def rejected(self) -> ConnectionRejected:
        """Return the error for a status other than 101, with the body received so far."""
        assert self._rejection is not None
        return self._rejection.error(self._body[: self._max_body])

    def _oddly_framed(self) -> _Response | None:
        """Return a rejection whose headers about the body's length h11 can't parse.

        The end of such a body can't be determined, so the body is dropped.
        """
        if not self._head.is_complete or self._head.is_over:
            return None
        head = bytes(self._received)
        framing = _FRAMING.findall(head)
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target="/", headers=[("Host", "")]))
        http.send(h11.EndOfMessage())
        http.receive_data(_FRAMING.sub(b"", head))
        try:
            response = next_event(http)
        except h11.RemoteProtocolError:
            return None
        if not isinstance(response, h11.Response):
            return None
        headers = [(name.lower(), b" ".join(value.split())) for name, value in framing]
        rejection = _Response.of(response)
        return rejection._replace(headers=(*rejection.headers, *headers))

    def _accepted(self, response: h11.InformationalResponse | h11.Response) -> HandshakeResult:
        headers = list(response.headers)
        fields = group_headers(headers)
        try:
            check_elements(fields)
        except ValueError as exc:
            raise HandshakeError(f"the server's response is too large: {exc}") from exc
        if response.http_version < b"1.1":
            raise HandshakeError("the server answered 101 in HTTP/1.0")
        self._check_websocket(fields)
        extension = self._negotiated(fields.get(b"sec-websocket-extensions", ()))
        chosen = fields.get(b"sec-websocket-protocol")
        return HandshakeResult(
            side=wsproto.ConnectionType.CLIENT,
            extension=extension,
            origin=self._origin,
            path=self._path,
            subprotocol=chosen[0].decode("ascii") if chosen else None,
            headers=tuple(sorted(headers, key=_is_handshake_header)),
            trailing=self._head.rest,
        )

    def _check_websocket(self, fields: Mapping[bytes, list[bytes]]) -> None:
        # RFC 6455, 4.1, the client's checks of the response, items 2 to 4 and 6
        if split_tokens_lower(fields.get(b"upgrade", ())) != [b"websocket"]:
            raise HandshakeError("the server's response lacks 'Upgrade: websocket'")
        if not has_token(fields.get(b"connection", ()), b"upgrade"):
            raise HandshakeError("the server's response lacks 'Connection: Upgrade'")
        accept_token = wsproto.utilities.generate_accept_token(self._key)
        if fields.get(b"sec-websocket-accept") != [accept_token]:
            raise HandshakeError("the server's Sec-WebSocket-Accept does not match our key")
        chosen = fields.get(b"sec-websocket-protocol")
        if chosen and (len(chosen) > 1 or chosen[0] not in self._offered):
            names = b", ".join(chosen).decode("latin-1")[:200]
            raise HandshakeError(f"the server chose the subprotocol {names!r}, not offered")

    def _negotiated(self, answers: Iterable[bytes]) -> DeflateExtension | None:
        # RFC 6455, 4.1, the client's checks of the response, item 5
        if self._compression is None:
            if any(split_tokens(answers)):
                raise HandshakeError("the server chose an extension that was not offered")
            return None
        try:
            agreed = check_answer(answers, self._compression)
        except ValueError as exc:
            raise HandshakeError(str(exc)) from exc
        if agreed is None:
            return None
        return DeflateExtension(DeflateCodec(agreed, self._compression, is_client=True))


def _request_headers(host: str, subprotocols: Iterable[str] | None, options: Options) -> Headers:
    headers = [
        (b"Host", host.encode("ascii")),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", wsproto.utilities.generate_nonce()),
        (b"Sec-WebSocket-Version", VERSION),
    ]
    # A name must not be offered twice (RFC 6455, 4.1).
    offered = dict.fromkeys(check_subprotocols(subprotocols) or ())
    if offered:
        headers.append((b"Sec-WebSocket-Protocol", ", ".join(offered).encode("ascii")))
    if options.compression is not None:
        headers.append((b"Sec-WebSocket-Extensions", offer(options.compression)))
    return headers


def check_subprotocols(subprotocols: Iterable[str] | None) -> Iterable[str] | None:
    """Check the subprotocols that a user passed, and return them in a form that can be reused.

    :returns: The argument if it is a list or a tuple, or else a list of its items.
    :raises TypeError: The argument is not an iterable of str.
    :raises ValueError: A name is not a token.
    """
    if subprotocols is None:
        return None
    if isinstance(subprotocols, (str, bytes)) or not isinstance(subprotocols, Iterable):
        raise TypeError(f"subprotocols must be a list of str, not {subprotocols!r:.100}")
    names = subprotocols if isinstance(subprotocols, (list, tuple)) else list(subprotocols)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"each of subprotocols must be a str, not {name!r:.100}")
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} can't be the name of a subprotocol (RFC 6455, 4.1)")
    return names


def _is_handshake_header(header: tuple[bytes, bytes]) -> bool:
    return header[0] in _UPGRADE_HEADERS or header[0].startswith(b"sec-websocket-")
