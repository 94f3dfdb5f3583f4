"""WebSocket URLs, the Host header, request targets, and endpoints."""

from __future__ import annotations

import base64
import decimal
import ipaddress
import re
from typing import TYPE_CHECKING

import pytest

from trio_websocket import Endpoint, connect_websocket_url, open_websocket_url
from trio_websocket._sansio.url import (
    URL,
    ascii_host,
    check_port,
    host_header,
    parse_url,
    request_target,
)

if TYPE_CHECKING:
    import trio


class Written:
    """An object whose str() is a URL, like the URLs of yarl or httpx."""

    def __str__(self) -> str:
        return "ws://example.com/chat"


# URLs


@pytest.mark.parametrize(
    ("url", "host", "port", "resource", "is_secure"),
    [
        ("ws://example.com/chat", "example.com", 80, "/chat", False),
        ("wss://example.com/chat", "example.com", 443, "/chat", True),
        ("ws://example.com:8000/", "example.com", 8000, "/", False),
        ("ws://example.com:443/", "example.com", 443, "/", False),
        ("ws://example.com:/", "example.com", 80, "/", False),
        ("WS://EXAMPLE.COM/Chat", "example.com", 80, "/Chat", False),
        ("ws://127.0.0.1:1/", "127.0.0.1", 1, "/", False),
        ("ws://[::1]:8000/", "::1", 8000, "/", False),
        ("ws://[fe80::1%25lo]/", "fe80::1%lo", 80, "/", False),
        ("ws://example.com:0/", "example.com", 0, "/", False),
        ("ws://ex%61mple.com/", "example.com", 80, "/", False),
    ],
)
def test_parse_url_gives_host_port_resource_scheme(
    url: str, host: str, port: int, resource: str, is_secure: bool
) -> None:
    assert parse_url(url) == URL(host, port, resource, is_secure, None)


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("ws://h", "/"),
        ("ws://h/a/b?c=d&e=f", "/a/b?c=d&e=f"),
        ("ws://h?c=d", "/?c=d"),
        ("ws://h?", "/?"),
        ("ws://h/?", "/?"),
        ("ws://h/a?b?c", "/a?b?c"),
        ("ws://h/a%20b", "/a%20b"),
        ("ws://h/ä b?ü", "/ä b?ü"),
    ],
)
def test_parse_url_resource_is_path_and_query(url: str, resource: str) -> None:
    assert parse_url(url).resource == resource


@pytest.mark.parametrize(
    "url", [None, b"ws://h/", bytearray(b"ws://h/"), 1, 1.5, True, decimal.Decimal(1)]
)
async def test_open_websocket_url_not_text_raises_at_call(
    nursery: trio.Nursery, url: object
) -> None:
    with pytest.raises(TypeError, match="url must be a str"):
        open_websocket_url(url)
    with pytest.raises(TypeError, match="url must be a str"):
        await connect_websocket_url(nursery, url)


@pytest.mark.parametrize("url", ["ws://h/a#f", "ws://h/a#f?x", "ws://h/a#"])
def test_parse_url_drops_fragment(url: str) -> None:
    assert parse_url(url).resource == "/a"


def test_parse_url_accepts_objects_with_str() -> None:
    assert parse_url(Written()).resource == "/chat"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://münchen.example/", "xn--mnchen-3ya.example"),
        ("ws://MÜNCHEN.example/", "xn--mnchen-3ya.example"),
        ("ws://m%C3%BCnchen.example/", "xn--mnchen-3ya.example"),
    ],
)
def test_parse_url_non_ascii_host_becomes_idna(url: str, host: str) -> None:
    assert parse_url(url).host == host


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("user:pw", b"user:pw"),
        ("user", b"user:"),
        (":pw", b":pw"),
        ("user:p%40s%3as", b"user:p@s:s"),
        ("üser:pä", "üser:pä".encode()),
        ("user:%ff", b"user:\xff"),
    ],
)
def test_parse_url_userinfo_becomes_credentials(userinfo: str, pair: bytes) -> None:
    credentials = parse_url(f"ws://{userinfo}@example.com/").credentials
    assert credentials == b"Basic " + base64.b64encode(pair)


@pytest.mark.parametrize("url", ["http://h/", "//h/", "h", "", "wsx://h/", "ws"])
def test_parse_url_other_scheme_raises(url: str) -> None:
    with pytest.raises(ValueError, match="a WebSocket URL begins with ws: or wss:"):
        parse_url(url)


@pytest.mark.parametrize("url", ["ws:", "ws:///a", "wss://:80/", "ws://user@/"])
def test_parse_url_without_host_raises(url: str) -> None:
    with pytest.raises(ValueError, match="has no host"):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "ws://h:65536/",
        "ws://h:-1/",
        "ws://h:x/",
        "ws://[::1/",
        "ws://\udcff/",
        "ws://ä..example/",
        "ws://a..example/",
    ],
)
def test_parse_url_bad_host_or_port_raises(url: str) -> None:
    with pytest.raises(ValueError, match=f"^invalid URL {re.escape(repr(url))}: "):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "hint"),
    [("http://h/", "use ws: in place of http:"), ("HTTPS://h/", "use wss: in place of https:")],
)
def test_parse_url_of_http_names_the_scheme_to_use(url: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"unlike '{url}'; {hint}$"):
        parse_url(url)


@pytest.mark.parametrize("url", ["http://user:secret@h/", "ws://user:secret@h:x/"])
def test_parse_url_in_errors_hides_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"//\*\*\*@h") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


