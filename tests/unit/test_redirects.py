"""The rules for following redirects, and the error if one breaks them."""

from __future__ import annotations

import pytest

from trio_websocket import ConnectionRejected, RedirectError
from trio_websocket._sansio.redirects import Redirects, is_same_origin, resolve
from trio_websocket._sansio.url import URL, parse_url

BASE = parse_url("ws://example.org:8000/b/c/d;p?q")
SECURE = parse_url("wss://example.org/")


def rejection(*locations: str, status: int = 302) -> ConnectionRejected:
    headers = tuple((b"location", location.encode("latin-1")) for location in locations)
    return ConnectionRejected(status, ((b"server", b"x"), *headers), b"moved")


def refusal(redirects: Redirects, *locations: str) -> str:
    """Return the text of the error for a redirect."""
    with pytest.raises(RedirectError) as caught:
        redirects.follow(rejection(*locations))
    return str(caught.value)


# Resolving a Location


@pytest.mark.parametrize(
    ("location", "tail"),
    [
        # RFC 3986, 5.4.1
        ("g", "/b/c/g"),
        ("./g", "/b/c/g"),
        ("g/", "/b/c/g/"),
        ("/g", "/g"),
        ("?y", "/b/c/d;p?y"),
        ("g?y", "/b/c/g?y"),
        ("#s", "/b/c/d;p?q"),
        ("g#s", "/b/c/g"),
        ("g?y#s", "/b/c/g?y"),
        (";x", "/b/c/;x"),
        ("g;x", "/b/c/g;x"),
        ("g;x?y#s", "/b/c/g;x?y"),
        ("", "/b/c/d;p?q"),
        (".", "/b/c/"),
        ("./", "/b/c/"),
        ("..", "/b/"),
        ("../", "/b/"),
        ("../g", "/b/g"),
        ("../..", "/"),
        ("../../", "/"),
        ("../../g", "/g"),
        # 5.4.2
        ("../../../g", "/g"),
        ("../../../../g", "/g"),
        ("/./g", "/g"),
        ("/../g", "/g"),
        ("g.", "/b/c/g."),
        (".g", "/b/c/.g"),
        ("g..", "/b/c/g.."),
        ("..g", "/b/c/..g"),
        ("./../g", "/b/g"),
        ("./g/.", "/b/c/g/"),
        ("g/./h", "/b/c/g/h"),
        ("g/../h", "/b/c/h"),
        ("g;x=1/./y", "/b/c/g;x=1/y"),
        ("g;x=1/../y", "/b/c/y"),
        ("g?y/./x", "/b/c/g?y/./x"),
        ("g?y/../x", "/b/c/g?y/../x"),
        ("g#s/../x", "/b/c/g"),
        # others
        ("?", "/b/c/d;p?"),
        ("/g?a?b", "/g?a?b"),
        ("/g%20h", "/g%20h"),
        ("//example.org:8000", "/"),
        ("//example.org:8000?y", "/?y"),
        ("//example.org:8000/a//b/../c", "/a//c"),
        ("/.//example.com/", "//example.com/"),
    ],
)
def test_resolve_relative_location_stays_on_host(location: str, tail: str) -> None:
    assert str(resolve(BASE, location.encode())) == f"ws://example.org:8000{tail}"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("ws://example.com/a", "ws://example.com/a"),
        ("http://example.com/a", "ws://example.com/a"),
        ("wss://example.com/a", "wss://example.com/a"),
        ("https://example.com/a", "wss://example.com/a"),
        ("HTTPS://EXAMPLE.com/A", "wss://example.com/A"),
        ("//example.com/a", "ws://example.com/a"),
        ("//example.com/a#https://", "ws://example.com/a"),
        ("https://example.com", "wss://example.com/"),
        ("https://example.com?q", "wss://example.com/?q"),
        ("https://example.com:/", "wss://example.com/"),
        ("https://example.com:80/", "wss://example.com:80/"),
        ("http://example.com:443/", "ws://example.com:443/"),
        ("https://example.com:00443/", "wss://example.com/"),
        ("https://example.com./", "wss://example.com./"),
        ("https://a_b.example.com/", "wss://a_b.example.com/"),
        ("https://b%C3%BCcher.example/", "wss://xn--bcher-kva.example/"),
        ("https://fa%C3%9f.example/", "wss://xn--fa-hia.example/"),
        ("https://127.0.0.1:1/", "wss://127.0.0.1:1/"),
        ("https://[::1]/", "wss://[::1]/"),
        ("https://[0:0::1]:8000/", "wss://[::1]:8000/"),
        ("https://user:secret@example.com/", "wss://example.com/"),
        ("//user@example.com/", "ws://example.com/"),
    ],
)
def test_resolve_absolute_location_is_new_url(location: str, url: str) -> None:
    found = resolve(BASE, location.encode())
    assert str(found) == url
    assert found.credentials is None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("ftp://example.com/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("example.com:8000/", "scheme"),
        ("https:", "host"),
        ("https:/a", "host"),
        ("https:a", "host"),
        ("https://", "host"),
        ("//", "host"),
        ("///a", "host"),
        ("https://user@/", "host"),
        ("https://:8000/", "host"),
        ("https://a b/", "characters"),
        ("/a b", "characters"),
        ("/a\tb", "characters"),
        ("/\x00", "characters"),
        ("/\xe4", "characters"),
        ("https://example.com\\@example.org/", "characters"),
        ("\\\\example.com/", "characters"),
        ("https://a%20b/", "host"),
        ("https://a%00b/", "host"),
        ("https://a%2Fb/", "host"),
        ("https://a%3A80/", "host"),
        ("https://a%40b/", "host"),
        ("https://a%ffb/", "host"),
        ("https://a<b>/", "host"),
        ("https://a..b/", "host"),
        ("https://" + "a" * 64 + "/", "host"),
        ("https://" + "a." * 127 + "/", "host"),
        ("https://::1/", "host or port"),
        ("https://a@b@example.com/", "host or port"),
        ("https://[a@example.com/", "host or port"),
        ("https://[::1/", "host or port"),
        ("https://[::1]a/", "host or port"),
        ("https://[]/", "host"),
        ("https://[1.2.3.4]/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://[fe80::1%eth0]/", "host"),
        ("https://example.com:a/", "host or port"),
        ("https://example.com:-1/", "host or port"),
        ("https://example.com:+1/", "host or port"),
        ("https://example.com:1_0/", "host or port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:000443/", "host or port"),
    ],
)
def test_resolve_malformed_location_raises(location: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        resolve(BASE, location.encode("latin-1"))


@pytest.mark.parametrize(
    "location",
    ["https://user:secret@a..b/", "ws:user:secret@a..b/", "https://user\xff:secret@a..b/"],
)
def test_resolve_error_shows_no_credentials(location: str) -> None:
    with pytest.raises(ValueError, match=r"host|characters") as caught:
        resolve(BASE, location.encode("latin-1"))
    assert "secret" not in str(caught.value)


# Origins


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("ws://a/x", "ws://a/y", True),
        ("ws://a/", "ws://A:80/", True),
        ("ws://a/", "wss://a/", True),
        ("ws://a/", "wss://a:8443/", False),
        ("ws://a:8000/", "wss://a/", False),
        ("ws://a:8000/", "wss://a:8000/", False),
        ("wss://a/", "ws://a/", False),
        ("wss://a/", "wss://a:8443/", False),
        ("ws://a/", "ws://b/", False),
        ("ws://a/", "wss://b/", False),
        ("ws://a/", "ws://a./", False),
        ("ws://a/", "ws://sub.a/", False),
    ],
)
def test_is_same_origin_compares_scheme_host_port(first: str, second: str, is_same: bool) -> None:
    assert is_same_origin(parse_url(first), parse_url(second)) is is_same


