"""Extra headers in both directions."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import WebSocketRequest, open_websocket, open_websocket_url, serve_websocket

COOKIES = [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Server", b"s")]


async def handler(request: WebSocketRequest) -> None:
    print("request", [(n, v) for n, v in request.headers if n.startswith((b"x-", b"auth"))])
    if request.path == "/plain":
        ws = await request.accept()
    else:
        ws = await request.accept(extra_headers=COOKIES)
    await ws.send_message("welcome")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        own = [(b"X-First", b"1"), (b"x-SECOND", b"two words"), (b"Authorization", b"Bearer t")]
        port = server.port
        async with open_websocket("127.0.0.1", port, "/", use_ssl=False, extra_headers=own) as ws:
            print("answer", ws.handshake_headers[:3], type(ws.handshake_headers).__name__)
            print(await ws.get_message())
        print("list untouched", own)
        async with open_websocket_url(f"ws://127.0.0.1:{port}/plain", extra_headers=own) as ws:
            print("answer", [n for n, _ in ws.handshake_headers if n.startswith(b"x-")])
        async with open_websocket_url(f"ws://127.0.0.1:{port}/plain", extra_headers=[]):
            pass
        nursery.cancel_scope.cancel()


trio.run(main)
