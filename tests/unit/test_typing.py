"""The types that checkers and `typing.get_type_hints` find. mypy checks this file's annotations."""

from __future__ import annotations

import inspect
import ssl
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

import pytest
import trio
import trio.testing

import trio_websocket
from support.attempts import REFUSED, Attempts, accept, until_closed
from support.connections import open_client, open_pair
from trio_websocket import (
    Address,
    Backoff,
    CloseReason,
    ConnectionClosed,
    Endpoint,
    Failure,
    MessageStream,
    ProxyError,
    RedirectError,
    WebSocketConnection,
    open_websocket_url,
    stay_connected,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, _: object) -> Any:
        return value


def public_callables() -> Iterator[tuple[str, Any]]:
    for name, value in vars(trio_websocket).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            members = [item for base in value.__mro__ for item in vars(base).items()]
            for attribute, member in members:
                function = member.fget if isinstance(member, property) else member
                function = getattr(function, "__func__", function)
                module = str(getattr(function, "__module__", ""))
                if inspect.isfunction(function) and module.startswith("trio_websocket"):
                    yield f"{name}.{attribute}", function


@pytest.mark.skipif(sys.version_info < (3, 10), reason="int | None needs Python 3.10")
@pytest.mark.skipif(not hasattr(trio, "TaskStatus"), reason="trio.TaskStatus is of Trio 0.23")
def test_get_type_hints_resolves_public_functions() -> None:
    found = dict(public_callables())
    assert {"serve_websocket", "WebSocketConnection.send_message"} <= set(found)
    assert "WebSocketConnection.remote" in found
    for name, function in found.items():
        hints = typing.get_type_hints(function)
        assert "return" in hints or inspect.isclass(function) or "__" in name, name


async def test_get_message_types_are_static(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    with pytest.raises(TypeError):
        await client.send_message({"a": "b"})  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError):
        await client.send_message(1)  # type: ignore[arg-type] # what is tested
    await client.send_message(["list ", "of str"])
    await client.send_message(chunk for chunk in (b"iterator ", b"of bytes"))
    assert_type(await server.get_message(decode=True), str)
    assert_type(await server.get_message(decode=False), bytes)


async def test_receive_stream_types_follow_decode(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    for message in ("one", b"two", b"three"):
        await client.send_message(message)
    async with assert_type(server.receive_stream(), MessageStream["str | bytes"]) as chunks:
        assert [assert_type(chunk, "str | bytes") async for chunk in chunks] == ["one"]
    async with assert_type(server.receive_stream(decode=True), MessageStream[str]) as texts:
        assert "".join([assert_type(text, str) async for text in texts]) == "two"
    async with assert_type(server.receive_stream(decode=False), MessageStream[bytes]) as data:
        assert b"".join([assert_type(each, bytes) async for each in data]) == b"three"


async def test_closed_and_ends_types_are_not_optional(nursery: trio.Nursery) -> None:
    client: WebSocketConnection
    client, _ = await open_client(nursery)
    remote: Address = assert_type(client.remote, "Endpoint | str")
    assert isinstance(remote, (Endpoint, str))
    reason = assert_type(ConnectionClosed(None).reason, CloseReason)
    assert assert_type(reason.code, int) == 1006


async def test_client_options_types_are_static() -> None:
    async def connect(host: str, port: int) -> trio.SocketStream:
        raise NotImplementedError

    stream, _ = trio.testing.memory_stream_pair()
    open_websocket_url("ws://h/", stream=connect, max_redirects=1, server_hostname="h")
    open_websocket_url("ws://h/", stream=stream)
    open_websocket_url("ws://h/", unix_socket=Path("chat.sock"))
    open_websocket_url("ws://h/", unix_socket=b"chat.sock", compression=None)
    open_websocket_url("ws://h/", local_address="127.0.0.1", proxy=None)
    headers: list[tuple[str, str]] = [("a", "b")]
    open_websocket_url("ws://h/", proxy="http://p", proxy_headers=headers)
    context = ssl.create_default_context()
    open_websocket_url("ws://h/", proxy="https://p", proxy_ssl_context=context)
    with pytest.raises(TypeError):
        open_websocket_url("ws://h/", proxy_headers={"a": "b"})  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError):
        open_websocket_url("ws://h/", stream="h")  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError):
        open_websocket_url("ws://h/", unix_sock="h")  # type: ignore[call-arg] # what is tested


def test_proxy_error_attributes_types_are_static() -> None:
    exc = ProxyError("text", proxy="http://p")
    assert assert_type(exc.proxy, str) == "http://p"
    assert assert_type(exc.status_code, Optional[int]) is None
    assert assert_type(exc.socks_reply, Optional[int]) is None
    assert assert_type(exc.headers, "tuple[tuple[bytes, bytes], ...]") == ()


async def test_redirect_types_are_static(nursery: trio.Nursery) -> None:
    exc = RedirectError(302, (), None, urls=("ws://h/",))
    assert assert_type(exc.urls, "tuple[str, ...]") == ("ws://h/",)
    assert assert_type(exc.status_code, int) == 302
    client, _ = await open_client(nursery)
    assert assert_type(client.url, Optional[str]) == "ws://example.org/"


async def test_ssl_object_type_is_optional(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    assert assert_type(client.ssl_object, Optional[ssl.SSLObject]) is None


async def test_stay_connected_types_are_those_of_a_user(nursery: trio.Nursery) -> None:
    class Client:
        backoff = Backoff(initial=0, give_up_after=60)
        delays: list[float]

        async def session(self, ws: WebSocketConnection) -> int:
            return 1

        def retry(self, failure: Failure) -> float | None:
            assert_type(failure.exception, Exception)
            assert_type(failure.retry_after, "float | None")
            assert_type(failure.is_permanent, bool)
            return self.backoff(failure)

        async def on_retry(self, failure: Failure, delay: float) -> None:
            self.delays = [delay]

        async def headers(self) -> list[tuple[str, str]]:
            return [("Authorization", "Bearer secret")]

    async def nothing(ws: WebSocketConnection) -> None:
        pass

    async def retry(failure: Failure) -> float:
        return 0

    client, server = Client(), Attempts(nursery, REFUSED, accept(until_closed))
    value = await stay_connected(
        client.session,
        lambda: "ws://example.org/",
        extra_headers=client.headers,
        retry=client.retry,
        on_retry=client.on_retry,
        wake=trio.Event().wait,
        stream=server.open,
        subprotocols=["chat"],
        ping_interval=20,
    )
    assert assert_type(value, int) == 1
    assert client.delays == [0]
    await stay_connected(
        nothing,
        "ws://example.org/",
        extra_headers=lambda: None,
        retry=retry,
        on_retry=lambda failure, delay: print(failure.attempt, delay),
        stream=server.open,
    )