# Rules


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_follow_redirect_returns_next_url(status: int) -> None:
    redirects = Redirects(BASE, 1)
    assert str(redirects.follow(rejection("/x", status=status))) == "ws://example.org:8000/x"


@pytest.mark.parametrize("status", [101, 200, 300, 304, 305, 306, 401, 503])
def test_follow_other_status_is_final(status: int) -> None:
    assert Redirects(BASE, 1).follow(rejection("/x", status=status)) is None


def test_follow_max_redirects_0_is_final() -> None:
    assert Redirects(BASE, 0).follow(rejection("/x")) is None


def test_follow_is_relative_to_latest_url() -> None:
    redirects = Redirects(BASE, 3)
    redirects.follow(rejection("https://example.com/a/b"))
    assert str(redirects.follow(rejection("c"))) == "wss://example.com/a/c"


def test_follow_over_max_redirects_raises() -> None:
    redirects = Redirects(BASE, 2)
    redirects.follow(rejection("/1"))
    redirects.follow(rejection("/2"))
    assert "max_redirects=2" in refusal(redirects, "/3")


@pytest.mark.parametrize("location", ["", "#x", "?q", "d;p?q", "//EXAMPLE.org:8000/b/c/d;p?q"])
def test_follow_same_url_raises(location: str) -> None:
    assert "leads back to ws://example.org:8000/b/c/d;p?q" in refusal(Redirects(BASE, 9), location)


