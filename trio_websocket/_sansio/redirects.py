"""The rules for following redirects (RFC 9110, 10.2.2 and 15.4)."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import Iterable

from .errors import ConnectionRejected, RedirectError, printable
from .handshake import header_values
from .url import DEFAULT_PORTS, URL, ascii_host

_STATUSES = frozenset({301, 302, 303, 307, 308})
_IS_SECURE = {"ws": False, "http": False, "wss": True, "https": True}
# RFC 3986, appendix B. Python's urlsplit() drops some characters, and its treatment of others
# depends on the Python version.
_REFERENCE = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?"
)
# Some programs treat a backslash as a slash, and so see a different host.
_NOT_IN_LOCATION = re.compile(rb"[^\x21-\x7e]|\\")
# The credentials are not used (RFC 9110, 4.2.4).
_AUTHORITY = re.compile(r"(?:[^]@[]*@)?(?P<host>\[[^]@[]*\]|[^]@:[]*)(?::(?P<port>[0-9]{0,5}))?")
_NAME = re.compile(r"[a-z0-9._~-]{1,253}")  # the length of a DNS name (RFC 1035, 2.3.4)


class Redirects:
    """The URLs requested while opening one connection, and the rules for the next URL."""

    def __init__(
        self,
        url: URL,
        max_redirects: int,
        *,
        has_open_stream: bool = False,
        has_unix_socket: bool = False,
    ) -> None:
        """
        :param url: The first URL to request.
        :param max_redirects: The value of the option with this name.
        :param has_open_stream: True if the request uses an open stream that the application passed.
            Such a stream is closed after the first response.
        :param has_unix_socket: True if all requests go to the same Unix-domain socket.
        """
        self._urls = [_without_case(url)]
        self._max_redirects = max_redirects
        self._has_open_stream = has_open_stream
        self._has_unix_socket = has_unix_socket

    def follow(self, rejection: ConnectionRejected) -> URL | None:
        """Return the URL to request next, or None if the response is final.

        The response is final if it is not a redirect, or if `max_redirects` is 0.

        :param rejection: The server's response to the latest request.
        :raises RedirectError: The response is a redirect that breaks a rule.
        """
        if self._max_redirects == 0 or rejection.status_code not in _STATUSES:
            return None
        try:
            url = self._next(rejection.headers)
        except ValueError as exc:
            raise RedirectError(
                rejection.status_code,
                rejection.headers,
                rejection.body,
                reason_phrase=rejection.reason_phrase,
                urls=tuple(map(str, self._urls)),
                rule=str(exc),
            ) from None
        self._urls.append(url)
        return url

    def _next(self, headers: Iterable[tuple[bytes, bytes]]) -> URL:
        """Return the URL to request next.

        :raises ValueError: The redirect breaks a rule. The message says which one.
        """
        if self._has_open_stream:
            text = "the open stream can't be used again; pass a function as `stream`"
            raise ValueError(text)
        current = self._urls[-1]
        url = resolve(current, _location(headers))
        if current.is_secure and not url.is_secure:
            raise ValueError(f"it leads from TLS to the plain {_shown(url)}")
        if self._has_unix_socket and not is_same_origin(current, url):
            text = f"it leads to another origin, {_shown(url)}, and unix_socket stays the same"
            raise ValueError(text)
        if url in self._urls:
            raise ValueError(f"it leads back to {_shown(url)}")
        if len(self._urls) > self._max_redirects:
            raise ValueError(f"it is one more than max_redirects={self._max_redirects}")
        return url


def is_same_origin(current: URL, url: URL) -> bool:
    """Return True if a redirect from one URL to another stays within the origin (RFC 6454).

    A redirect from ``ws:`` to ``wss:``, both on their default ports, also counts as staying within
    the origin. Servers use such a redirect to switch clients to TLS.
    """
    if current.host.lower() != url.host.lower():
        return False
    ends = (current.is_secure, current.port), (url.is_secure, url.port)
    return ends[0] == ends[1] or ends == ((False, 80), (True, 443))


def resolve(current: URL, location: bytes) -> URL:
    """Resolve a Location header to a URL without credentials (RFC 3986, 5.2).

    :param current: The URL of the request.
    :param location: The value of the header.
    :raises ValueError: The value is malformed or has an unsupported scheme.
    """
    if _NOT_IN_LOCATION.search(location):
        raise ValueError(f"{_text(location)} has characters that a URL must not have")
    reference = _REFERENCE.fullmatch(location.decode("ascii"))
    assert reference is not None  # it matches any line
    scheme, authority, path, query = reference.group("scheme", "authority", "path", "query")
    if scheme is None:
        is_secure = current.is_secure
    elif scheme.lower() in _IS_SECURE:
        is_secure = _IS_SECURE[scheme.lower()]
    else:
        raise ValueError(f"the scheme of {_text(location)} must be ws, wss, http or https")
    base, question, base_query = current.resource.partition("?")
    if authority is not None or scheme is not None:
        host, port = _host_and_port(authority or "", location, is_secure)
        base, question, base_query = "/", "", ""
    else:
        host, port = current.host, current.port
    if path:
        base, question, base_query = _merge(base, path), "", ""
    if query is not None:
        question, base_query = "?", query
    return URL(host, port, base + question + base_query, is_secure, credentials=None)


def _host_and_port(authority: str, location: bytes, is_secure: bool) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError(f"{_text(location)} has a bad host or port")
    port = int(found["port"] or DEFAULT_PORTS[is_secure])
    if not 1 <= port <= 65535:
        raise ValueError(f"the port of {_text(location)} is not between 1 and 65535")
    try:
        host = _host(found["host"])
    except ValueError:
        raise ValueError(f"{_text(location)} has a bad host") from None
    return host, port


def _host(text: str) -> str:
    """Return the host of a URL in the form that DNS, TLS and HTTP need."""
    if text.startswith("["):
        if "%" in text:
            raise ValueError("the zone of an address has a meaning on the server only")
        return str(ipaddress.IPv6Address(text[1:-1]))
    host = ascii_host(urllib.parse.unquote(text, errors="strict")).lower()
    if not _NAME.fullmatch(host):
        raise ValueError("not a name")
    return host


def _merge(base: str, path: str) -> str:
    """Resolve a path against a base path, and remove dot segments (RFC 3986, 5.2.4)."""
    whole = path if path.startswith("/") else base[: base.rindex("/") + 1] + path
    segments = whole.split("/")[1:]
    merged: list[str] = []
    for segment in segments:
        if segment == "..":
            del merged[-1:]
        elif segment != ".":
            merged.append(segment)
    if segments[-1] in (".", ".."):
        merged.append("")
    return "/" + "/".join(merged)


def _location(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    values = header_values(headers, b"location")
    if len(values) != 1:
        raise ValueError(f"the response has {len(values) or 'no'} Location headers")
    return values[0]


def _without_case(url: URL) -> URL:
    return url._replace(host=url.host.lower(), credentials=None)


def _shown(url: URL) -> str:
    return printable(str(url), 100)


def _text(location: bytes) -> str:
    """Quote a Location for an error message, without any credentials.

    The Location need not be a valid URL, so everything before the last "@" is hidden.
    """
    _, at, rest = location.decode("latin-1").rpartition("@")
    return f"'{printable(f'***@{rest}' if at else rest, 100)}'"
