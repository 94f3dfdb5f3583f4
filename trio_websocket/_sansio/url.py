"""WebSocket URLs (RFC 6455, 3), the Host header (RFC 9110, 7.2), and endpoints."""

from __future__ import annotations

import base64
import functools
import ipaddress
import numbers
import re
import urllib.parse
from typing import NamedTuple

import idna

DEFAULT_PORTS = {False: 80, True: 443}
_SCHEMES = {"http": "; use ws: in place of http:", "https": "; use wss: in place of https:"}
# The characters that count as dots in internationalized names (UTS 46, 2.3).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_MAX_LABEL = 63  # bytes (RFC 1035, 2.3.4)
_PORT = re.compile(r":[0-9]*\Z")
_CREDENTIALS = re.compile(r"//[^/?#]*@")  # to hide credentials in error messages
_NOT_IN_TARGET = re.compile(rb"[^\x21-\x7e]")


class Endpoint:
    """One end of a TCP connection."""

    def __init__(self, address: str | int, port: int, is_ssl: bool) -> None:
        """
        :param address: An IP address in any form that :func:`ipaddress.ip_address` accepts.
        :param port: The port number.
        :param is_ssl: True if the connection uses TLS.
        """
        #: The address, an :class:`ipaddress.IPv4Address` or :class:`ipaddress.IPv6Address`.
        self.address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
        #: The port number.
        self.port = port
        #: True if the connection uses TLS.
        self.is_ssl = is_ssl

    @property
    def url(self) -> str:
        """The WebSocket URL of this endpoint, without a path."""
        return origin(str(self.address), self.port, self.is_ssl)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Endpoint):
            return NotImplemented
        return (self.address, self.port, self.is_ssl) == (other.address, other.port, other.is_ssl)

    def __hash__(self) -> int:
        return hash((self.address, self.port, self.is_ssl))

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(address="{self.address}", port={self.port}, '
            f"is_ssl={self.is_ssl})"
        )


class URL(NamedTuple):
    """The parts of a WebSocket URL that are needed to open a connection."""

    host: str
    port: int
    resource: str
    is_secure: bool
    credentials: bytes | None  # the value of an Authorization header

    def __str__(self) -> str:
        """Return the URL without credentials."""
        return origin(self.host, self.port, self.is_secure) + self.resource


def parse_url(url: object) -> URL:
    """Parse a ``ws:`` or ``wss:`` URL, or an object whose ``str()`` is one.

    A fragment is dropped, because it has no meaning in a WebSocket URL (RFC 6455, 3).

    :raises TypeError: The URL has the wrong type.
    :raises ValueError: The text is not a WebSocket URL.
    """
    if url is None or isinstance(url, (bytes, bytearray, memoryview, numbers.Number)):
        raise TypeError(f"url must be a str or an object whose str() is a URL, not {url!r:.100}")
    text = str(url)
    shown = repr(_CREDENTIALS.sub("//***@", text, count=1))
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"invalid URL {shown}: {exc}") from exc
    if parts.scheme not in ("ws", "wss"):
        hint = _SCHEMES.get(parts.scheme, "")
        raise ValueError(f"a WebSocket URL begins with ws: or wss:, unlike {shown}{hint}")
    if not parts.hostname:
        raise ValueError(f"the URL {shown} has no host")
    try:
        host = ascii_host(urllib.parse.unquote(parts.hostname))
    except ValueError as exc:
        raise ValueError(f"invalid URL {shown}: {exc}") from exc
    if ":" in host and ":" not in parts.hostname:
        raise ValueError(f"the URL {shown} has a host with a colon")
    is_secure = parts.scheme == "wss"
    resource = parts.path or "/"
    if "?" in text.partition("#")[0]:  # urlsplit() drops the ? of an empty query
        resource += "?" + parts.query
    credentials = None
    if parts.username or parts.password:
        pair = f"{parts.username or ''}:{parts.password or ''}"
        token = base64.b64encode(urllib.parse.unquote_to_bytes(pair))
        credentials = b"Basic " + token
    return URL(
        host=host,
        port=DEFAULT_PORTS[is_secure] if port is None else port,
        resource=resource,
        is_secure=is_secure,
        credentials=credentials,
    )


