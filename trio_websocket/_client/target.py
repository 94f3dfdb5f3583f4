"""The server to connect to, and the request to send, from checked arguments."""

from __future__ import annotations

import dataclasses
import ssl
from typing import Iterable, NamedTuple

from .._sansio.client_handshake import ClientHandshake, check_subprotocols
from .._sansio.handshake import ExtraHeaders, check_headers, header_bytes
from .._sansio.options import check_ssl_context
from .._sansio.redirects import is_same_origin
from .._sansio.url import (
    URL,
    ascii_host,
    ascii_host_not_url,
    check_port,
    host_header,
    origin,
    parse_url,
    request_target,
)
from .options import ClientOptions, check_client_context


class Target:
    """A server, and the request to send to it."""

    def __init__(
        self,
        host: str,
        port: int,
        resource: str,
        use_ssl: bool | ssl.SSLContext,
        subprotocols: Iterable[str] | None,
        extra_headers: ExtraHeaders | None,
        options: ClientOptions,
    ) -> None:
        """The parameters are the same as for `open_websocket`.

        :raises TypeError: An argument has the wrong type.
        :raises ValueError: An argument is out of range.
        """
        if not isinstance(use_ssl, (bool, ssl.SSLContext)):
            text = "`use_ssl` argument must be bool or ssl.SSLContext"
            raise TypeError(f"{text}, not {use_ssl!r:.100}")
        check_client_context("use_ssl", use_ssl)
        check_port(port)
        #: The host in ASCII, for DNS and TLS.
        self.host: str = ascii_host_not_url(host)
        self.port = port
        self.resource = resource
        self.use_ssl = use_ssl
        #: A list if the caller passed an iterator, which could be used only once.
        self.subprotocols: Iterable[str] | None = check_subprotocols(subprotocols)
        #: A list if the caller passed an iterator, which could be used only once.
        self.extra_headers: ExtraHeaders | None = check_headers(extra_headers)
        self.options = options

    @property
    def server_hostname(self) -> str:
        """The name for SNI, which must match the server's certificate."""
        name = self.options.server_hostname
        return self.host if name is None else ascii_host(name)

    @property
    def name(self) -> str:
        """The Host header's value: the host and, unless it is the default, the port."""
        return host_header(self.host, self.port, is_secure=self.use_ssl is not False)

    @property
    def url(self) -> URL:
        """The URL of the server, without credentials."""
        resource = request_target(self.resource)
        return URL(self.host, self.port, resource, self.use_ssl is not False, credentials=None)

    def redirected(self, url: URL) -> Target:
        """Return the target of a redirect.

        If the redirect leads to another origin, this drops `server_hostname`, and `extra_headers`,
        which contain the URL's credentials.
        """
        is_same = is_same_origin(self.url, url)
        return Target(
            url.host,
            url.port,
            url.resource,
            url.is_secure if self.use_ssl is False else self.use_ssl,
            self.subprotocols,
            self.extra_headers if is_same else None,
            self.options if is_same else dataclasses.replace(self.options, server_hostname=None),
        )

    def handshake(self) -> ClientHandshake:
        """Return the handshake that sends the request.

        :raises ValueError: The request would be invalid.
        """
        return ClientHandshake(
            self.name,
            request_target(self.resource),
            self.subprotocols,
            self.extra_headers,
            self.options,
            origin=origin(self.host, self.port, self.use_ssl is not False),
            hint="" if self.use_ssl else " (does the server expect wss:?)",
        )


class URLTarget(NamedTuple):
    """A URL, converted to arguments for `open_websocket` and `connect_websocket`."""

    host: str
    port: int
    resource: str
    use_ssl: bool | ssl.SSLContext
    extra_headers: ExtraHeaders | None


def parse_target(
    url: object, ssl_context: ssl.SSLContext | None, extra_headers: ExtraHeaders | None
) -> URLTarget:
    """Parse a URL. Its user name and password become an Authorization header (RFC 7617).

    The parameters are the same as for `open_websocket_url`.

    :raises TypeError: An argument has the wrong type.
    :raises ValueError: The URL is not a WebSocket URL, or an SSL context was passed with a ``ws:``
        URL.
    """
    check_ssl_context(ssl_context)
    check_client_context("ssl_context", ssl_context)
    extra_headers = check_headers(extra_headers)
    parts = parse_url(url)
    if ssl_context is not None and not parts.is_secure:
        # Don't show the URL: it may contain a password.
        raise ValueError(f"an SSL context goes with wss:, and the URL of {parts.host} is ws:")
    if parts.credentials is not None:
        given = list(extra_headers or ())
        if not any(header_bytes(name).lower() == b"authorization" for name, _ in given):
            given.append((b"Authorization", parts.credentials))
        extra_headers = given
    use_ssl = parts.is_secure if ssl_context is None else ssl_context
    return URLTarget(parts.host, parts.port, parts.resource, use_ssl, extra_headers)


def target_of_url(
    url: object,
    ssl_context: ssl.SSLContext | None,
    subprotocols: Iterable[str] | None,
    extra_headers: ExtraHeaders | None,
    options: ClientOptions,
) -> Target:
    """Return the target of a URL.

    The parameters and the errors are the same as for `open_websocket_url`.
    """
    parts = parse_target(url, ssl_context, extra_headers)
    return Target(
        parts.host,
        parts.port,
        parts.resource,
        parts.use_ssl,
        subprotocols,
        parts.extra_headers,
        options,
    )
