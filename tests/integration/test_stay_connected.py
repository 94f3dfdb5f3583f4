"""`stay_connected` over TCP and TLS, with servers of the library."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme

from support.servers import answering, echo, serve, url
from trio_websocket import (
    Backoff,
    ConnectionFailed,
    Failure,
    ProxyError,
    WebSocketConnection,
    WebSocketRequest,
    stay_connected,
)


async def greet(ws: WebSocketConnection) -> str | bytes:
    await ws.send_message("hello")
    return await ws.get_message()


def fast(failure: Failure) -> float | None:
    return None if failure.is_permanent else 0


async def test_server_restarts_client_returns(nursery: trio.Nursery) -> None:
    received: list[str | bytes] = []

    async def session(ws: WebSocketConnection) -> str | None:
        received.append(await greet(ws))
        if len(received) == 2:
            return "done"
        await server.aclose(1012)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(ws.get_message)
            tasks.start_soon(ws.receive)
        return None

    async def restart(failure: Failure, delay: float) -> None:
        failures.append(failure)
        servers.append(await serve(nursery))

    failures: list[Failure] = []
    server = await serve(nursery)
    servers = [server]
    done = await stay_connected(
        session,
        lambda: url(servers[-1].port),
        retry=lambda failure: 0,
        on_retry=restart,
    )
    assert done == "done"
    assert received == ["hello", "hello"]
    assert [str(failure.exception)[:20] for failure in failures] == ["1012 SERVICE_RESTART"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_certificate_refused_by_server_is_permanent(
    nursery: trio.Nursery, version: ssl.TLSVersion
) -> None:
    authority = trustme.CA()
    client, context = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.configure_trust(context)
    authority.issue_cert("localhost").configure_cert(context)
    trustme.CA().issue_cert("client@example.org").configure_cert(client)  # of an unknown CA
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    server = await serve(nursery, echo, context)
    with pytest.raises(ConnectionFailed):
        await stay_connected(greet, f"wss://localhost:{server.port}/", client, retry=fast)
    nursery.cancel_scope.cancel()


async def test_proxy_refuses_is_permanent(nursery: trio.Nursery) -> None:
    answer = b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n"
    proxy = (await answering(nursery, answer)).replace("ws:", "http:")
    with pytest.raises(ProxyError) as caught:
        await stay_connected(greet, "ws://example.org/", proxy=proxy, retry=Backoff())
    assert caught.value.status_code == 407
    nursery.cancel_scope.cancel()


async def test_redirect_is_followed_for_each_attempt(nursery: trio.Nursery) -> None:
    requests: list[str] = []

    async def handle(request: WebSocketRequest) -> None:
        requests.append(request.path)
        if request.path == "/old":
            await request.reject(302, extra_headers=[(b"Location", b"/new")])
        else:
            ws = await request.accept()
            if len(requests) > 2:
                await ws.send_message("hello")

    async def session(ws: WebSocketConnection) -> str | bytes | None:
        async for message in ws:
            return message
        return None

    server = await serve(nursery, handle)
    old = url(server.port, "/old")
    assert await stay_connected(session, old, max_redirects=1, retry=fast) == "hello"
    assert requests == ["/old", "/new", "/old", "/new"]
    nursery.cancel_scope.cancel()
