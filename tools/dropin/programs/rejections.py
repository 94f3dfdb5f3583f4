"""A server that rejects clients."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import (
    ConnectionRejected,
    HandshakeError,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


async def reject(request: WebSocketRequest) -> None:
    if request.path == "/login":
        await request.reject(401, extra_headers=[(b"WWW-Authenticate", b"Basic")], body=b"log in")
    elif request.path == "/moved":
        await request.reject(302, extra_headers=[(b"Location", b"/new")])
    elif request.path == "/big":
        await request.reject(503, body=b"x" * 20_000)
    else:
        await request.reject(404)
    print("rejected", request.path)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, reject, "127.0.0.1", 0, None))
        for path in ("/login", "/moved", "/big", "/"):
            try:
                async with open_websocket_url(f"ws://127.0.0.1:{server.port}{path}"):
                    print("not reached")
            except ConnectionRejected as exc:
                headers = dict(exc.headers)
                print(repr(exc), exc.status_code, type(exc.headers).__name__)
                print(headers.get(b"www-authenticate"), headers.get(b"location"))
                if exc.body:
                    print(headers.get(b"content-length"), exc.body[:10], len(exc.body))
            except HandshakeError as exc:
                print("unexpected", repr(exc))
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


trio.run(main)
