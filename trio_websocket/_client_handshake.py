"""The client's side of the opening handshake (RFC 6455, 4.1)."""

from __future__ import annotations

from typing import Iterable

import h11
import wsproto
import wsproto.utilities

from ._deflate import Deflate, DeflateExtension
from ._errors import ConnectionFailed, ConnectionRejected, HandshakeError
from ._extensions import check_answer, offer
from ._handshake import (
    TOKEN,
    VERSION,
    ExtraHeaders,
    Headers,
    HeadSize,
    Opened,
    lower_tokens,
    merged,
    next_event,
    shortened,
    tokens,
    values,
)
from ._options import Options

_TOO_LONG = "the head of the server's response is too long"
# The headers of a response that belong to the handshake rather than to the application.
_UPGRADE_HEADERS = frozenset({b"connection", b"upgrade"})


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
        # each once (RFC 6455, 4.1)
        offered = list(dict.fromkeys(checked_subprotocols(subprotocols) or ()))
        headers = [
            (b"Host", host.encode("ascii")),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", wsproto.utilities.generate_nonce()),
            (b"Sec-WebSocket-Version", VERSION),
        ]
        if offered:
            headers.append((b"Sec-WebSocket-Protocol", ", ".join(offered).encode("ascii")))
        self._compression = options.compression
        if self._compression is not None:
            headers.append((b"Sec-WebSocket-Extensions", offer(self._compression)))
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=options.max_header_size)
        try:
            request = h11.Request(
                method="GET", target=resource, headers=merged(headers, extra_headers)
            )
            #: The bytes of the request.
            self.request: bytes = b"".join(
                self._http.send(event) for event in (request, h11.EndOfMessage())
            )
        except h11.LocalProtocolError as exc:
            raise ValueError(f"can't be sent in an HTTP request: {exc}") from exc
        self._head = HeadSize(options.max_header_size)
        self._path = resource
        self._key = values(request.headers, b"sec-websocket-key")[0]
        offers = tokens(values(request.headers, b"sec-websocket-protocol"))
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
                event = next_event(self._http)
            except h11.RemoteProtocolError as exc:
                if self._rejection is None:
                    text = f"the server did not answer in HTTP: {shortened(exc)}"
                    is_long = exc.error_status_hint == 431
                    raise HandshakeError(_TOO_LONG if is_long else text) from exc
                raise self.rejected() from None  # its body is cut off; what it says still counts
            if event is h11.NEED_DATA:
                return None
            if isinstance(
                event, (h11.InformationalResponse, h11.Response)
            ) and not self._head.is_allowed(self._http, event):
                raise HandshakeError(_TOO_LONG)
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
        if lower_tokens(values(headers, b"upgrade")) != [b"websocket"]:
            raise HandshakeError("the server's response lacks 'Upgrade: websocket'")
        if b"upgrade" not in lower_tokens(values(headers, b"connection")):
            raise HandshakeError("the server's response lacks 'Connection: Upgrade'")
        if values(headers, b"sec-websocket-accept") != [
            wsproto.utilities.generate_accept_token(self._key)
        ]:
            raise HandshakeError("the server's Sec-WebSocket-Accept does not match our key")
        chosen = values(headers, b"sec-websocket-protocol")
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
        answers = values(headers, b"sec-websocket-extensions")
        if self._compression is None:
            if any(tokens(answers)):
                raise HandshakeError("the server chose an extension that was not offered")
            return None
        try:
            agreed = check_answer(answers, self._compression)
        except ValueError as exc:
            raise HandshakeError(str(exc)) from exc
        if agreed is None:
            return None
        return DeflateExtension(Deflate(agreed, self._compression, is_client=True))


def checked_subprotocols(subprotocols: Iterable[str] | None) -> Iterable[str] | None:
    """Return the subprotocols that a user gave; an iterator is read into a list.

    :raises TypeError: They are not a list of str.
    :raises ValueError: A name has characters that can't stand in it.
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
