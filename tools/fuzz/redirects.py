"""Values of the Location header, from valid ones to bytes that mean nothing."""

from __future__ import annotations

import contextlib
import re
import sys
import urllib.parse
from random import Random

from trio_websocket import ConnectionRejected, RedirectError
from trio_websocket._sansio.client_handshake import ClientHandshake
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.redirects import Redirects, is_same_origin, resolve
from trio_websocket._sansio.url import URL, ascii_host, host_header, parse_url, request_target

from .model import expect
from .mutation import maybe_mutated

_SCHEMES = ("ws:", "wss:", "http:", "https:", "HTTPS:", "", "", "", "ftp:", "javascript:", "a+b:")
_USERS = ("", "", "", "user:secret@", "secret@", "user:secret@x@", ":@", "@")
_HOSTS = (
    *("a.example", "A.EXAMPLE", "b.example.", "a_b", "127.0.0.1", "[::1]", "[0:0::1]", "0x7f.1"),
    *("fa%C3%9F.example", "xn--fa-hia.example", "%61.example", "a%00b", "a%2fb", "a%40b", "%ff"),
    *("", ".", "a..b", "[::1", "::1", "[v1.a]", "[fe80::1%25lo]", "x" * 64, "x." * 130, "a\\b"),
)
_PORTS = ("", "", "", ":", ":80", ":443", ":8000", ":0", ":65536", ":-1", ":+1", ":1_0", ":00080")
_SEGMENTS = ("", "a", ".", "..", "...", "%2e", "%2E%2e", ";x=1", "a:b", "@", "*", "\xe4", " ")
_QUERIES = ("", "", "", "?", "?a=b", "?a?b", "?//b.example/..", "?@b", "?a b")
_FRAGMENTS = ("", "", "#", "#x", "#//b.example/", "#?x", "#\xe4")
_URLS = (
    *("ws://a.example/", "wss://a.example/b/c?d", "ws://a.example:8000/b//c;p?q=/r"),
    *("wss://[::1]/b", "ws://127.0.0.1:1/?x", "ws://xn--fa-hia.example/.."),
)
_HOST = re.compile(r"[a-z0-9._~-]+|[0-9a-f:.]+")


def make_location(rng: Random) -> bytes:
    return maybe_mutated(rng, lambda: _location(rng))


def _location(rng: Random) -> bytes:
    authority = ""
    scheme = rng.choice(_SCHEMES)
    if scheme or rng.random() < 0.3:
        authority = "//" + rng.choice(_USERS) + rng.choice(_HOSTS) + rng.choice(_PORTS)
    path = "/".join(rng.choice(_SEGMENTS) for _ in range(rng.randrange(6)))
    tail = rng.choice(("/", "")) + path + rng.choice(_QUERIES) + rng.choice(_FRAGMENTS)
    return (scheme + authority + tail).encode(rng.choice(("latin-1", "utf-8")))


def check_location(data: bytes, rng: Random) -> None:
    current = parse_url(rng.choice(_URLS))
    _check_follow(current, data)
    try:
        url = resolve(current, data)
    except ValueError as exc:
        expect(len(str(exc)) < 600, "a long text", str(exc))
        expect("secret@" not in str(exc), "a password", str(exc))
        return
    expect(url.credentials is None, "credentials", url)
    expect(_HOST.fullmatch(url.host) is not None, "an odd host", url)
    expect(1 <= url.port <= 65535, "an odd port", url)
    expect(parse_url(str(url)) == url, "other parts of the same URL", url, parse_url(str(url)))
    if "/." not in url.resource:
        again = resolve(current, str(url).encode())
        expect(again == url, "another URL", url, again)
    _check_request(url)
    if sys.version_info >= (3, 11):  # before, a scheme could begin with a dot
        _check_host(url, urllib.parse.urljoin(str(current), data.decode("ascii")))


def _check_follow(current: URL, location: bytes) -> None:
    redirects = Redirects(current, 2)
    rejection = ConnectionRejected(302, ((b"location", location),), b"")
    with contextlib.suppress(RedirectError):
        for _ in range(3):
            url = redirects.follow(rejection)
            assert url is not None
            expect(url.is_secure or not current.is_secure, "from TLS to plain", current, url)
            expect(url != current, "the same URL", url)
            if is_same_origin(current, url):
                expect(url.host == current.host, "another host", current, url)
            current = url
        raise AssertionError("one redirect too many")


def _check_request(url: URL) -> None:
    """Check that the URL makes the request that it should, and not two."""
    name = host_header(url.host, url.port, is_secure=url.is_secure)
    handshake = ClientHandshake(name, request_target(url.resource), None, None, Options())
    lines = handshake.request.decode("ascii").split("\r\n")
    expect(lines[0] == f"GET {url.resource} HTTP/1.1", "another request", lines)
    expect(lines[1] == f"Host: {name}", "another Host", lines)
    expect(lines.index("") == len(lines) - 2, "more than one request", lines)


def _check_host(url: URL, joined: str) -> None:
    """Check that Python's parser finds the same host and port."""
    parts = urllib.parse.urlsplit(joined)
    assert parts.hostname is not None
    host = ascii_host(urllib.parse.unquote(parts.hostname)).lower()
    if ":" not in host:
        expect(host == url.host, "another host", url, joined)
    default = {"ws": 80, "http": 80, "wss": 443, "https": 443}[parts.scheme]
    expect((parts.port or default) == url.port, "another port", url, joined)
