"""The answers of HTTP proxies, URLs of proxies, and variables of the environment."""

from __future__ import annotations

import base64
import re
import sys
import urllib.parse
from random import Random
from typing import Any

from trio_websocket import ProxyError
from trio_websocket._sansio.proxy import Proxy, parse_proxy, proxy_of_environment
from trio_websocket._sansio.tunnel import TunnelRequest
from trio_websocket._sansio.url import ascii_host

from . import grammar
from .model import expect
from .mutation import chunks, maybe_mutated, some_bytes

_SECRET = "s3cr3t"

# -- the answer to CONNECT

_VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"ICY")
_STATUSES = (b"200", b"200", b"200", b"204", b"299", b"100", b"101", b"302", b"403", b"407", b"0")
_REASONS = (b" OK", b" Connection established", b"", b" ", b" \xff\x1b[0m", b" " + b"x" * 300)
_HEADERS = (
    *(b"Proxy-Agent: x", b"Proxy-Authenticate: Basic", b"Location: http://a/", b"A:", b"A: \xe4"),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: x", b"Content-Length: -1"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close", b" folded"),
)
_ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n")
_BODIES = (
    b"",
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"\x16\x03\x01",
    b"x" * 3000,
    b"\r\n\r\n",
)
_PROXY = parse_proxy(f"http://user:{_SECRET}@proxy.example:3128")
_TOKEN = base64.b64encode(f"user:{_SECRET}".encode()).decode("ascii")


def make_answer(rng: Random) -> bytes:
    return maybe_mutated(rng, lambda: _answer(rng))


def _answer(rng: Random) -> bytes:
    if rng.random() < 0.1:
        return grammar.from_server(rng)
    if rng.random() < 0.05:
        return b"Basic " + _TOKEN.encode("ascii") + b"\r\n\r\n" + some_bytes(rng, 40)
    data = b""
    while rng.random() < 0.2:
        data += b"HTTP/1.1 100 Continue\r\n\r\n" * rng.choice((1, 1, 11))
    end = rng.choice(_ENDS)
    lines = [rng.choice(_VERSIONS) + b" " + rng.choice(_STATUSES) + rng.choice(_REASONS)]
    lines += [rng.choice(_HEADERS) for _ in range(rng.randrange(5))]
    if rng.random() < 0.05:
        lines += [b"A: b"] * rng.choice((250, 256, 257))
    return data + end.join(lines) + end + end + rng.choice(_BODIES)


def check_answer(data: bytes, rng: Random) -> None:
    limit = rng.choice((65536, 65536, 1000, 200))
    outcomes = [_tunnel(cut, limit) for cut in ([data], chunks(rng, data), chunks(rng, data))]
    for other in outcomes[1:]:
        # How much of a head that is too long was seen depends on the cuts.
        is_alike = len(data) > limit and outcomes[0][0] == other[0] == "failed"
        expect(other == outcomes[0] or is_alike, "the cuts matter", outcomes[0], other)


def _tunnel(cut: list[bytes], limit: int) -> tuple[Any, ...]:
    request = TunnelRequest(_PROXY, "example.com", 443, None, limit)
    received = 0
    for index, chunk in enumerate([*filter(None, cut), b""]):
        try:
            request.receive_data(chunk)
            rest = request.result()
        except ProxyError as exc:
            _check_error(exc)
            return "failed", exc.status_code, exc.headers
        if rest is not None:
            return "opened", rest + b"".join(cut[index + 1 :])
        received += len(chunk)
        if not request.is_refused:
            expect(received <= limit, "kept more than max_header_size", received)
    raise AssertionError("waits for more after the end of the stream")


def _check_error(exc: ProxyError) -> None:
    text = str(exc)
    expect(len(text) < 1000 and text.isprintable(), "an odd text", text)
    expect(_TOKEN not in text and _SECRET not in text, "a password", text)
    expect(exc.proxy == "http://proxy.example:3128", "another proxy", exc.proxy)
    for other in (exc.__cause__, exc.__context__):
        expect(_TOKEN not in str(other), "a password", other)
    status = exc.status_code
    expect(status is None or not 200 <= status < 300, "a success", status)


# -- URLs and the environment

