"""Run a chat room with a page for browsers. Open the printed address in two windows.

    python examples/chat_server.py
    python examples/chat_server.py --port 0 --page-port 0  # any free ports

A client's first message is its name. Every later message is a line for the room. The example shows

- how to send to many clients without waiting for any of them: a member that reads too slowly is
  disconnected;
- how to limit the rate of each client: the server reads its lines slowly, and TCP makes a flooding
  client wait;
- how to reject the pages of other sites: browsers let any page connect to any server.
"""

from __future__ import annotations

import argparse
import signal
import socketserver
import sys
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread
from typing import Iterator
from urllib.parse import urlsplit

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    broadcast,
)

PAGE = Path(__file__).with_name("chat.html")
MAX_NAME = 40  # characters
MAX_LINE = 4096  # bytes
LINE_INTERVAL = 0.05  # seconds between two lines of the same member
CLOSE_TIMEOUT = 5  # seconds


class Room:
    """The members of the chat room."""

    def __init__(self) -> None:
        self.members: set[WebSocketConnection] = set()
        self.speaking = trio.Lock()  # so that all members get all lines in the same order

    async def say(self, line: str) -> None:
        """Send a line to each member, and close members that stopped reading."""
        async with self.speaking:
            await broadcast(self.members, line, timeout=0, on_slow="close")

    async def welcome(self, request: WebSocketRequest) -> None:
        """Serve one client, from its request to the end of its connection."""
        if not comes_from_our_page(request):
            await request.reject(403, body=b"This page may not use the chat.\n")
            return
        ws = await request.accept()
        name = " ".join((await get_line(ws)).split())[:MAX_NAME] or "somebody"
        self.members.add(ws)
        try:
            await self.say(f"{name} joined, {len(self.members)} here")
            await self.listen(ws, name)
        finally:
            self.members.remove(ws)
        await self.say(f"{name} left, {len(self.members)} here")

    async def listen(self, ws: WebSocketConnection, name: str) -> None:
        """Send a client's lines to the room until the client leaves."""
        with suppress(ConnectionClosed):
            while True:
                await self.say(f"{name}: {await get_line(ws)}")
                await trio.sleep(LINE_INTERVAL)


async def get_line(ws: WebSocketConnection) -> str:
    message = await ws.get_message()
    return message if isinstance(message, str) else message.decode(errors="replace")


def comes_from_our_page(request: WebSocketRequest) -> bool:
    """Return True if the client is not a page, or a page from the same host as this server.

    Browsers send the site of the page in the header Origin. Other clients rarely send this header.
    """
    headers = dict(request.headers)
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).hostname == urlsplit(b"//" + headers.get(b"host", b"")).hostname
    except ValueError:  # not a URL
        return False


@contextmanager
def serve_page(host: str, port: int, page: bytes) -> Iterator[str]:
    """Serve the page over HTTP in a thread for the duration of the block, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
            """Log nothing."""

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((host, port), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}).start()
        try:
            yield f"http://{host}:{server.server_address[1]}/"
        finally:
            server.shutdown()


async def serve(host: str, port: int, page_port: int) -> None:
    """Serve until a signal arrives."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    server = WebSocketServer(
        Room().welcome,
        listeners,
        max_message_size=MAX_LINE,
        disconnect_timeout=CLOSE_TIMEOUT,
    )
    page = (await trio.Path(PAGE).read_bytes()).replace(b"{PORT}", b"%d" % server.port)
    with ExitStack() as stack:
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        url = stack.enter_context(serve_page(host, page_port, page))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            print(f"Chat page at {url}, WebSocket at ws://{host}:{server.port}/", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(description="A chat room for WebSocket clients and browsers.")
    parser.add_argument(
        "--host", type=IPv4Address, default="127.0.0.1", help="IPv4 address; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=8001, help="0: any free port; default: 8001")
    parser.add_argument("--page-port", type=int, default=8000, help="of the page; default: 8000")
    args = parser.parse_args()
    try:
        trio.run(serve, str(args.host), args.port, args.page_port)
    except OSError as error:
        print(f"Can't serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
