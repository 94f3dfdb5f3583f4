"""The options of the functions that open a connection to a server."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import ssl
from typing import Awaitable, Callable, Sequence, Tuple, Union, cast

import trio

from .._sansio.handshake import check_headers
from .._sansio.options import OptionKeywords, Options, check_int, check_ssl_context, option
from .._sansio.proxy import parse_proxy
from .._sansio.tunnel import check_tunnel_headers
from .._sansio.url import ascii_host
from .socks import import_python_socks

#: An application's function that opens a stream to a host and a port.
StreamFunction = Callable[[str, int], Awaitable[trio.abc.Stream]]
#: A file path, or an abstract socket name that begins with a NUL.
SocketPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
#: Headers for each request to a proxy. There may be several requests, so this can't be an iterator.
ProxyHeaders = Sequence[Tuple[Union[bytes, str], Union[bytes, str]]]
# The value of `proxy` that selects the environment's settings.
_ENVIRONMENT = "env"


def is_open_stream(value: object) -> bool:
    """Return True if the value is an open stream, not a function that opens one.

    A stream need not derive from `trio.abc.Stream`.
    """
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("send_all", "receive_some", "aclose")
    )


def _check_stream(name: str, value: object) -> None:
    if not is_open_stream(value) and not callable(value):
        wanted = f"{name} must be an open Trio stream, or an async function (host, port) -> Stream"
        raise TypeError(f"{wanted}, not {value!r:.100}")


def _check_unix_socket(name: str, value: object) -> None:
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name} must be a path: str, bytes or os.PathLike, not {value!r:.100}")
    path = os.fsencode(value)
    if not path:
        raise ValueError(f"{name} must not be empty")
    if b"\0" in path and not path.startswith(b"\0"):
        raise ValueError(f"{name} must not contain NUL, except as the first byte, not {value!r}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {value!r:.100}")


def _check_server_hostname(name: str, value: object) -> None:
    _check_text(name, value)
    try:
        host = ascii_host(value)
    except ValueError as exc:
        raise ValueError(f"{name} must be a host name or an IP address: {exc}") from exc
    if not host or (":" in host and not _is_ipv6(host)):
        raise ValueError(f"{name} must be a host name or an IP address, not {value!r}")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _check_proxy(name: str, value: object) -> None:
    if not isinstance(value, str):  # don't show the value: it may contain a password
        raise TypeError(f'{name} must be a URL, "env" or None, not a {type(value).__name__}')
    if value != _ENVIRONMENT and parse_proxy(value).is_socks:
        import_python_socks()


def _check_proxy_headers(name: str, value: object) -> None:
    error: type[Exception] | None = None if isinstance(value, Sequence) else TypeError
    try:
        check_headers(value)
    except TypeError:
        error = TypeError
    except ValueError:
        error = ValueError
    if error is not None:  # raise it here, because the error above may show a password
        wanted = "a list of (name, value) pairs, each of them ASCII str, or bytes"
        raise error(f"{name} must be {wanted}")
    check_tunnel_headers(cast(ProxyHeaders, value))


def _check_proxy_ssl_context(name: str, value: object) -> None:
    check_ssl_context(value, name)
    check_client_context(name, value)


def check_client_context(name: str, value: object) -> None:
    """Raise a ValueError if the value is an SSL context that was made for servers."""
    if isinstance(value, ssl.SSLContext) and value.protocol == ssl.PROTOCOL_TLS_SERVER:
        hint = "use ssl.create_default_context()"
        raise ValueError(f"{name} must be a context for clients, not for servers: {hint}")


@dataclasses.dataclass(frozen=True)
class ClientOptions(Options):
    """The options of a client: all options of a connection, and those for reaching the server.

    To add an option, declare it here, in `ClientKeywords`, and in docs/limits.md; see `Options`.
    """

    stream: trio.abc.Stream | StreamFunction | None = option(None, _check_stream)  # noqa: RUF009 # a field
    """an open Trio stream, or an async function `(host, port) -> Stream` | the connection uses
    this stream instead of TCP; the library closes it"""
    unix_socket: SocketPath | None = option(None, _check_unix_socket)  # noqa: RUF009 # a field
    """the path of a Unix-domain socket: `str`, `bytes` or `os.PathLike`; an abstract name begins
    with a NUL | the connection uses this socket instead of TCP"""
    local_address: str | None = option(None, _check_text)
    """an IP address of this machine | the TCP connection comes from this address, as in
    `trio.open_tcp_stream`"""
    server_hostname: str | None = option(None, _check_server_hostname)
    """a host name or an IP address | TLS sends this name (SNI), and the certificate must be valid
    for it; by default, the host"""
    proxy: str | None = option(None, _check_proxy, is_secret=True)
    """a URL, or `"env"` for the environment's settings | the connection goes through this proxy"""
    proxy_headers: ProxyHeaders | None = option(None, _check_proxy_headers, is_secret=True)  # noqa: RUF009 # a field
    """pairs of name and value | added to the request to an HTTP proxy"""
    proxy_ssl_context: ssl.SSLContext | None = option(None, _check_proxy_ssl_context)  # noqa: RUF009 # a field
    """an `ssl.SSLContext` | for the TLS connection to an `https:` proxy; by default, one with the
    system's certificates"""
    max_redirects: int = option(0, check_int)
    """redirects that are followed | a redirect may lead to another server, so following them is
    your choice"""

    def __post_init__(self) -> None:
        super().__post_init__()
        routes = ("proxy", "stream", "unix_socket")
        given = [name for name in routes if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"pass at most one of {', '.join(routes)}, not {' and '.join(given)}")
        if self.local_address is not None and given not in ([], ["proxy"]):
            raise ValueError(f"local_address needs a TCP connection: don't pass it with {given[0]}")
        if self.proxy_headers is not None or self.proxy_ssl_context is not None:
            self._check_proxy_options()

    def _check_proxy_options(self) -> None:
        if self.proxy == _ENVIRONMENT:
            return  # options that don't fit the environment's proxy are ignored
        scheme = None if self.proxy is None else parse_proxy(self.proxy).scheme
        given = "no proxy is given" if scheme is None else f"the proxy is a {scheme}: one"
        if self.proxy_headers is not None and scheme not in ("http", "https"):
            raise ValueError(f"proxy_headers must go with an http: or https: proxy, but {given}")
        if self.proxy_ssl_context is not None and scheme != "https":
            raise ValueError(f"proxy_ssl_context must go with an https: proxy, but {given}")


class ClientKeywords(OptionKeywords, total=False):
    """All options of a client, for type checkers."""

    stream: trio.abc.Stream | StreamFunction | None
    unix_socket: SocketPath | None
    local_address: str | None
    server_hostname: str | None
    proxy: str | None
    proxy_headers: ProxyHeaders | None
    proxy_ssl_context: ssl.SSLContext | None
    max_redirects: int
