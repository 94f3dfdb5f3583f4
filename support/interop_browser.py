"""A page that tests our server with a browser, and the run that opens it in Chromium.

The page reports its results, case by case, over a separate connection.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

from .interop_peers import BODY, HOST, LARGE, LARGE_TEXT, STATUS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # root can't start it without this
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # it is small in containers
)
LIMIT = 20  # seconds
FRAGMENTS = ["in ", "fragments ", "\u03c0", ""]
LARGE_FRAGMENTS = [bytes(range(256)) * 256] * 2

PAGE = r"""<!doctype html>
<meta charset="utf-8">
<script>
"use strict";
const ports = JSON.parse(decodeURIComponent(location.hash.slice(1)));

// A socket whose events are awaited one by one: ["open"], ["message", data], ["close", ...]
class Socket {
  constructor(port, path, protocols = []) {
    this.events = [];
    this.wake = () => {};
    this.ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, protocols);
    this.ws.binaryType = "arraybuffer";
    this.ws.onopen = () => this.add(["open"]);
    this.ws.onmessage = (event) => this.add(["message", event.data]);
    this.ws.onclose = (event) => this.add(["close", event.code, event.reason, event.wasClean]);
  }
  add(event) {
    this.events.push(event);
    this.wake();
  }
  async next(kind) {
    while (!this.events.length) await new Promise((resolve) => { this.wake = resolve; });
    const event = this.events.shift();
    if (event[0] !== kind) throw new Error(`${event.map((part) => String(part).slice(0, 80))}`);
    return event.slice(1);
  }
  async message() {
    return (await this.next("message"))[0];
  }
}

async function opened(port, path, protocols) {
  const socket = new Socket(port, path, protocols);
  await socket.next("open");
  return socket;
}

function same(found, wanted) {
  if (typeof wanted === "string") return found === wanted;
  if (!(found instanceof ArrayBuffer) || found.byteLength !== wanted.byteLength) return false;
  const bytes = new Uint8Array(found);
  return wanted.every((byte, index) => byte === bytes[index]);
}

const bytes = (length) => Uint8Array.from({length}, (_, index) => index % 256);

const CASES = {
  async compression(port) {
    const socket = await opened(port, "/echo");
    socket.ws.close();
    await socket.next("close");
    return socket.ws.extensions.split(";")[0];
  },
  async messages(port) {
    const socket = await opened(port, "/echo");
    const messages = [
      "text \u03c0 \u{1f600}", bytes(5), "", bytes(0), "compressible ".repeat(20),
      bytes(76800), "\u03c0".repeat(70000),
    ];
    for (const message of [...messages, ...messages]) {
      socket.ws.send(message);
      if (!same(await socket.message(), message)) return `wrong: ${message.slice(0, 20)}`;
    }
    socket.ws.close();
    await socket.next("close");
    return "same";
  },
  async large(port) {
    const socket = await opened(port, "/large");
    const text = "0123456789abcdef".repeat(2 ** 20);
    socket.ws.send(text);
    const answer = await socket.message();
    return same(answer, new TextEncoder().encode(text)) ? "same" : "wrong";
  },
  async ping(port) {
    const socket = await opened(port, "/ping");
    return await socket.message();
  },
  async ourClose(port) {  // "our" is as Python sees it
    return await (await opened(port, "/our-close")).next("close");
  },
  async theirClose(port) {
    const socket = await opened(port, "/their-close");
    socket.ws.close(4002, "from them \u03c0");
    return await socket.next("close");
  },
  async rejection(port) {
    return (await new Socket(port, "/rejection").next("close"))[0];
  },
  async subprotocol(port) {
    const socket = await opened(port, "/subprotocol", ["superchat", "chat"]);
    socket.ws.close();
    return socket.ws.protocol;
  },
  async fragments(port) {
    const socket = await opened(port, "/fragments");
    if (await socket.message() !== "in fragments \u03c0") return "wrong text";
    return same(await socket.message(), bytes(131072)) ? "same" : "wrong binary";
  },
};