_SCHEMES = (
    *("http://", "http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://"),
    *("HTTP://", "ftp://", "//", "", "http:", "http:///", "a+b://"),
)
_USERS = (
    *("", "", f"user:{_SECRET}@", f"{_SECRET}@", f":{_SECRET}@", f"a:b@{_SECRET}@", "@", ":@"),
    *(f"%75:{_SECRET}%40%ff@", f"u:{_SECRET}/@", f"u:1/{_SECRET}@", f"u:{_SECRET}?#@", "ü:%00@"),
    *(f"u%3a:{_SECRET}@", f"[{_SECRET}]@", f"{_SECRET * 50}@", f"u:{_SECRET}\ud800\udcff@"),
)
_HOSTS = (
    *("proxy", "PROXY.example.", "a_b", "127.0.0.1", "[::1]", "[0:0::1]", "0x7f.1", "x" * 64),
    *("faß.example", "fa%C3%9F.example", "%61.example", "a%00b", "a%2fb", "a%40b", "%ff", "a%3A1"),
    *("", ".", "a..b", "[::1", "::1", "[v1.a]", "[fe80::1%25lo]", "x." * 130, "a\\b", "[]", "a b"),
)
_PORTS = ("", "", "", ":", ":80", ":3128", ":0", ":65536", ":-1", ":1_0", ":00080", ":\u0663", ":x")
_TAILS = ("", "", "", "", "/", "/a", "?a", "#a", " ", "\n")
_ENTRIES = (
    *("*", "a.example", ".a.example", "*.a.example", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]:80"),
    *("*:80", "a.example:", "10.0.0.0/99", "[::", "]", "/", ".", "*.", "fe80::1%lo", "%", "\udcff"),
)
_SERVERS = (
    "a.example",
    "b.a.example.",
    "127.0.0.1",
    "::1",
    "fe80::1%lo",
    "::ffff:10.0.0.1",
    "a..b",
)
_HOST = re.compile(r"[a-z0-9._~-]+|[0-9A-Fa-f:.]+(%[0-9A-Za-z._~-]+)?")


def make_proxy_url(rng: Random) -> bytes:
    return maybe_mutated(rng, lambda: _proxy_url(rng))


def _proxy_url(rng: Random) -> bytes:
    parts = (_SCHEMES, _USERS, _HOSTS, _PORTS, _TAILS)
    return "".join(rng.choice(part) for part in parts).encode("utf-8", "surrogatepass")


def check_proxy_url(data: bytes, rng: Random) -> None:
    text = data.decode("utf-8", "surrogateescape")
    _check_environment(text, rng)
    try:
        proxy = parse_proxy(text)
    except ValueError as exc:
        expect(len(str(exc)) < 400, "a long text", str(exc))
        if _SECRET not in text.rpartition("@")[2]:
            expect(_SECRET not in str(exc), "a password", text, str(exc))
        expect(exc.__cause__ is exc.__context__ is None, "a cause", exc)
        return
    _check_proxy(proxy)
    if sys.version_info >= (3, 11):
        _compare(proxy, text)


def _check_proxy(proxy: Proxy) -> None:
    expect(_HOST.fullmatch(proxy.host) is not None, "an odd host", proxy)
    expect(1 <= proxy.port <= 65535, "an odd port", proxy)
    again = parse_proxy(proxy.url)
    expect(again.credentials is None, "credentials in the URL", proxy)
    same = (again.scheme, again.host, again.port, again.url)
    expect(same == (proxy.scheme, proxy.host, proxy.port, proxy.url), "not the same", proxy, again)


def _compare(proxy: Proxy, text: str) -> None:
    """Check that Python's parser finds the same host and port."""
    parts = urllib.parse.urlsplit(text)
    expect(parts.scheme == proxy.scheme, "another scheme", proxy, parts)
    host = urllib.parse.unquote(parts.hostname or "")
    if ":" not in host:  # an IPv6 address and its zone stay as they are
        host = ascii_host(host)
    expect(host.lower() == proxy.host.lower(), "another host", proxy, parts)
    expect(parts.port in (proxy.port, None), "another port", proxy, parts)


def _check_environment(text: str, rng: Random) -> None:
    name = rng.choice(("all_proxy", "HTTPS_PROXY", "https_proxy", "WSS_PROXY"))
    entries = [rng.choice(_ENTRIES) for _ in range(rng.randrange(4))]
    no_proxy = rng.choice((",", " ", ", ")).join(
        [*entries, text] if rng.random() < 0.5 else entries
    )
    environ = {name: text, "NO_PROXY": no_proxy}
    host = rng.choice(_SERVERS)
    try:
        proxy = proxy_of_environment(environ, host, rng.choice((80, 443)), is_secure=True)
    except ValueError as exc:
        expect(name in str(exc), "no name of a variable", exc)
        expect(_SECRET not in str(exc), "a password", text, str(exc))
        expect(exc.__cause__ is exc.__context__ is None, "a cause", exc)
        return
    if "*" in entries or not text.strip():
        expect(proxy is None, "not exempt", environ, proxy)
    elif not no_proxy:
        expect(proxy is not None, "exempt", environ)
    if proxy is not None:
        _check_proxy(proxy)
