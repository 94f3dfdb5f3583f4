"""The URL of a proxy, the proxy of the environment, and the request for a tunnel."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import Any, Iterator

import pytest

from trio_websocket import ConnectionFailed, HandshakeError, ProxyError
from trio_websocket._sansio.proxy import Proxy, parse_proxy, proxy_of_environment
from trio_websocket._sansio.tunnel import TunnelRequest, check_tunnel_headers

SECRET = "s3cr3t"
REFUSED = b"HTTP/1.1 407 Get a password\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno"


# The URL


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "shown"),
    [
        ("http://example.com", "http", "example.com", 80, "http://example.com"),
        ("https://example.com/", "https", "example.com", 443, "https://example.com"),
        ("socks4://example.com", "socks4", "example.com", 1080, "socks4://example.com"),
        ("socks4a://example.com", "socks4a", "example.com", 1080, "socks4a://example.com"),
        ("socks5://example.com", "socks5", "example.com", 1080, "socks5://example.com"),
        ("socks5h://example.com", "socks5h", "example.com", 1080, "socks5h://example.com"),
        ("http://example.com:3128", "http", "example.com", 3128, "http://example.com:3128"),
        ("http://example.com:80", "http", "example.com", 80, "http://example.com:80"),
        ("http://example.com:", "http", "example.com", 80, "http://example.com"),
        ("HTTP://EXAMPLE.COM", "http", "example.com", 80, "http://example.com"),
        ("http://straße.de:1", "http", "xn--strae-oqa.de", 1, "http://xn--strae-oqa.de:1"),
        ("http://ex%61mple.com", "http", "example.com", 80, "http://example.com"),
        ("http://my_proxy.", "http", "my_proxy.", 80, "http://my_proxy."),
        ("http://10.0.0.1", "http", "10.0.0.1", 80, "http://10.0.0.1"),
        ("http://[::1]:3128", "http", "::1", 3128, "http://[::1]:3128"),
        ("http://[fe80::1%25lo]", "http", "fe80::1%lo", 80, "http://[fe80::1%25lo]"),
        ("http://u:p@example.com:1/", "http", "example.com", 1, "http://example.com:1"),
    ],
)
def test_parse_proxy_gives_scheme_host_port_and_url(
    url: str, scheme: str, host: str, port: int, shown: str
) -> None:
    proxy = parse_proxy(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.url) == (scheme, host, port, shown)
    assert proxy.is_socks == scheme.startswith("socks")
    assert proxy.name == f"the proxy {host}, port {port}"


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("", None),
        ("@", None),
        (":@", None),
        ("u@", (b"u", b"")),
        ("u:@", (b"u", b"")),
        (":p@", (b"", b"p")),
        ("u:p@", (b"u", b"p")),
        ("u:p:q@", (b"u", b"p:q")),
        ("u:p@q@", (b"u", b"p@q")),
        ("u%20:p%2F%3f%23%40%ff@", (b"u ", b"p/?#@\xff")),
        ("ü:p\udcff@", (b"\xc3\xbc", b"p\xff")),
    ],
)
def test_parse_proxy_decodes_credentials(
    userinfo: str, credentials: tuple[bytes, bytes] | None
) -> None:
    assert parse_proxy(f"http://{userinfo}example.com").credentials == credentials


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "it must look like"),
        ("env ", "it must look like"),
        ("example.com:3128", "it must look like"),
        (f"u:{SECRET}@example.com", "it must look like"),
        (f"//u:{SECRET}@example.com", "it must look like"),
        (f"http:u:{SECRET}@example.com", "it must look like"),
        (f"http://u:{SECRET}@", "it must look like"),
        (f"http://u:{SECRET}/@example.com", "it must look like"),
        (f"http://u:1/{SECRET}@example.com", "it must look like"),
        (f"http://u:{SECRET}#@example.com", "it must look like"),
        (f"http://u:[{SECRET}]@example.com", "it must look like"),
        (f"http://u:{SECRET} @example.com", "it must look like"),
        (f"http://u:{SECRET}\n@example.com", "it must look like"),
        (f"http://u:{SECRET}\ud800@example.com", "it must look like"),
        (f"http://u:{SECRET}@example.com/path", "it must look like"),
        (f"http://u:{SECRET}@example.com?query", "it must look like"),
        (f"http://u:{SECRET}@example.com:http", "it must look like"),
        (f"http://u:{SECRET}@example.com:123456", "it must look like"),
        (f"http://u:{SECRET}@::1", "it must look like"),
        (f"ftp://u:{SECRET}@example.com", "its scheme must be one of http, https, socks4,"),
        (f"http://u:{SECRET}@example.com:0", "its port must be between 1 and 65535"),
        (f"http://u:{SECRET}@example.com:65536", "its port must be between 1 and 65535"),
        (f"http://u:{SECRET}@a..b", "its host is neither"),
        (f"http://u:{SECRET}@a%20b", "its host is neither"),
        (f"http://u:{SECRET}@a%3A80", "its host is neither"),
        (f"http://u:{SECRET}@a%00b", "its host is neither"),
        (f"http://u:{SECRET}@a%2541", "its host is neither"),
        (f"http://u:{SECRET}@{'a.' * 127}", "its host is neither"),
        (f"http://u:{SECRET}@[::g]", "its host is neither"),
        (f"http://u:{SECRET}@[:::]", "its host is neither"),
        (f"http://u:{SECRET}@[::1%25]", "its host is neither"),
        (f"http://u:{SECRET}@[::1%25a:b]", "its host is neither"),
        (f"http://u:{SECRET}@\u2603\ufffd", "its host is neither"),
        (f"http://u:{SECRET}@a\uff0fb", "its host is neither"),
        (f"http://u%3A:{SECRET}@example.com", "its user name must not contain a colon"),
        (f"socks4://%00:{SECRET}@example.com", "its user name must not contain a zero byte"),
        (f"socks5://u:{SECRET * 50}@example.com", "must have at most 255 bytes"),
        (f"socks5h://{SECRET * 50}@example.com", "must have at most 255 bytes"),
    ],
)
def test_parse_proxy_invalid_url_shows_no_credentials(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_proxy(url)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("proxy must be the URL of a proxy, not '")
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_parse_proxy_invalid_url_without_credentials_is_shown() -> None:
    with pytest.raises(ValueError, match=r"not 'example\.com:3128'"):
        parse_proxy("example.com:3128")


def test_proxy_repr_shows_no_credentials() -> None:
    proxy = parse_proxy(f"http://user:{SECRET}@example.com")
    assert "user" not in repr(proxy)
    assert SECRET not in f"{proxy!r} {proxy}"


# The environment


def chosen(environ: dict[str, str], url: str = "wss://example.com:443") -> str | None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    proxy = proxy_of_environment(environ, host, int(port), is_secure=scheme == "wss")
    return None if proxy is None else proxy.url


@pytest.mark.parametrize(
    ("names", "of_ws", "of_wss"),
    [
        ([], None, None),
        (["all_proxy"], "all_proxy", "all_proxy"),
        (["ALL_PROXY"], "ALL_PROXY", "ALL_PROXY"),
        (["http_proxy"], "http_proxy", None),
        (["https_proxy"], None, "https_proxy"),
        (["ws_proxy"], "ws_proxy", None),
        (["wss_proxy"], None, "wss_proxy"),
        (["all_proxy", "http_proxy", "https_proxy"], "http_proxy", "https_proxy"),
        (["HTTP_PROXY", "WS_PROXY", "all_proxy"], "WS_PROXY", "all_proxy"),
        (["https_proxy", "WSS_PROXY"], None, "WSS_PROXY"),
        (["wss_proxy", "WSS_PROXY", "ws_proxy", "WS_PROXY"], "ws_proxy", "wss_proxy"),
        (["Https_Proxy", "no_proxy"], None, None),
    ],
)
def test_proxy_of_environment_takes_first_variable_of_scheme(
    names: list[str], of_ws: str | None, of_wss: str | None
) -> None:
    # Each variable has a name of its own as its value; proxies' hosts are in lower case.
    environ = {name: f"http://{name}-{name.islower()}.example" for name in names}
    for url, name in (("ws://example.com:80", of_ws), ("wss://example.com:443", of_wss)):
        expected = None if name is None else environ[name].lower()
        assert chosen(environ, url) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"wss_proxy": "", "WSS_PROXY": "http://twin"}, None),
        ({"wss_proxy": " ", "WSS_PROXY": "http://twin", "https_proxy": "http://next"}, "http://next"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://twin", "ALL_PROXY": "http://all"}, "http://all"),
        ({"HTTPS_PROXY": "http://upper", "REQUEST_METHOD": "GET"}, "http://upper"),
        ({"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "u:p@proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": " socks5h://proxy "}, "socks5h://proxy"),
    ],
)  # fmt: skip
def test_proxy_of_environment_value(environ: dict[str, str], expected: str | None) -> None:
    assert chosen(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTP_PROXY": "http://upper"}, "http://upper"),
        ({"HTTP_PROXY": "http://upper", "REQUEST_METHOD": ""}, None),
        ({"http_proxy": "http://lower", "REQUEST_METHOD": "GET"}, "http://lower"),
        ({"HTTP_PROXY": "http://upper", "REQUEST_METHOD": "GET", "all_proxy": "http://all"}, "http://all"),
    ],
)  # fmt: skip
def test_proxy_of_environment_of_cgi_ignores_http_proxy(
    environ: dict[str, str], expected: str | None
) -> None:
    assert chosen(environ, "ws://example.com:80") == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wss_proxy", f"ftp://u:{SECRET}@proxy"),
        ("HTTPS_PROXY", f"u:{SECRET}@proxy:http"),
        ("all_proxy", f"http://u:{SECRET}/@proxy"),
    ],
)
def test_proxy_of_environment_invalid_value_names_variable(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"the environment variable {name} does not") as caught:
        chosen({name: value})
    assert SECRET not in str(caught.value)
    assert "u:" not in str(caught.value).replace("://user:", "")
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_exempt"),
    [
        ("", "example.com:443", False),
        ("", "localhost:443", False),
        ("", "127.0.0.1:443", False),
        ("*", "example.com:443", True),
        ("*", "::1:443", True),
        ("*:443", "example.com:443", True),
        ("*:444", "example.com:443", False),
        ("a.example, *", "example.com:443", True),
        # Names
        ("example.com", "example.com:443", True),
        ("example.com", "www.example.com:443", True),
        ("example.com", "a.www.example.com:443", True),
        (".example.com", "example.com:443", True),
        (".example.com", "www.example.com:443", True),
        ("*.example.com", "example.com:443", True),
        ("*.example.com", "www.example.com:443", True),
        ("example.com", "notexample.com:443", False),
        (".example.com", "notexample.com:443", False),
        ("example.com", "example.com.org:443", False),
        ("www.example.com", "example.com:443", False),
        ("EXAMPLE.com", "example.com:443", True),
        ("example.com", "Example.COM:443", True),
        ("example.com.", "example.com:443", True),
        ("example.com", "example.com.:443", True),
        ("example.com..", "example.com:443", False),
        ("straße.de", "xn--strae-oqa.de:443", True),
        ("a..b", "a..b:443", False),
        ("*ample.com", "example.com:443", False),
        (".", "example.com:443", False),
        # Separators
        ("a.example,example.com", "example.com:443", True),
        ("a.example example.com", "example.com:443", True),
        ("a.example ,\t, example.com,", "example.com:443", True),
        ("a.example;example.com", "example.com:443", False),
        # Ports
        ("example.com:443", "example.com:443", True),
        ("example.com:443", "www.example.com:443", True),
        (".example.com:443", "www.example.com:443", True),
        ("example.com:444", "example.com:443", False),
        ("example.com:", "example.com:443", True),
        ("example.com:https", "example.com:443", False),
        # Addresses
        ("127.0.0.1", "127.0.0.1:443", True),
        ("127.0.0.1", "127.0.0.2:443", False),
        ("127.0.0.1:443", "127.0.0.1:443", True),
        ("127.0.0.1:444", "127.0.0.1:443", False),
        ("0.0.1", "127.0.0.1:443", False),
        (".0.0.1", "127.0.0.1:443", False),
        ("127.0.0.1", "localhost:443", False),
        ("localhost", "127.0.0.1:443", False),
        ("::1", "::1:443", True),
        ("[::1]", "::1:443", True),
        ("[::1]:443", "::1:443", True),
        ("[::1]:444", "::1:443", False),
        ("0:0:0:0:0:0:0:1", "::1:443", True),
        ("fe80::1", "fe80::1%lo:443", True),
        ("fe80::1%lo", "fe80::1:443", True),
        ("::1", "127.0.0.1:443", False),
        ("10.0.0.1", "::ffff:10.0.0.1:443", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1:443", True),
        # Networks
        ("127.0.0.0/8", "127.255.0.1:443", True),
        ("127.0.0.1/8", "127.255.0.1:443", True),
        ("127.0.0.0/8", "128.0.0.1:443", False),
        ("127.0.0.0/8:443", "127.0.0.1:443", True),
        ("127.0.0.0/8:444", "127.0.0.1:443", False),
        ("127.0.0.0/33", "127.0.0.1:443", False),
        ("0.0.0.0/0", "example.com:443", False),
        ("fd00::/8", "fd00::1:443", True),
        ("fd00::/8", "fe00::1:443", False),
        ("[fd00::/8]:443", "fd00::1:443", True),
        ("[fd00::]/8:443", "fd00::1:443", True),
        ("[fd00::/8]:444", "fd00::1:443", False),
        ("[fd00::", "fd00::1:443", False),
    ],
)
def test_proxy_of_environment_no_proxy(no_proxy: str, host: str, is_exempt: bool) -> None:
    environ = {"all_proxy": "http://proxy", "no_proxy": no_proxy}
    assert chosen(environ, f"wss://{host}") == (None if is_exempt else "http://proxy")
    environ["NO_PROXY"] = environ.pop("no_proxy")
    assert chosen(environ, f"wss://{host}") == (None if is_exempt else "http://proxy")


def test_proxy_of_environment_empty_no_proxy_hides_upper_case() -> None:
    environ = {"all_proxy": "http://proxy", "no_proxy": "", "NO_PROXY": "*"}
    assert chosen(environ) == "http://proxy"


# The request for a tunnel


def tunnel(
    url: str = "http://proxy.example:3128",
    host: str = "example.com",
    port: int = 443,
    headers: Any = None,
    limit: int = 65536,
) -> TunnelRequest:
    return TunnelRequest(parse_proxy(url), host, port, headers, limit)


def answered(*chunks: bytes, **arguments: Any) -> bytes | None:
    """Return the bytes after the response that comes in these chunks, or None if it is partial."""
    request = tunnel(**arguments)
    for chunk in chunks:
        request.receive_data(chunk)
        rest = request.result()
        if rest is not None:
            return rest
    return None


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Cut the data in every way into two, and into single bytes."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def refused(data: bytes, *, ends: bool = False, **arguments: Any) -> ProxyError:
    """Return the error for a response, which is the same in every chunking."""
    errors = []
    for chunks in cuts(data):
        with pytest.raises(ProxyError) as caught:
            answered(*chunks, *([b""] if ends else []), **arguments)
        errors.append(caught.value)
    facts = {(str(e), e.proxy, e.status_code, e.headers, e.socks_reply) for e in errors}
    assert len(facts) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("host", "port", "server"),
    [
        ("example.com", 443, b"example.com:443"),
        ("example.com", 80, b"example.com:80"),
        ("127.0.0.1", 8000, b"127.0.0.1:8000"),
        ("::1", 8000, b"[::1]:8000"),
        ("fe80::1%lo", 8000, b"[fe80::1]:8000"),
    ],
)
def test_tunnel_request_names_server(host: str, port: int, server: bytes) -> None:
    assert tunnel(host=host, port=port).request == (
        b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (server, server)
    )


def test_tunnel_request_invalid_host_raises() -> None:
    with pytest.raises(ValueError, match="'a b:443' can't be sent in an HTTP request"):
        tunnel(host="a b")


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [("u:p@", b"u:p"), ("u@", b"u:"), (":p@", b":p"), ("%ff:p%3A%40@", b"\xff:p:@")],
)
def test_tunnel_request_has_credentials(userinfo: str, pair: bytes) -> None:
    request = tunnel(f"http://{userinfo}proxy.example").request
    token = base64.b64encode(pair)
    assert request.endswith(b"\r\nProxy-Authorization: Basic " + token + b"\r\n\r\n")


def test_tunnel_request_has_proxy_headers() -> None:
    headers = [("User-Agent", "x"), (b"X-Y", b"1"), (b"x-y", b"2")]
    assert tunnel(headers=headers).request == (
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"
        b"User-Agent: x\r\nX-Y: 1\r\nx-y: 2\r\n\r\n"
    )


def test_tunnel_request_proxy_headers_replace_ours() -> None:
    headers = [("proxy-authorization", "Bearer x"), ("HOST", "y")]
    assert tunnel("http://u:p@proxy.example", headers=headers).request == (
        b"CONNECT example.com:443 HTTP/1.1\r\nHOST: y\r\nproxy-authorization: Bearer x\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ([("a", "b"), ("c d", SECRET)], "c d"),
        ([(b"X", f"{SECRET}\n".encode()), (b"\r\n", b"")], r"X, \\r\\n"),
        ([("Content-Length", "5")], "Content-Length"),
        ([("Host", SECRET), ("Host", "b")], "duplicates"),
    ],
)
def test_check_tunnel_headers_invalid_header_is_named(headers: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"can't be sent in an HTTP request: {shown}$") as caught:
        check_tunnel_headers(headers)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("headers", [[], [("a", "b"), (b"Proxy-Authorization", b"\xff")]])
def test_check_tunnel_headers_valid_headers_pass(headers: Any) -> None:
    check_tunnel_headers(headers)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
        b"HTTP/1.1 299 \xff\r\n\r\n",
        b"HTTP/1.0 200 OK\nA: b\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 102 x\r\n\r\n" * 10 + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_tunnel_request_any_2xx_opens_tunnel(head: bytes) -> None:
    for chunks in cuts(head):
        assert answered(*chunks) == b""
    assert answered(head + b"first\r\n\r\nbytes") == b"first\r\n\r\nbytes"
    assert answered(head[:-1]) is None
    assert answered(head[:-1], head[-1:] + b"first") == b"first"


def test_tunnel_request_refused_has_status_and_headers() -> None:
    exc = refused(REFUSED)
    assert exc.proxy == "http://proxy.example:3128"
    assert exc.status_code == 407
    assert exc.headers == ((b"proxy-authenticate", b"Basic"), (b"content-length", b"2"))
    assert exc.socks_reply is exc.errno is None
    assert exc.__cause__ is exc.__context__ is None
    assert str(exc) == (
        "the proxy proxy.example, port 3128, refused a tunnel to example.com:443: HTTP status 407 "
        "Get a password (it wants credentials): no"
    )


def test_tunnel_request_refused_credentials_says_so() -> None:
    exc = refused(REFUSED, url=f"http://u:{SECRET}@proxy.example:3128")
    assert "Get a password (it rejected the credentials): no" in str(exc)


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        (b"HTTP/1.1 403\r\nContent-Length: 0\r\n\r\n", "HTTP status 403"),
        (b"HTTP/1.1 502 A\x1b[0m\r\n\r\n \x1b[31mred\xff\r\n ", r"502 A\x1b[0m: \x1b[31mred\xff"),
        (b"HTTP/1.0 302 Found\r\nLocation: http://x/\r\n\r\n", "HTTP status 302 Found"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nXX\r\n", "500 x: ab"),
        (b"HTTP/1.1 404 x\r\n\r\n" + b"y" * 3000, "404 x: " + "y" * 200 + "..."),
    ],
)  # fmt: skip
def test_tunnel_request_refused_text_is_printable(response: bytes, shown: str) -> None:
    chunks = [response[at : at + 10] for at in range(0, len(response), 10)]
    for received in ([response, b""], [*chunks, b""]):
        with pytest.raises(ProxyError) as caught:
            answered(*received)
        assert str(caught.value).endswith(shown) or shown == "did not answer in HTTP"
        assert shown in str(caught.value)


def test_tunnel_request_refused_waits_for_body() -> None:
    request = tunnel()
    request.receive_data(REFUSED[:-1])
    assert not request.is_refused
    assert request.result() is None
    assert request.is_refused
    assert str(request.refused()).endswith(": n")
    request.receive_data(b"")
    with pytest.raises(ProxyError, match=r": n$"):
        request.result()


@pytest.mark.parametrize("is_header", [False, True])
def test_tunnel_request_refused_hides_credentials_that_proxy_repeats(is_header: bool) -> None:
    url = f"http://u:{SECRET}@proxy.example"
    token = base64.b64encode(f"u:{SECRET}".encode())
    headers = None
    if is_header:
        token = SECRET.encode() + b"\xff"
        headers = [(b"proxy-authorization", b"Bearer " + token)]
    response = b"HTTP/1.1 407 %b\r\n\r\nyour request: Basic %b." % (token, token)
    exc = refused(response, ends=True, url=url, headers=headers)
    shown = "HTTP status 407 *** (it rejected the credentials): your request: Basic ***."
    assert str(exc).endswith(shown)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the proxy proxy.example, port 3128, closed the connection before it answered"),
        (b"HTTP/1.1 200 O", "closed the connection before it answered"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection before it answered"),
    ],
)
def test_tunnel_request_end_before_response_fails(data: bytes, reason: str) -> None:
    exc = refused(data, ends=True)
    assert reason in str(exc)
    assert exc.status_code is None
    assert exc.headers == ()


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://proxy.example", "(does the proxy expect https:?)"),
        ("https://proxy.example", "')"),
    ],
)
def test_tunnel_request_answer_not_http_has_hint(url: str, hint: str) -> None:
    with pytest.raises(ProxyError) as caught:
        answered(b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", url=url)
    assert "did not answer in HTTP: illegal" in str(caught.value)
    assert str(caught.value).endswith(hint)
    assert caught.value.__cause__ is not None


def test_tunnel_request_not_http_hides_credentials_that_proxy_repeats() -> None:
    token = base64.b64encode(f"u:{SECRET}".encode())
    exc = refused(b"CONNECT Basic " + token + b"\r\n\r\n", url=f"http://u:{SECRET}@proxy.example")
    assert token.decode() not in str(exc)
    assert exc.__cause__ is None
    assert exc.__suppress_context__ or exc.__context__ is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 257 + b"\r\n",
        b"HTTP/1.1 407 no\r\n" + b"A: b\r\n" * 257 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 200 OK\r\nA: " + b"x" * 90,
    ],
)
def test_tunnel_request_long_head_names_limits(data: bytes) -> None:
    limit = 100 if b"x" in data else 65536
    for size in (1, 50, len(data)):
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        with pytest.raises(ProxyError) as caught:
            answered(*chunks, limit=limit)
        bounds = f"has more than max_header_size={limit} bytes, or more than 256 lines"
        assert bounds in str(caught.value)


def test_tunnel_request_256_lines_are_allowed() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 256 + b"\r\n"
    assert answered(head, limit=len(head)) == b""


def test_tunnel_request_many_interim_responses_fail() -> None:
    exc = refused(b"HTTP/1.1 102 x\r\n\r\n" * 11)
    assert "sent more than 10 interim responses" in str(exc)


# The error


def test_proxy_error_is_connection_failed() -> None:
    exc = ProxyError("text")
    assert isinstance(exc, (ConnectionFailed, HandshakeError, OSError))
    assert (exc.proxy, exc.status_code, exc.headers, exc.socks_reply) == ("", None, (), None)
    assert str(exc) == "text"


def test_proxy_error_pickles_and_copies() -> None:
    proxy = Proxy("socks5", "h", 1, "socks5://h:1", (b"user", SECRET.encode()))
    exc = proxy.error("text", status_code=407, headers=[(b"a", b"b")], socks_reply=5)
    exc.errno = 111
    for copied in (copy.copy(exc), pickle.loads(pickle.dumps(exc))):
        assert type(copied) is ProxyError
        assert str(copied) == "text"
        assert copied.errno == 111
        assert vars(copied) == vars(exc)
    assert SECRET.encode() not in pickle.dumps(exc)