(async () => {
  const report = await opened(ports.plain, "/report");
  for (const [kind, port] of Object.entries(ports)) {
    for (const [name, run] of Object.entries(CASES)) {
      let result;
      try {
        result = await run(port);
      } catch (error) {
        result = String(error);
      }
      report.ws.send(JSON.stringify([kind, name, result]));
    }
  }
  report.ws.close();
})();
</script>
"""


class Outcome(NamedTuple):
    """The results of both sides."""

    #: The page's results, by kind of connection and name of the case.
    results: dict[tuple[str, str], Any]
    #: Our handlers' results, by kind of connection and path.
    seen: dict[tuple[str, str], Any]


def find() -> str | None:
    """Return the path of the browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def browse(program: str, kinds: dict[str, dict[str, Any]]) -> Outcome:
    """Run the page in the browser.

    :param program: The path of the browser.
    :param kinds: The options of our server for each kind of connection. One kind is "plain".
    """
    return trio.run(functools.partial(_browse, program, kinds))


async def _browse(program: str, kinds: dict[str, dict[str, Any]]) -> Outcome:
    outcome = Outcome({}, {})
    done = trio.Event()
    with trio.fail_after(LIMIT), tempfile.TemporaryFile() as output:
        async with trio.open_nursery() as nursery:
            ports: dict[str, int] = {}
            for kind, options in kinds.items():
                handler = functools.partial(_handle, kind, outcome, done)
                serve = functools.partial(serve_websocket, max_message_size=LARGE, **options)
                ports[kind] = (await nursery.start(serve, handler, HOST, 0, None)).port
            folder = tempfile.mkdtemp()
            try:
                page = Path(folder, "page.html")
                page.write_text(PAGE, "utf-8")
                arguments = json.dumps(ports)
                process = subprocess.Popen(
                    [program, *FLAGS, f"--user-data-dir={folder}", f"{page.as_uri()}#{arguments}"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                try:
                    nursery.start_soon(_watch, process, done, output)
                    await done.wait()
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            finally:
                # The browser's helper processes can still write there for a moment.
                shutil.rmtree(folder, ignore_errors=True)
            nursery.cancel_scope.cancel()
    return outcome


async def _watch(process: subprocess.Popen[bytes], done: trio.Event, output: Any) -> None:
    await trio.to_thread.run_sync(process.wait)
    if not done.is_set():
        output.seek(0)
        said = output.read().decode(errors="replace")
        raise AssertionError(f"the browser has ended with status {process.returncode}: {said}")


async def _handle(kind: str, outcome: Outcome, done: trio.Event, request: WebSocketRequest) -> None:
    path = request.path[1:]
    if path == "rejection":
        await request.reject(STATUS, body=BODY)
        return
    ws = await request.accept(subprotocol="chat" if path == "subprotocol" else None)
    try:
        outcome.seen[kind, path] = await _serve(path, ws, outcome)
    except ConnectionClosed as exc:
        outcome.seen[kind, path] = exc.reason
    except AssertionError as exc:
        outcome.seen[kind, path] = exc
    if path == "echo":
        outcome.seen[kind, "compression"] = ws.compression
    if path == "report":
        done.set()


async def _serve(path: str, ws: WebSocketConnection, outcome: Outcome) -> Any:
    """Serve one path. Return what our side saw."""
    if path == "echo":
        while True:
            await ws.send_message(await ws.get_message())
    if path == "report":
        while True:
            kind, name, result = json.loads(await ws.get_message())
            outcome.results[kind, name] = result
    if path == "large":
        is_same = await ws.get_message() == LARGE_TEXT
        await ws.send_message(LARGE_TEXT.encode())
        return is_same
    if path == "ping":
        round_trip = await ws.ping(b"from us")
        await ws.send_message("answered")
        return round_trip
    if path == "our-close":
        await ws.aclose(4001, "from us \u03c0")
    if path == "fragments":
        await ws.send_message(iter(FRAGMENTS))
        await ws.send_message(iter(LARGE_FRAGMENTS))
        return None
    return await ws.get_message()  # the page closes
