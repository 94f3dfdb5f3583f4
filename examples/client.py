"""An interactive client: type commands, and see the server's messages.

    python examples/client.py ws://127.0.0.1:8000
    python examples/client.py wss://localhost:8000 --ca certificates/ca.pem

The example shows how to send and receive at the same time, how to read the terminal without
blocking Trio, how to measure the round-trip time of a ping, and how to close with a code and a
reason. The end of the input closes the connection. Ctrl-C cancels the block: the server gets Close
1001, and the client doesn't wait.
"""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from inspect import signature
from typing import Any

import trio

from trio_websocket import (
    ConnectionClosed,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

HELP = """\
send TEXT              send a text message
binary HEX             send a binary message, such as: binary 00 ff 10
ping [PAYLOAD]         print the round-trip time
close [CODE [REASON]]  close the connection, as the end of the input does"""

PING_TIMEOUT = 10  # seconds

# Not sys.stdin: at exit, Python aborts if an abandoned thread still holds the lock of sys.stdin.
STDIN = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 # it is never closed

# Trio 0.23 renamed the argument.
ABANDON_ON_CANCEL: dict[str, Any] = (
    {"abandon_on_cancel": True}
    if "abandon_on_cancel" in signature(trio.to_thread.run_sync).parameters
    else {"cancellable": True}
)


async def read_line() -> str:
    """Read a line from standard input. If cancelled, abandon the thread that reads."""
    line: bytes = await trio.to_thread.run_sync(STDIN.readline, **ABANDON_ON_CANCEL)
    return line.decode(errors="replace")


async def print_messages(ws: WebSocketConnection, scope: trio.CancelScope) -> None:
    """Print messages until the connection is closed, then cancel `scope`."""
    try:
        while True:
            message = await ws.get_message()
            # repr() stops a server from sending escape sequences to the terminal.
            shown = repr(message) if isinstance(message, str) else "binary " + message.hex()
            print(f"received: {shown}", flush=True)
    except ConnectionClosed as closed:
        if closed.__cause__ is not None:
            print(f"the connection failed: {closed.__cause__}", flush=True)
        scope.cancel()


async def ping(ws: WebSocketConnection, payload: bytes | None) -> None:
    with trio.move_on_after(PING_TIMEOUT) as scope:
        seconds = await ws.ping(payload)
        print(f"pong after {seconds * 1000:.3f} ms", flush=True)
    if scope.cancelled_caught:
        print(f"no pong within {PING_TIMEOUT} s", flush=True)


async def obey_commands(ws: WebSocketConnection) -> tuple[int, str | None]:
    """Run the commands from the input. Return the code and the reason to close with."""
    while True:
        line = await read_line()
        if not line:
            return 1000, None
        command, _, rest = line.strip().partition(" ")
        try:
            if command == "send":
                await ws.send_message(rest)
            elif command == "binary":
                await ws.send_message(bytes.fromhex(rest))
            elif command == "ping":
                await ping(ws, rest.encode() or None)
            elif command == "close":
                code, _, reason = rest.partition(" ")
                return int(code or 1000), reason or None
            else:
                print(HELP, flush=True)
        except ValueError as error:
            print(f"not sent: {error}", flush=True)
        except ConnectionClosed:
            await trio.sleep_forever()  # print_messages gets the same exception, and cancels


async def talk(ws: WebSocketConnection) -> None:
    """Send and receive until either side closes the connection."""
    while ws.closed is None:
        code, reason = 1000, None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(print_messages, ws, nursery.cancel_scope)
            code, reason = await obey_commands(ws)
            nursery.cancel_scope.cancel()
        try:
            await ws.aclose(code, reason)
        except ValueError as error:
            print(f"not sent: {error}", flush=True)
    print(f"closed: {ws.closed}", flush=True)


async def connect(url: str, ssl_context: ssl.SSLContext | None) -> int:
    """Connect, talk, and return the exit status."""
    try:
        async with open_websocket_url(url, ssl_context) as ws:
            print(f"connected to {url}", flush=True)
            await talk(ws)
    except DisconnectionTimeout:
        print("The server did not answer the close.", file=sys.stderr)
        return 1
    except (HandshakeError, OSError) as error:
        print(f"Connection attempt failed: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"Bad URL: {error}", file=sys.stderr)
        return 2
    return 0


async def run(url: str, ssl_context: ssl.SSLContext | None) -> int:
    """Connect and talk. Ctrl-C cancels it."""

    async def cancel_at_signal() -> None:
        async for _ in signals:
            nursery.cancel_scope.cancel()

    status = 0
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at_signal)
            status = await connect(url, ssl_context)
            nursery.cancel_scope.cancel()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(
        description="An interactive WebSocket client. Its commands:\n\n" + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="such as ws://127.0.0.1:8000")
    parser.add_argument("--ca", metavar="FILE", help="trust the certificates in this PEM file")
    args = parser.parse_args()
    context = None
    if args.ca is not None:
        try:
            context = ssl.create_default_context(cafile=args.ca)
        except OSError as error:  # includes ssl.SSLError
            parser.error(f"can't use the certificates in {args.ca}: {error}")
    return trio.run(run, args.url, context)


if __name__ == "__main__":
    sys.exit(main())
