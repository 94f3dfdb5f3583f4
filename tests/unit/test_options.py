"""The limits and time-outs: defaults, permitted values, and signatures."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
import trio
import trio.testing
import wsproto

from trio_websocket import (
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._client.options import ClientKeywords, ClientOptions
from trio_websocket._sansio.options import (
    NewerOptionKeywords,
    OptionKeywords,
    Options,
    with_option_signature,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

NAMES = [field.name for field in dataclasses.fields(Options)]
CLIENT_NAMES = [field.name for field in dataclasses.fields(ClientOptions)][len(NAMES) :]
NUMBERS = [
    "message_queue_size",
    "max_message_size",
    "max_fragments",
    "connect_timeout",
    "disconnect_timeout",
]
INTEGERS = ["max_header_size", "max_rejection_body"]


def options(**keywords: Any) -> Options:
    return Options(**keywords)


def client_options(**keywords: Any) -> ClientOptions:
    return ClientOptions(**keywords)


DEFAULTS = {
    # The options of 0.12.
    "message_queue_size": 1,
    "max_message_size": 2**20,
    "receive_buffer_size": 4096,
    "connect_timeout": 60,
    "disconnect_timeout": 60,
    # Newer options.
    "max_fragments": 131072,
    "max_header_size": 65536,
    "max_rejection_body": 65536,
}

ACCEPTED: list[tuple[str, Any]] = [
    *((name, math.inf) for name in NUMBERS),
    *((name, 0) for name in [*NUMBERS, *INTEGERS]),
    ("connect_timeout", 0.5),
    ("receive_buffer_size", None),
    ("ping_interval", None),
]

MAY_BE_NONE = {"receive_buffer_size", "ping_interval", "compression"}

REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    *((name, -1, ValueError, f"{name} must be 0 or more") for name in [*NUMBERS, *INTEGERS]),
    *((name, math.nan, ValueError, name) for name in NUMBERS),
    *(
        ("receive_buffer_size", value, ValueError, "receive_buffer_size must be 1 or more")
        for value in (0, -1)
    ),
    ("ping_interval", 0, ValueError, "ping_interval must be more than 0, or None, not 0"),
    *(
        (name, 0, ValueError, f"{name} must be more than 0, or math.inf, not 0")
        for name in ("ping_timeout", "max_unanswered_pings")
    ),
    *((name, "1", TypeError, name) for name in NAMES if name != "receive_buffer_size"),
    *((name, None, TypeError, name) for name in NAMES if name not in MAY_BE_NONE),
    *(
        (name, value, TypeError, f"{name} must be an int")
        for value in ("1", 4096.0, math.inf)
        for name in [*INTEGERS, "receive_buffer_size"]
    ),
]


@pytest.mark.parametrize("name", DEFAULTS)
def test_options_default_is_documented(name: str) -> None:
    assert getattr(Options(), name) == DEFAULTS[name]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_options_valid_value_is_accepted(name: str, value: Any) -> None:
    assert getattr(options(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value", "error", "text"), REFUSED)
def test_options_invalid_value_raises(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        options(**{name: value})


def test_options_unknown_raises() -> None:
    with pytest.raises(TypeError, match="max_size"):
        options(max_size=1)


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().max_fragments = 1  # type: ignore[misc] # that it is read-only, is what is tested


def test_options_typed_dict_has_every_option() -> None:
    assert set(OptionKeywords.__annotations__) == set(NAMES)
    positional = {"message_queue_size", "max_message_size", "receive_buffer_size"}
    assert set(NewerOptionKeywords.__annotations__) == set(NAMES) - positional


def test_options_typed_dict_has_every_type() -> None:
    types = {name: ref.__forward_arg__ for name, ref in OptionKeywords.__annotations__.items()}
    assert types == {field.name: field.type for field in dataclasses.fields(Options)}


def test_client_options_typed_dict_has_every_option_and_type() -> None:
    types = {name: ref.__forward_arg__ for name, ref in ClientKeywords.__annotations__.items()}
    assert types == {field.name: field.type for field in dataclasses.fields(ClientOptions)}


# The options of clients


async def stream_function(host: str, port: int) -> trio.abc.Stream:
    raise NotImplementedError


CLIENTS_ACCEPTED: list[tuple[str, Any]] = [
    ("stream", stream_function),
    ("stream", trio.testing.memory_stream_pair()[0]),
    ("unix_socket", "chat.sock"),
    ("unix_socket", b"\0chat"),
    ("unix_socket", Path("chat.sock")),
    ("local_address", "127.0.0.1"),
    ("server_hostname", "faß.example"),
    ("server_hostname", "::1"),
    ("proxy", "env"),
    ("proxy_headers", [("a", b"b")]),
    ("proxy_ssl_context", ssl.create_default_context()),
    ("max_redirects", 5),
    *((name, None) for name in CLIENT_NAMES if name != "max_redirects"),
]

CLIENTS_REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("stream", "chat.sock", TypeError, "stream must be an open Trio stream, or an async function"),
    ("unix_socket", 1, TypeError, "unix_socket must be a path: str, bytes or os.PathLike, not 1"),
    ("unix_socket", "", ValueError, "unix_socket must not be empty"),
    ("unix_socket", "a\0b", ValueError, "unix_socket must not contain NUL, except as the first"),
    ("local_address", b"::1", TypeError, "local_address must be a str or None, not b'::1'"),
    ("server_hostname", b"host", TypeError, "server_hostname must be a str or None, not b'host'"),
    ("server_hostname", "", ValueError, "server_hostname must be a host name or an IP address"),
    ("server_hostname", "a:443", ValueError, "server_hostname must be .*, not 'a:443'"),
    (
        "server_hostname",
        "[::1]",
        ValueError,
        "server_hostname must be a host name or an IP address",
    ),
    ("server_hostname", "a..b", ValueError, "server_hostname .*: 'a..b' is not a host name"),
    ("proxy", b"http://proxy", TypeError, 'proxy must be a URL, "env" or None, not a bytes'),
    ("proxy_headers", {"a": "b"}, TypeError, "proxy_headers must be a list of .* pairs"),
    ("proxy_headers", iter([("a", "b")]), TypeError, "proxy_headers must be a list of .* pairs"),
    ("proxy_headers", [("a", "b", "c")], TypeError, "proxy_headers must be a list of .* pairs"),
    ("proxy_headers", [("a", "\xe9")], ValueError, "proxy_headers must be .* ASCII"),
    ("proxy_ssl_context", True, TypeError, "proxy_ssl_context must be an ssl.SSLContext or None"),
    ("max_redirects", -1, ValueError, "max_redirects must be 0 or more, not -1"),
    ("max_redirects", 1.5, TypeError, "max_redirects must be an int, not 1.5"),
]


@pytest.mark.parametrize(("name", "value"), CLIENTS_ACCEPTED)
def test_client_options_valid_value_is_accepted(name: str, value: Any) -> None:
    keywords = {name: value}
    if name in ("proxy_headers", "proxy_ssl_context"):
        keywords["proxy"] = "https://proxy"
    assert getattr(client_options(**keywords), name) is value


@pytest.mark.parametrize(("name", "value", "error", "text"), CLIENTS_REFUSED)
def test_open_websocket_url_invalid_client_option_raises(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        client_options(**{name: value})
    keywords: Any = {name: value}
    with pytest.raises(error, match=text):
        open_websocket_url("ws://127.0.0.1", **keywords)


@pytest.mark.parametrize(
    ("one", "two"), [*itertools.combinations(["proxy", "stream", "unix_socket"], 2)]
)
def test_open_websocket_url_two_routes_raises(one: str, two: str) -> None:
    values: dict[str, Any] = {"proxy": "env", "stream": stream_function, "unix_socket": "a"}
    text = f"pass at most one of proxy, stream, unix_socket, not {one} and {two}"
    with pytest.raises(ValueError, match=f"^{text}$"):
        open_websocket_url("ws://127.0.0.1", **{name: values[name] for name in (one, two)})


def test_client_options_repr_shows_no_secret() -> None:
    options = ClientOptions(proxy="http://user:word@proxy", proxy_headers=[("a", "word")])
    assert "word" not in repr(options)
    assert "max_redirects=0" in repr(options)


async def test_wrap_client_stream_client_option_raises(nursery: trio.Nursery) -> None:
    stream, _ = trio.testing.memory_stream_pair()
    wrong: Any = {"unix_socket": "a"}
    text = r"^wrap_client_stream\(\) got an unexpected keyword argument 'unix_socket'$"
    with pytest.raises(TypeError, match=text):
        await wrap_client_stream(nursery, stream, "host", "/", **wrong)


@pytest.mark.parametrize("wrong", [[("a", "pass\xe9")], [("a", "passw", 1)], "passw", ["passw"]])
def test_client_options_error_shows_no_secret(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        ClientOptions(proxy_headers=wrong)
    assert "pass" not in str(caught.value)
    assert caught.value.__context__ is None  # a UnicodeEncodeError has the text as an attribute


# The options of a call


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("max_mesage_size", "; did you mean 'max_message_size'?"),
        ("subprotocol", "; did you mean 'subprotocols'?"),
        ("timeout", "; did you mean 'ping_timeout' or 'connect_timeout'?"),
        ("colour", ""),
    ],
)
def test_open_websocket_url_misspelt_option_is_named(misspelt: str, meant: str) -> None:
    expected = f"open_websocket_url() got an unexpected keyword argument '{misspelt}'{meant}"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        open_websocket_url("ws://127.0.0.1", **{misspelt: 1})  # type: ignore[arg-type] # as above


async def test_functions_misspelt_option_names_function() -> None:
    async with trio.open_nursery() as nursery:
        stream, _ = trio.testing.memory_stream_pair()
        wrong: Any = {"max_conections": 1}

        async def handler(request: WebSocketRequest) -> None: ...

        calls: list[tuple[str, Callable[[], Any]]] = [
            ("open_websocket", lambda: open_websocket("h", 1, "/", use_ssl=False, **wrong)),
            (
                "connect_websocket",
                lambda: connect_websocket(nursery, "h", 1, "/", use_ssl=False, **wrong),
            ),
            ("connect_websocket_url", lambda: connect_websocket_url(nursery, "ws://h", **wrong)),
            ("wrap_client_stream", lambda: wrap_client_stream(nursery, stream, "h", "/", **wrong)),
            ("wrap_server_stream", lambda: wrap_server_stream(nursery, stream, **wrong)),
            ("serve_websocket", lambda: serve_websocket(handler, "::1", 0, None, **wrong)),
            ("WebSocketServer", lambda: WebSocketServer(handler, [], **wrong)),
            (
                "WebSocketConnection",
                lambda: WebSocketConnection(
                    stream, wsproto.WSConnection(wsproto.ConnectionType.CLIENT), **wrong
                ),
            ),
        ]
        for name, call in calls:
            text = rf"^{name}\(\) got an unexpected keyword argument 'max_conections'"
            with pytest.raises(TypeError, match=text) as caught:
                result = call()
                await result
            is_known = name in ("serve_websocket", "WebSocketServer")
            assert ("did you mean 'max_connections'?" in str(caught.value)) is is_known


# Signatures


@with_option_signature
def opens(url: str, *, port: int = 80, **options: Unpack[OptionKeywords]) -> object:
    return options


@with_option_signature
def wraps(message_queue_size: float = 7, **options: Unpack[NewerOptionKeywords]) -> None: ...


def test_signature_shows_every_option_with_default() -> None:
    parameters = inspect.signature(opens).parameters
    assert list(parameters) == ["url", "port", *NAMES]
    for field in dataclasses.fields(Options):
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[field.name].default == field.default
        assert parameters[field.name].annotation == field.type


def test_signature_keeps_own_option() -> None:
    parameters = inspect.signature(wraps).parameters
    assert list(parameters) == ["message_queue_size", *NAMES[1:]]
    assert parameters["message_queue_size"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert parameters["message_queue_size"].default == 7


def test_function_with_options_is_called_unchanged() -> None:
    assert opens("ws://host", max_fragments=3) == {"max_fragments": 3}
