"""Tests of applications that replace the opening functions by mocks."""

from __future__ import annotations

import ssl
from typing import Any
from unittest.mock import MagicMock, patch

import trio

import trio_websocket
from trio_websocket import (
    HandshakeError,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
)

OPTIONS: dict[str, Any] = {
    "subprotocols": ["chat"],
    "extra_headers": [(b"X-Header", b"value")],
    "message_queue_size": 9,
    "max_message_size": 333,
    "receive_buffer_size": 999,
}
TIMEOUTS: dict[str, Any] = {"connect_timeout": 36, "disconnect_timeout": 37}
CONTEXT = ssl.create_default_context()


def show(call: Any) -> None:
    keywords = dict(call.kwargs)
    use_ssl = keywords.pop("use_ssl")
    print(call.args[-3:], "own context" if use_ssl is CONTEXT else use_ssl)
    print(sorted(keywords.items()))


def mocked_open() -> None:
    with patch("trio_websocket._impl.open_websocket") as mock:
        mock.return_value = "what the mock returns"
        print(open_websocket_url("ws://host:1234/resource", **OPTIONS, **TIMEOUTS))
        show(mock.call_args)
        for url in ("ws://host", "wss://host/path?query", "ws://host:443/?", "wss://[::1]:80/"):
            trio_websocket.open_websocket_url(url)
            show(mock.call_args)
        open_websocket_url("wss://host", CONTEXT)
        show(mock.call_args)


async def mocked_connect() -> None:
    calls = []

    async def connect(*args: Any, **kwargs: Any) -> str:
        calls.append(MagicMock(args=args, kwargs=kwargs))
        return "connection"

    async with trio.open_nursery() as nursery:
        with patch("trio_websocket._impl.connect_websocket", connect):
            print(await connect_websocket_url(nursery, "ws://host:1234/resource", **OPTIONS))
            show(calls[-1])
            print(await connect_websocket_url(nursery, "wss://host", ssl_context=CONTEXT))
            show(calls[-1])
        print(all(call.args[0] is nursery for call in calls))

    with patch("trio_websocket._impl.connect_websocket", side_effect=OSError("mock")):
        try:
            async with open_websocket("127.0.0.1", 1, "/", use_ssl=False):
                print("not reached")
        except HandshakeError as exc:
            print("HandshakeError", repr(exc.__cause__))


mocked_open()
trio.run(mocked_connect)