def ascii_host(host: object) -> str:
    """Return a host in the form that DNS, TLS and HTTP need.

    Non-ASCII labels are encoded with IDNA 2008 and the UTS 46 mapping, as in browsers. ASCII labels
    are not changed, so IP addresses and names with underscores work. A name can end with a dot, and
    a port can follow it.

    :raises TypeError: The host is not a str.
    :raises ValueError: The name has no ASCII form.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {host!r:.100}")
    return _ascii_host(host)


@functools.lru_cache(maxsize=2**8)
def _ascii_host(host: str) -> str:
    port = _PORT.search(host)
    name = host[: port.start()] if port and not host.isascii() else host
    try:
        encoded = ".".join(map(_ascii_label, _DOTS.split(name)))
        _check_labels(encoded)
    except UnicodeError as exc:
        raise ValueError(f"{host!r} is not a host name: {exc}") from exc
    return encoded + host[len(name) :]


def ascii_host_not_url(host: object) -> str:
    """Return `ascii_host(host)`, but raise a helpful error if the caller passed a URL.

    :raises ValueError: The host is a URL, or the name has no ASCII form.
    """
    if isinstance(host, str) and "://" in host:
        text = "host must be a host name or an IP address, not the URL"
        raise ValueError(f"{text} {host!r}; use open_websocket_url() or connect_websocket_url()")
    return ascii_host(host)


def _ascii_label(label: str) -> str:
    return label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")


def _check_labels(name: str) -> None:
    *labels, last = name.split(".")
    if not all(labels):
        raise UnicodeError("it has an empty label")
    if max(map(len, (*labels, last))) > _MAX_LABEL:
        raise UnicodeError(f"a label has more than {_MAX_LABEL} bytes")


def check_port(port: object) -> None:
    """Raise an exception unless the value is a TCP port, or 0 to let a server pick a free port."""
    if not isinstance(port, int):
        raise TypeError(f"port must be an int, not {port!r:.100}")
    if not 0 <= port < 65536:
        raise ValueError(f"port must be between 0 and 65535, not {port}")


def request_target(resource: str) -> str:
    """Percent-encode a resource to form a valid request target (RFC 9112, 3.2.1)."""
    encoded = _NOT_IN_TARGET.sub(lambda m: b"%%%02X" % ord(m[0]), resource.encode())
    target = encoded.decode("ascii")
    return target if target.startswith("/") else "/" + target


def host_header(host: str, port: int, is_secure: bool) -> str:
    """Return the value of the Host header. A port that is the scheme's default is left out."""
    return _authority(without_zone(host), port, is_secure)


def origin(host: str, port: int, is_secure: bool) -> str:
    """Return the scheme and authority of a WebSocket URL (RFC 6874 for IPv6 zones)."""
    return origin_of(_authority(host.replace("%", "%25"), port, is_secure), is_secure)


@functools.lru_cache(maxsize=2**8)  # so that connections to the same server share the string
def origin_of(authority: str, is_secure: bool) -> str:
    """Return the scheme and authority of a WebSocket URL."""
    return f"{'wss' if is_secure else 'ws'}://{authority}"


def without_zone(host: str) -> str:
    """Return a host without its IPv6 zone, which has a meaning only on this machine."""
    return host.partition("%")[0] if ":" in host else host


def bracketed(host: str) -> str:
    """Return a host in the form that URLs use, with brackets around an IPv6 address."""
    return f"[{host}]" if ":" in host else host


def _authority(host: str, port: int, is_secure: bool) -> str:
    name = bracketed(host)
    return name if port == DEFAULT_PORTS[is_secure] else f"{name}:{port}"
