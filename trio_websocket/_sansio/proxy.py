"""Parse proxy URLs, and find the proxy that environment variables specify.

No exception and no ``repr()`` here contains credentials. Exceptions from `urllib.parse` and from
codecs contain the text that could not be parsed, so they never become a cause or context here.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import urllib.parse
from typing import Mapping

from .errors import ProxyError
from .handshake import Headers
from .url import ascii_host, bracketed, without_zone

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<userinfo>[^/?#\[\]]*)@)?"
    r"(?P<host>\[[^\[\]/?#@]+\]|[^\[\]/?#@:]+)(?::(?P<port>[0-9]{0,5}))?/?",
    re.IGNORECASE,
)
_FORM = (
    "it must look like http://user:password@example.com:3128, "
    "with / ? # [ ] @ percent-encoded in the user name and the password"
)
# Control characters, spaces, and surrogates that do not represent an undecodable byte (PEP 383).
_NOT_IN_URL = re.compile("[\x00-\x20\x7f\ud800-\udc7f\udd00-\udfff]")
_NAME = re.compile(r"[a-z0-9._~-]{1,253}")  # the length of a DNS name (RFC 1035, 2.3.4)
_ADDRESS = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%[0-9A-Za-z._~-]+)?\]")  # zone allowed (RFC 6874)
_USERINFO = re.compile(".*@", re.DOTALL)

# The variables that specify a proxy for ws: (False) and wss: (True), in order of precedence.
_VARIABLES = {
    False: ("ws_proxy", "http_proxy", "all_proxy"),
    True: ("wss_proxy", "https_proxy", "all_proxy"),
}
_SEPARATORS = re.compile(r"[,\s]+")
# An IPv6 address or network in brackets, with an optional port.
_BRACKETED = re.compile(r"\[([^\]]*)\](/[0-9]+)?(?::([0-9]*))?")


@dataclasses.dataclass(frozen=True)
class Proxy:
    """The address and credentials of a proxy."""

    #: ``http``, ``https``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``.
    scheme: str
    #: The host, in the form that DNS and TLS need.
    host: str
    #: The TCP port.
    port: int
    #: The URL without credentials.
    url: str
    #: The user name and the password, or None if both are empty.
    credentials: tuple[bytes, bytes] | None = dataclasses.field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """True for a SOCKS proxy, False for an HTTP proxy."""
        return self.scheme.startswith("socks")

    @property
    def name(self) -> str:
        """A description for error messages."""
        return f"the proxy {self.host}, port {self.port}"

    def error(
        self,
        text: str,
        *,
        status_code: int | None = None,
        headers: Headers | None = None,
        socks_reply: int | None = None,
    ) -> ProxyError:
        """Return the error to raise if the proxy did not open a tunnel.

        :param text: The complete error message.

        The other parameters become attributes of the `ProxyError`.
        """
        return ProxyError(
            text,
            proxy=self.url,
            status_code=status_code,
            headers=tuple(headers or ()),
            socks_reply=socks_reply,
        )


def parse_proxy(url: str) -> Proxy:
    """Parse a proxy URL.

    :raises ValueError: The text is not a proxy URL.
    """
    try:
        return _parse(url)
    except ValueError as exc:
        reason = str(exc)
    shown = _USERINFO.sub("***@", url)
    raise ValueError(f"proxy must be the URL of a proxy, not {shown!r:.100}: {reason}")


def _parse(text: str) -> Proxy:
    """Parse a proxy URL.

    :raises ValueError: The text is not a proxy URL. The message contains the reason, but no part of
        the URL.
    """
    match = None if _NOT_IN_URL.search(text) else _URL.fullmatch(text)
    if match is None:
        raise ValueError(_FORM)
    scheme = match["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"its scheme must be one of {', '.join(_DEFAULT_PORTS)}")
    host = _parse_host(match["host"])
    if host is None:
        raise ValueError("its host is neither a name nor an IP address")
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError("its port must be between 1 and 65535")
    shown = bracketed(host).replace("%", "%25")  # before the zone of an address (RFC 6874)
    if match["port"]:
        shown += f":{port}"
    return Proxy(
        scheme, host, port, f"{scheme}://{shown}", _parse_userinfo(scheme, match["userinfo"] or "")
    )


def _parse_host(text: str) -> str | None:
    host = urllib.parse.unquote(text)
    try:
        if host.startswith("["):
            address = _ADDRESS.fullmatch(host)
            ipaddress.IPv6Address(address[1] if address else "")
            return host[1:-1]
        host = ascii_host(host).lower()
    except ValueError:
        return None
    return host if _NAME.fullmatch(host) else None


def _parse_userinfo(scheme: str, text: str) -> tuple[bytes, bytes] | None:
    """Return the user name and the password, or None if both are empty.

    :raises ValueError: The proxy's protocol can't transmit these credentials.
    """
    octets = text.encode("utf-8", "surrogateescape")
    user, _, password = map(urllib.parse.unquote_to_bytes, octets.partition(b":"))
    if scheme in ("http", "https") and b":" in user:
        raise ValueError("its user name must not contain a colon (RFC 7617)")
    if scheme in ("socks4", "socks4a") and b"\0" in user:
        raise ValueError("its user name must not contain a zero byte")
    if scheme in ("socks5", "socks5h") and max(len(user), len(password)) > 255:
        raise ValueError("its user name and password must have at most 255 bytes (RFC 1929)")
    return (user, password) if user or password else None


def proxy_of_environment(
    environ: Mapping[str, str], host: str, port: int, *, is_secure: bool
) -> Proxy | None:
    """Return the proxy that environment variables specify for a server, or None.

    :param environ: The environment variables. Pass a copy of `os.environ`, because on Windows
        `os.environ` itself ignores the case of names.
    :param host: The server's host, in ASCII.
    :param port: The server's port.
    :param is_secure: True for ``wss:``.
    :raises ValueError: The variable does not contain a proxy URL.
    """
    found = (_look_up(environ, name) for name in _VARIABLES[is_secure])
    variable, value = next((pair for pair in found if pair[1]), ("", ""))
    if not value or _is_exempt(_look_up(environ, "no_proxy")[1], host, port):
        return None
    try:
        return _parse(value if "://" in value else f"http://{value}")
    except ValueError as exc:
        reason = str(exc)
    text = f"the environment variable {variable} does not contain the URL of a proxy"
    raise ValueError(f"{text}: {reason}")


def _look_up(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the name and value of a variable. The value is empty if the variable is not set.

    The lower-case variable takes precedence over the upper-case one, even if it is empty.
    """
    for variable in (name, name.upper()):
        # Web servers pass a request's "Proxy" header to CGI programs as HTTP_PROXY.
        if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
            continue
        if variable in environ:
            return variable, environ[variable].strip()
    return name, ""


def _is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Return True if a ``no_proxy`` list contains the server. Names are not resolved."""
    host = without_zone(host).lower()
    for entry in _SEPARATORS.split(no_proxy.lower()):
        bracketed = _BRACKETED.fullmatch(entry)
        if bracketed is not None:
            pattern, wanted_port = bracketed[1] + (bracketed[2] or ""), bracketed[3]
        elif entry.count(":") == 1:
            pattern, _, wanted_port = entry.partition(":")
        else:
            pattern, wanted_port = entry, None
        if wanted_port in (None, "", str(port)) and _matches(pattern, host):
            return True
    return False


def _matches(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    addresses = _addresses(host)
    try:
        if addresses:
            network = ipaddress.ip_network(without_zone(pattern), strict=False)
            return any(address in network for address in addresses)
        name = _without_dot(ascii_host(re.sub(r"\A\*?\.", "", pattern)))
    except ValueError:
        return False
    host = _without_dot(host)
    return host == name or host.endswith(f".{name}")


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the host as an IP address, and the IPv4 address mapped in it; [] for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return [address] if mapped is None else [address, mapped]


def _without_dot(name: str) -> str:
    return name[:-1] if name.endswith(".") else name