def test_follow_loop_over_several_urls_raises() -> None:
    redirects = Redirects(parse_url("ws://EXAMPLE.org/"), 9)
    redirects.follow(rejection("https://example.org/"))
    redirects.follow(rejection("/x"))
    assert "leads back to wss://example.org/" in refusal(redirects, "/")


@pytest.mark.parametrize("location", ["ws://example.org/", "http://example.org/", "http://a/"])
def test_follow_from_tls_to_plain_raises(location: str) -> None:
    assert "from TLS to the plain ws://" in refusal(Redirects(SECURE, 9), location)


@pytest.mark.parametrize("locations", [(), ("/a", "/b"), ("/a", "/a")])
def test_follow_not_one_location_raises(locations: tuple[str, ...]) -> None:
    count = len(locations) or "no"
    assert f"has {count} Location headers" in refusal(Redirects(BASE, 9), *locations)


def test_follow_malformed_location_raises() -> None:
    assert "'https://a b/' has characters" in refusal(Redirects(BASE, 9), "https://a b/")


@pytest.mark.parametrize("location", ["/x", "ws://other/"])
def test_follow_with_open_stream_raises(location: str) -> None:
    assert "can't be used again" in refusal(Redirects(BASE, 9, has_open_stream=True), location)


def test_follow_with_unix_socket_stays_with_origin() -> None:
    redirects = Redirects(BASE, 9, has_unix_socket=True)
    assert str(redirects.follow(rejection("/x"))) == "ws://example.org:8000/x"
    assert "another origin, ws://other/, and unix_socket" in refusal(redirects, "ws://other/")


# The error


def redirect_error() -> RedirectError:
    redirects = Redirects(parse_url("ws://user:secret@example.org/a"), 1)
    redirects.follow(rejection("https://me:hidden@example.com/b"))
    with pytest.raises(RedirectError) as caught:
        redirects.follow(rejection("/c", status=307))
    return caught.value


def test_redirect_error_has_urls_and_last_response() -> None:
    exc = redirect_error()
    assert exc.urls == ("ws://example.org/a", "wss://example.com/b")
    assert (exc.status_code, exc.body) == (307, b"moved")
    assert exc.headers == ((b"server", b"x"), (b"location", b"/c"))
    assert exc.__cause__ is None


def test_redirect_error_str_names_rule_and_urls() -> None:
    assert str(redirect_error()) == (
        "the redirect with HTTP status 307 was not followed: it is one more than max_redirects=1 "
        "(requested: ws://example.org/a, wss://example.com/b)"
    )
    assert str(RedirectError(301, (), None)) == (
        "the redirect with HTTP status 301 was not followed"
    )


def test_redirect_error_str_is_short() -> None:
    redirects = Redirects(BASE, 99)
    for number in range(9):
        redirects.follow(rejection(f"/{number}" + "x" * 10_000))
    assert len(refusal(redirects, "https://a..b/" + "x" * 10_000)) < 700


# The URL with a zone, which the Host header does not have


def test_url_str_of_address_has_brackets_and_zone() -> None:
    assert str(URL("fe80::1%lo", 8000, "/x", False, None)) == "ws://[fe80::1%25lo]:8000/x"