# Hosts


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("example.com", "example.com"),
        ("example.com.", "example.com."),
        ("under_score", "under_score"),
        ("127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.Example."),
        ("bücher.example:8000", "xn--bcher-kva.example:8000"),
        ("_sip.bücher.example", "_sip.xn--bcher-kva.example"),
        ("bücher\u3002example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("κλαρα-σωλις.example", "xn----ylba7abgd9bnh0e.example"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("[::1]:8000", "[::1]:8000"),
        ("", ""),
    ],
)
def test_ascii_host_encodes_names(host: str, encoded: str) -> None:
    assert ascii_host(host) == encoded


@pytest.mark.parametrize(
    "host",
    [
        "ä" * 64,
        "a" * 64,
        "ä..example",
        "a..example",
        "\udcff",
        "\u0928\u0940\u200c.example",  # a joiner without a character to join
        "\u2100.example",  # its compatibility form has a slash
        "\u00ad.example",  # nothing is left of it
        "ä:b",
    ],
)
def test_ascii_host_impossible_raises(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        ascii_host(host)


@pytest.mark.parametrize(
    ("host", "port", "is_secure", "value"),
    [
        ("example.com", 80, False, "example.com"),
        ("example.com", 443, True, "example.com"),
        ("example.com", 443, False, "example.com:443"),
        ("example.com", 80, True, "example.com:80"),
        ("example.com", 8000, False, "example.com:8000"),
        ("127.0.0.1", 80, False, "127.0.0.1"),
        ("::1", 80, False, "[::1]"),
        ("::1", 8000, False, "[::1]:8000"),
        ("fe80::1%eth0", 443, True, "[fe80::1]"),
    ],
)
def test_host_header_of_host_and_port(host: str, port: int, is_secure: bool, value: str) -> None:
    assert host_header(host, port, is_secure) == value


@pytest.mark.parametrize("host", [None, b"example.com", 1])
def test_ascii_host_of_another_type_raises_type_error(host: object) -> None:
    with pytest.raises(TypeError, match=f"^host must be a str, not {host!r}$"):
        ascii_host(host)


@pytest.mark.parametrize("port", [0, 1, 80, 65535])
def test_check_port_valid_is_accepted(port: int) -> None:
    check_port(port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_check_port_out_of_range_raises(port: int) -> None:
    with pytest.raises(ValueError, match="port must be between 0 and 65535"):
        check_port(port)


@pytest.mark.parametrize("port", [None, "80", 80.0])
def test_check_port_not_int_raises(port: object) -> None:
    with pytest.raises(TypeError, match="port must be an int"):
        check_port(port)


# Request targets


@pytest.mark.parametrize(
    ("resource", "target"),
    [
        ("/chat", "/chat"),
        ("", "/"),
        ("chat", "/chat"),
        ("?a=b", "/?a=b"),
        ("/?", "/?"),
        ("/a%20b", "/a%20b"),
        ("/a b", "/a%20b"),
        ("/ä?ö", "/%C3%A4?%C3%B6"),
        ("/a\r\nX: y", "/a%0D%0AX:%20y"),
        ("/\x00\x7f", "/%00%7F"),
    ],
)
def test_request_target_of_resource(resource: str, target: str) -> None:
    assert request_target(resource) == target


# Endpoints


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (Endpoint("127.0.0.1", 80, False), "ws://127.0.0.1"),
        (Endpoint("127.0.0.1", 443, True), "wss://127.0.0.1"),
        (Endpoint("127.0.0.1", 443, False), "ws://127.0.0.1:443"),
        (Endpoint("127.0.0.1", 80, True), "wss://127.0.0.1:80"),
        (Endpoint("::1", 80, False), "ws://[::1]"),
        (Endpoint("::1", 8000, True), "wss://[::1]:8000"),
    ],
)
def test_endpoint_has_url(endpoint: Endpoint, url: str) -> None:
    assert endpoint.url == url


def test_endpoint_has_address_port_and_is_ssl() -> None:
    endpoint = Endpoint("::1", 8000, True)
    assert endpoint.address == ipaddress.IPv6Address("::1")
    assert (endpoint.port, endpoint.is_ssl) == (8000, True)


def test_endpoint_accepts_any_form_of_address() -> None:
    assert Endpoint(2130706433, 80, False) == Endpoint("127.0.0.1", 80, False)


def test_endpoint_repr_is_of_0_12() -> None:
    endpoint = Endpoint("127.0.0.1", 80, False)
    assert repr(endpoint) == 'Endpoint(address="127.0.0.1", port=80, is_ssl=False)'


def test_endpoint_str_is_address_and_port() -> None:
    assert str(Endpoint("127.0.0.1", 80, False)) == "127.0.0.1:80"
    assert str(Endpoint("::1", 8000, True)) == "[::1]:8000"


def test_endpoint_equal_hashes_alike() -> None:
    assert len({Endpoint("::1", 80, False), Endpoint("0::1", 80, False)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        Endpoint("127.0.0.2", 80, False),
        Endpoint("127.0.0.1", 81, False),
        Endpoint("127.0.0.1", 80, True),
        "ws://127.0.0.1",
    ],
)
def test_endpoint_differs_from_others(other: object) -> None:
    assert Endpoint("127.0.0.1", 80, False) != other


def test_endpoint_not_ip_address_raises() -> None:
    with pytest.raises(ValueError, match="example"):
        Endpoint("example.com", 80, False)


def test_parse_url_empty_userinfo_is_none() -> None:
    assert parse_url("ws://@example.com/").credentials is None


def test_parse_url_colon_in_host_raises() -> None:
    with pytest.raises(ValueError, match="a host with a colon"):
        parse_url("ws://a%3a80/")
