"""The request for a tunnel through an HTTP proxy, and its response (RFC 9110, 9.3.6)."""

from __future__ import annotations

import base64
from typing import Sequence

import h11

from .errors import ProxyError, printable
from .handshake import (
    MAX_INTERIM_RESPONSES,
    ExtraHeaders,
    HeadBuffer,
    Headers,
    header_bytes,
    merge_headers,
    next_event,
)
from .proxy import Proxy
from .url import bracketed, without_zone

# The number of bytes of an error page to read for the exception's message.
_MAX_BODY = 2**10
_AUTHORIZATION = b"Proxy-Authorization"


class TunnelRequest:
    """Creates the bytes of the request, and parses the bytes of the response.

    Invariant: `_body` stays empty until a final response has been parsed, which sets `_refusal`.
    """

    def __init__(
        self,
        proxy: Proxy,
        host: str,
        port: int,
        proxy_headers: ExtraHeaders | None,
        max_header_size: int,
    ) -> None:
        """
        :param proxy: The proxy, which must be an HTTP proxy.
        :param host: The server's host, in ASCII.
        :param port: The server's port.
        :param proxy_headers: Headers to add, already checked by `check_tunnel_headers`. Each
            replaces the default header of the same name.
        :param max_header_size: The value of the option with this name.
        """
        self._proxy = proxy
        self._server = f"{bracketed(without_zone(host))}:{port}"
        headers = [(b"Host", self._server.encode("ascii"))]
        if proxy.credentials is not None:
            token = base64.b64encode(b":".join(proxy.credentials))  # RFC 7617, 2
            headers.append((_AUTHORIZATION, b"Basic " + token))
        headers = merge_headers(headers, proxy_headers)
        # The credentials that are sent, or b"". Error messages never show them.
        self._token = _token(headers)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_header_size)
        self._head = HeadBuffer(max_header_size)
        try:
            #: The bytes of the request.
            self.request: bytes = _encode(self._http, self._server, headers)
        except h11.LocalProtocolError as exc:  # not because of the headers, which were checked
            raise ValueError(f"{self._server!r} can't be sent in an HTTP request") from exc
        self._interims = 0
        self._refusal: h11.Response | None = None
        self._body = b""

    @property
    def is_refused(self) -> bool:
        """True if the proxy has refused the tunnel, even if its response is not complete yet."""
        return self._refusal is not None

    def receive_data(self, data: bytes) -> None:
        """Parse bytes of the response; ``b""`` means the end of the stream.

        :raises ProxyError: The stream ended before the response.
        """
        if self._refusal is not None:
            self._http.receive_data(data)
        elif data:
            self._parse_head(self._head.take(data))
        else:
            text = f"{self._proxy.name}, closed the connection before it answered"
            raise self._proxy.error(text)

    def _parse_head(self, data: bytes) -> None:
        if data:  # to h11, b"" means the end of the stream
            self._http.receive_data(data)

    def result(self) -> bytes | None:
        """Return the bytes that follow a successful response, or None if more data is needed.

        :raises ProxyError: The proxy refused the tunnel, or the response is not valid.
        """
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                # h11's limit does not cover an incomplete head that follows interim responses.
                if self._refusal is None and self._head.is_over:
                    raise self._too_long()
                return None
            if isinstance(event, (h11.InformationalResponse, h11.Response)):
                if self._head.is_over:
                    raise self._too_long()
                # Any 2xx is a success, and has no body (RFC 9110, 9.3.6).
                if 200 <= event.status_code < 300:
                    return self._head.rest
                self._note_response(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
            else:  # the end of the response
                raise self.refused()
            if len(self._body) >= _MAX_BODY:
                raise self.refused()

    def _next_event(self) -> object:
        try:
            return next_event(self._http)
        except h11.RemoteProtocolError as exc:
            error = self.refused() if self.is_refused else self._not_http(exc)
        try:
            # Outside the except block, because the text of h11's error may contain the credentials.
            raise error
        finally:
            del error  # break the reference cycle through the traceback

    def _note_response(self, response: h11.InformationalResponse | h11.Response) -> None:
        if isinstance(response, h11.Response):
            self._refusal = response
            self._parse_head(self._head.rest)
            return
        self._parse_head(self._head.begin_next())
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            text = f"sent more than {MAX_INTERIM_RESPONSES} interim responses"
            raise self._proxy.error(f"{self._proxy.name}, {text}")

    def _too_long(self) -> ProxyError:
        text = f"the head of the response of {self._proxy.name}, has more than {self._head.bounds}"
        return self._proxy.error(text)

    def _not_http(self, exc: h11.RemoteProtocolError) -> ProxyError:
        if exc.error_status_hint == 431:
            return self._too_long()
        text = str(exc).encode()
        hint = " (does the proxy expect https:?)" if self._proxy.scheme == "http" else ""
        what = f"{self._proxy.name}, did not answer in HTTP"
        error = self._proxy.error(f"{what}: {self._printable(text)}{hint}")
        if not self._token or self._token not in text:
            error.__cause__ = exc
        return error

    def refused(self) -> ProxyError:
        """Return the error for a response whose status is not 2xx."""
        assert self._refusal is not None
        status_code = self._refusal.status_code
        text = f"{self._proxy.name}, refused a tunnel to {self._server}: HTTP status {status_code}"
        if self._refusal.reason:
            text += f" {self._printable(self._refusal.reason)}"
        if status_code == 407:
            text += f" ({'it rejected the' if self._token else 'it wants'} credentials)"
        body = self._body[:_MAX_BODY].strip()
        if body:
            text += f": {self._printable(body)}"
        headers = list(self._refusal.headers)
        return self._proxy.error(text, status_code=status_code, headers=headers)

    def _printable(self, data: bytes) -> str:
        if self._token:  # the response may repeat the request
            data = data.replace(self._token, b"***")
        return printable(data.decode("utf-8", "backslashreplace"))


def _token(headers: Headers) -> bytes:
    """Return the credentials from the Proxy-Authorization header, without the scheme."""
    values = [value for name, value in headers if name.lower() == _AUTHORIZATION.lower()]
    return values[-1].rpartition(b" ")[2] if values else b""


def _encode(http: h11.Connection, server: str, headers: Headers) -> bytes:
    """Return the bytes of a CONNECT request.

    :raises h11.LocalProtocolError: The request is not valid.
    """
    request = h11.Request(method="CONNECT", target=server, headers=headers)
    return b"".join(http.send(event) for event in (request, h11.EndOfMessage()))


def check_tunnel_headers(headers: Sequence[tuple[bytes | str, bytes | str]]) -> None:
    """Raise an exception unless the headers can be sent in a request to a proxy.

    :raises ValueError: A header is not valid. The message contains names but no values, because
        values can be passwords.
    """
    if not _is_valid(headers):
        names = [header_bytes(name) for name, value in headers if not _is_valid([(name, value)])]
        shown = printable(b", ".join(names).decode("latin-1"))
        raise ValueError(f"proxy_headers can't be sent in an HTTP request: {shown or 'duplicates'}")


def _is_valid(headers: ExtraHeaders) -> bool:
    server = "example.com:80"
    try:
        _encode(h11.Connection(h11.CLIENT), server, merge_headers([(b"Host", b"x")], headers))
    except h11.LocalProtocolError:
        return False
    return True
