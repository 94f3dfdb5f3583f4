"""The old import path: names that dependents import, and replace in their tests."""

from __future__ import annotations

import logging
import pickle
import ssl
from types import FunctionType
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing

import trio_websocket
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    _impl,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
)

OLD_LIMITS = {
    "message_queue_size": 1,
    "max_message_size": 2**20,
    "receive_buffer_size": 4096,
}
OLD_TIMEOUTS = {"connect_timeout": 60, "disconnect_timeout": 60}
NOTHING_SPECIAL = {"use_ssl": False, "subprotocols": None, "extra_headers": None}


@pytest.mark.parametrize(
    "name",
    [
        "CloseReason",
        "ConnectionClosed",
        "ConnectionRejected",
        "ConnectionTimeout",
        "DisconnectionTimeout",
        "Endpoint",
        "HandshakeError",
        "WebSocketConnection",
        "WebSocketRequest",
        "WebSocketServer",
        "connect_websocket",
        "connect_websocket_url",
        "open_websocket",
        "open_websocket_url",
        "serve_websocket",
        "wrap_client_stream",
        "wrap_server_stream",
    ],
)
def test_impl_has_the_public_name(name: str) -> None:
    assert getattr(_impl, name) is getattr(trio_websocket, name)


PUBLIC = {
    name: value
    for name, value in vars(trio_websocket).items()
    if not name.startswith("_") and isinstance(value, (type, FunctionType))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_class_or_function_is_of_the_public_module(name: str) -> None:
    assert PUBLIC[name].__module__ == "trio_websocket"
    assert PUBLIC[name].__qualname__ == name
    assert pickle.dumps(PUBLIC[name], 0).startswith(f"ctrio_websocket\n{name}\n".encode())


@pytest.mark.parametrize("name", PUBLIC)
def test_pickle_that_names_impl_loads(name: str) -> None:
    assert pickle.loads(f"ctrio_websocket._impl\n{name}\n.".encode()) is PUBLIC[name]


def test_pickle_of_an_exception_of_0_12_loads() -> None:
    pickled = (
        b"ctrio_websocket._impl\nConnectionClosed\n"
        b"(ctrio_websocket._impl\nCloseReason\n(I1000\nVbye\ntRtR."
    )
    error = pickle.loads(pickled)
    assert isinstance(error, ConnectionClosed)
    assert error.reason == CloseReason(1000, "bye")


def test_impl_has_the_private_names_of_0_12() -> None:
    assert _impl.CONN_TIMEOUT == 60
    assert _impl.MESSAGE_QUEUE_SIZE == 1
    assert _impl.MAX_MESSAGE_SIZE == 2**20
    assert _impl.RECEIVE_BYTES == 4096
    assert _impl.logger.name == "trio-websocket"
    assert issubclass(_impl.TrioWebsocketInternalError, Exception)


def test_open_websocket_url_calls_replaced_open_websocket() -> None:
    with mock.patch("trio_websocket._impl.open_websocket") as replaced:
        result = open_websocket_url("ws://example.org/chat?room=1")
    replaced.assert_called_once_with(
        "example.org", 80, "/chat?room=1", **NOTHING_SPECIAL, **OLD_LIMITS, **OLD_TIMEOUTS
    )
    assert result is replaced.return_value


def test_open_websocket_url_passes_on_what_was_given() -> None:
    context = ssl.create_default_context()
    given: dict[str, Any] = {
        "subprotocols": ["chat"],
        "extra_headers": [(b"a", b"b")],
        "message_queue_size": 2,
        "max_message_size": 3,
        "receive_buffer_size": 4,
        "connect_timeout": 5,
        "disconnect_timeout": 6,
        "max_fragments": 7,
        "max_header_size": 8,
        "max_rejection_body": 9,
        "unix_socket": "chat.sock",
        "server_hostname": "example.net",
        "max_redirects": 10,
    }
    with mock.patch("trio_websocket._impl.open_websocket") as replaced:
        open_websocket_url("wss://example.org/", context, **given)
    replaced.assert_called_once_with("example.org", 443, "/", use_ssl=context, **given)


@pytest.mark.parametrize(("tail", "resource"), [("", "/"), ("?", "/?"), ("/a?b=c", "/a?b=c")])
def test_open_websocket_url_passes_on_a_path_that_is_never_empty(tail: str, resource: str) -> None:
    with mock.patch("trio_websocket._impl.open_websocket") as replaced:
        open_websocket_url("ws://example.org" + tail)
    assert replaced.call_args[0] == ("example.org", 80, resource)


async def test_connect_websocket_url_calls_replaced_connect_websocket(
    nursery: trio.Nursery,
) -> None:
    with mock.patch("trio_websocket._impl.connect_websocket", mock.AsyncMock()) as replaced:
        connection = await connect_websocket_url(nursery, "ws://example.org:8000/")
    replaced.assert_awaited_once_with(
        nursery, "example.org", 8000, "/", **NOTHING_SPECIAL, **OLD_LIMITS
    )
    assert connection is replaced.return_value


async def test_connect_websocket_url_passes_on_what_was_given(nursery: trio.Nursery) -> None:
    given: dict[str, Any] = {
        "subprotocols": ["chat"],
        "extra_headers": [(b"a", b"b")],
        "message_queue_size": 2,
        "max_message_size": 3,
        "receive_buffer_size": None,
        "connect_timeout": 5,
        "disconnect_timeout": 6,
        "max_fragments": 7,
        "stream": trio.testing.memory_stream_pair()[0],
    }
    with mock.patch("trio_websocket._impl.connect_websocket", mock.AsyncMock()) as replaced:
        await connect_websocket_url(nursery, "wss://example.org/?", **given)
    replaced.assert_awaited_once_with(nursery, "example.org", 443, "/?", use_ssl=True, **given)


async def test_open_websocket_closes_connection_of_replaced_connect() -> None:
    replaced = mock.AsyncMock()
    aclose = replaced.return_value.aclose
    with mock.patch("trio_websocket._impl.connect_websocket", replaced):
        async with open_websocket("example.org", 80, "/", use_ssl=False) as connection:
            assert connection is replaced.return_value
            assert aclose.await_count == 0
    assert aclose.await_count == 1


async def test_open_websocket_passes_routes_on_to_replaced_connect_websocket() -> None:
    given: dict[str, Any] = {"stream": trio.testing.memory_stream_pair()[0]}
    with mock.patch("trio_websocket._impl.connect_websocket", mock.AsyncMock()) as replaced:
        async with open_websocket_url("ws://example.org/", **given):
            pass
    replaced.assert_awaited_once_with(
        mock.ANY, "example.org", 80, "/", **NOTHING_SPECIAL, **OLD_LIMITS, **given
    )


@pytest.mark.parametrize("timeouts", [{}, {"connect_timeout": 5, "disconnect_timeout": 6}])
async def test_open_websocket_calls_replaced_connect_websocket(
    timeouts: dict[str, Any],
) -> None:
    # connect_websocket had no time-outs in 0.12, so replacements don't have them either.
    with mock.patch("trio_websocket._impl.connect_websocket", mock.AsyncMock()) as replaced:
        async with open_websocket_url("ws://example.org/", **timeouts):
            pass
    replaced.assert_awaited_once_with(
        mock.ANY, "example.org", 80, "/", **NOTHING_SPECIAL, **OLD_LIMITS
    )


async def test_open_websocket_url_os_error_of_replaced_connect() -> None:
    error = ConnectionRefusedError(111, "Connection refused")
    replaced = mock.AsyncMock(side_effect=error)
    replacing = mock.patch("trio_websocket._impl.connect_websocket", replaced)
    with replacing, pytest.raises(ConnectionFailed, match="Connection refused") as caught:
        async with open_websocket_url("ws://example.org/"):
            pytest.fail("it has opened")
    assert caught.value.__cause__ is error
    assert caught.value.errno == 111


def test_impl_has_the_constants_of_0_12() -> None:
    assert _impl.CONN_TIMEOUT == 60
    assert _impl.MESSAGE_QUEUE_SIZE == 1
    assert _impl.MAX_MESSAGE_SIZE == 2**20
    assert _impl.RECEIVE_BYTES == 2**12
    assert _impl.logger is logging.getLogger("trio-websocket")
    assert issubclass(_impl.TrioWebsocketInternalError, Exception)


async def test_open_websocket_handshake_error_of_replaced_connect() -> None:
    error = ConnectionRejected(403, (), b"")
    replaced = mock.AsyncMock(side_effect=error)
    replacing = mock.patch("trio_websocket._impl.connect_websocket", replaced)
    with replacing, pytest.raises(ConnectionRejected) as caught:
        async with open_websocket_url("ws://example.org/"):
            pytest.fail("it has opened")
    assert caught.value is error


async def test_open_websocket_entered_twice_raises() -> None:
    with mock.patch("trio_websocket._impl.connect_websocket", mock.AsyncMock()):
        opening = open_websocket_url("ws://example.org/")
        async with opening:
            pass
        with pytest.raises(RuntimeError, match="again for each block"):
            async with opening:
                pytest.fail("it has opened")
