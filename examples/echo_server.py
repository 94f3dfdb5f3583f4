"""An echo server: it sends every message back, and prints each connection that opens or closes.

    python examples/echo_server.py
    python examples/echo_server.py --port 0                # any free port
    python examples/echo_server.py --tls certificates      # made by make_certificates.py

The example shows `serve_websocket`, the addresses of its listeners, and TLS on a server. Ctrl-C and
SIGTERM shut the server down: every client gets Close 1001 ("going away").
"""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from functools import partial
from pathlib import Path

import trio

from trio_websocket import ConnectionClosed, Endpoint, WebSocketRequest, serve_websocket


async def echo(request: WebSocketRequest) -> None:
    """Send a client's messages back until the client closes the connection."""
    ws = await request.accept()
    print(f"{ws}: open", flush=True)
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed as closed:
        print(f"{ws}: closed, {closed.reason}", flush=True)


async def serve(host: str, port: int, ssl_context: ssl.SSLContext | None) -> int:
    """Serve until a signal arrives. Return the exit status."""
    start = partial(serve_websocket, echo, host, port, ssl_context)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            try:
                server = await nursery.start(start)
            except OSError as error:
                print(f"Can't listen on {host}, port {port}: {error}", file=sys.stderr)
                return 1
            for listener in server.listeners:
                url = listener.url if isinstance(listener, Endpoint) else listener
                print(f"Echo server at {url}", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    return 0


def tls_context(path: Path) -> ssl.SSLContext:
    """Return a server's TLS context from a PEM file with key and certificate, or from a folder."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path / "server.pem" if path.is_dir() else path)
    return context


def main() -> int:
    parser = argparse.ArgumentParser(description="A WebSocket echo server.")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port; default: 8000")
    parser.add_argument(
        "--tls",
        type=Path,
        metavar="PATH",
        help="PEM file with private key and certificate, or folder made by make_certificates.py",
    )
    args = parser.parse_args()
    context = None
    if args.tls is not None:
        try:
            context = tls_context(args.tls)
        except OSError as error:  # includes ssl.SSLError
            parser.error(f"can't use the certificate in {args.tls}: {error}")
    return trio.run(serve, args.host, args.port, context)


if __name__ == "__main__":
    sys.exit(main())
