"""Conversations of our server or client with a scripted peer, over a stream in memory.

A seed and a number determine a conversation. It uses only the public API, so it can run against
any version of the library. It runs alone, in virtual time, and with a scheduler that never
shuffles. After each chunk the peer waits until all tasks are blocked, and records the received
bytes. `os.urandom` is replaced, and the masks of a client's frames are removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import re
from random import Random
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Iterator, List, Sequence, Union
from unittest import mock

import trio
import trio.testing
from trio._core._run import _r as scheduler  # it shuffles the runnable tasks

from support.frames import BINARY, CONTINUATION, PING, TEXT, close_payload, frame, parse_frame
from support.listeners import MemoryListener
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    broadcast,
    wrap_client_stream,
    wrap_server_stream,
)

from . import deflated, grammar, handshakes
from .frames import TEXTS
from .mutation import chunks, cuts, some_bytes

# The order gives each number its meaning: append new kinds at the end.
KINDS = ("valid", "open", "open", "deflated", "deflated", "hostile")
_SERVER_USES = (
    *("echo", "echo", "echo", "stream", "stream", "channel", "ping", "pong", "talk", "close"),
    *("leave", "idle", "fail", "reject", "broadcast"),
)
_CLIENT_USES = (
    *("read", "read", "echo", "stream", "channel", "ping", "pong", "talk", "close"),
    *("leave", "idle", "fail", "broadcast"),
)
_NONCE = b"the sample nonce"  # whose Base64 is handshakes.KEY
# Seconds of virtual time. They differ, so that no two time-outs end at the same moment.
_CONNECT_TIMEOUT, _DISCONNECT_TIMEOUT, _PING_INTERVAL, _PING_TIMEOUT = 5.0, 7.0, 4.3, 11.0
_IDLE, _LONGEST = 3.1, 100.0
_MOST_COMPRESSED = 2**16
_MOST_IN_SMALL_READS = 20_000
# Addresses of objects, and numbers of connections.
_CHANGING = re.compile(r"(?<= at )0x[0-9a-f]+|(?<=client-)\d+|(?<=server-)\d+")
_SHOWN = 400  # a record contains this many bytes of long data, and a hash of all

#: A value that JSON can hold.
Json = Union[None, bool, int, float, str, List[Any], Dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """The bytes of the peer, and the actions of our side."""

    side: str
    kind: str
    chunks: Sequence[bytes]
    #: Seconds before each chunk.
    pause: float
    #: How the peer ends: "eof", "close", or "stay" until our side hangs up.
    ending: str
    #: The actions of the handler, or of the client.
    use: str
    #: True if a server is a `WebSocketServer`, False for `wrap_server_stream`.
    is_listening: bool
    options: dict[str, Any]


def make(seed: str, number: int) -> Conversation:
    """Make the conversation from a seed and a number. Even numbers are for servers."""
    rng = Random(f"replay {seed} {number}")
    side = "client" if number % 2 else "server"
    kind = KINDS[number // 2 % len(KINDS)]
    compression = PerMessageDeflate() if kind == "deflated" or rng.random() < 0.1 else None
    sizes = (_MOST_COMPRESSED, 1000, 126) if compression else (2**20, 2**20, 1000, 126)
    options: dict[str, Any] = {
        "message_queue_size": rng.choice((1, 1, 0, 5, math.inf)),
        "max_message_size": rng.choice(sizes),
        "receive_buffer_size": rng.choice((4096, 4096, None, 1000, 7)),
        "max_fragments": rng.choice((2**17, 2**17, 3)),
        "max_header_size": rng.choice((2**16, 2**16, 1000)),
        "max_rejection_body": rng.choice((2**16, 2**16, 10)),
        "message_queue_bytes": rng.choice((2**24, 2**24, 0, 100)),
        "max_unsent_bytes": rng.choice((2**16, 2**16, 0, 100)),
        "ping_interval": rng.choice((None, None, _PING_INTERVAL)),
        "ping_timeout": _PING_TIMEOUT,
        "connect_timeout": _CONNECT_TIMEOUT,
        "disconnect_timeout": _DISCONNECT_TIMEOUT,
        "compression": compression,
    }
    data = _data(rng, side, kind)
    if len(data) > _MOST_IN_SMALL_READS:
        options["receive_buffer_size"] = 4096
    return Conversation(
        side=side,
        kind=kind,
        chunks=chunks(rng, data),
        pause=rng.choice((0, 0, 0, 0.01, 1.637)),
        ending=rng.choice(("eof", "eof", "eof", "close", "stay")),
        use=rng.choice(_SERVER_USES if side == "server" else _CLIENT_USES),
        is_listening=rng.random() < 0.7,
        options=options,
    )


def _data(rng: Random, side: str, kind: str) -> bytes:
    is_client = side == "server"  # the peer
    if kind == "hostile":
        return grammar.from_client(rng) if is_client else grammar.from_server(rng)
    if kind == "open":
        return grammar.opened_by_client(rng) if is_client else grammar.opened_by_server(rng)
    make_head = handshakes.request if is_client else handshakes.response
    if kind == "valid":
        return make_head(rng, faults=0) + _valid_frames(rng, masked=is_client)
    first, *_ = rest = deflated.from_client(rng) if is_client else deflated.from_server(rng)
    parameters = deflated.agreed(bytes([first]))
    extension = f"permessage-deflate; server_max_window_bits={parameters.server_max_window_bits}"
    extension += f"; client_max_window_bits={parameters.client_max_window_bits}"
    if parameters.client_no_context_takeover:
        extension += "; client_no_context_takeover; server_no_context_takeover"
    head = b"\r\n".join(
        line
        for line in make_head(rng, faults=0).split(b"\r\n")[:-2]
        if not line.lower().startswith(b"sec-websocket-extensions")
    )
    header = b"\r\nSec-WebSocket-Extensions: " + extension.encode()
    return head + header + b"\r\n\r\n" + bytes(rest[1:])


def _valid_frames(rng: Random, *, masked: bool) -> bytes:
    def made(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
        key = some_bytes(rng, 4) if masked else None
        return frame(opcode, payload, fin=fin, key=key)

    data = b""
    for _ in range(rng.choice((1, 2, 3, 5, 20, 100))):
        if rng.random() < 0.3:
            data += made(PING, some_bytes(rng, rng.choice((0, 4, 125))))
        opcode, payload = TEXT, rng.choice(TEXTS).encode() * rng.choice((1, 1, 20))
        if rng.random() < 0.5:
            opcode, payload = BINARY, some_bytes(rng, rng.choice((0, 1, 32, 125, 126, 1000)))
        if rng.random() < 0.02:
            payload = b"x" * rng.choice((65535, 65536, 70_000, 300_000))
        *parts, last = cuts(rng, payload, rng.choice((0, 0, 0, 1, 2, 5)))
        for part in parts:
            data += made(opcode, part, fin=False)
            opcode = CONTINUATION
        data += made(opcode, last)
    if rng.random() < 0.5:
        data += made(0x8, close_payload(rng.choice((1000, 1001, 4000)), "bye"))
    return data


# -- the record


def brief(data: bytes) -> str:
    """Return the data as text; for long data, the beginning, the size and the hash."""
    if len(data) <= _SHOWN:
        return data.decode("latin-1")
    digest = hashlib.sha256(data).hexdigest()
    return f"{data[:_SHOWN].decode('latin-1')}... {len(data)} bytes, {digest}"


def _text(text: str) -> str:
    """Return a text without the parts that differ from run to run."""
    return brief(_CHANGING.sub("-", text).encode("utf-8", "backslashreplace"))


def _message(message: str | bytes) -> Json:
    kind = "text" if isinstance(message, str) else "binary"
    data = message.encode() if isinstance(message, str) else message
    return [kind, brief(data)]


def _reason(reason: CloseReason | None) -> Json:
    return None if reason is None else [reason.code, reason.name, reason.reason]


def _error(error: BaseException) -> Json:
    """Return the type and the attributes that a program may use, and then the text."""
    facts: list[Any] = [type(error).__name__, type(error.__cause__).__name__]
    if isinstance(error, ConnectionClosed):
        codes = [reason and reason.code for reason in (error.reason, error.rcvd, error.sent)]
        facts += [codes, _reason(error.rcvd)]
    elif isinstance(error, ConnectionRejected):
        headers = brief(repr(error.headers).encode())
        facts += [error.status_code, headers, brief(error.body or b""), error.reason_phrase]
    return [facts, _text(str(error))]


class Record:
    """The record of a conversation."""

    def __init__(self) -> None:
        #: For each step of the peer, the bytes that our side sent.
        self.sent: list[str] = []
        #: The results of the application's calls, in order.
        self.events: list[Json] = []
        #: Pairs of the facts about an exception, and its text.
        self.errors: list[Json] = []
        #: Pairs of a level and a text.
        self.logs: list[Json] = []
        #: How and when our side hung up.
        self.end: Json = None

    def note(self, kind: str, value: Json = None) -> None:
        self.events.append([kind, value])

    def note_connection(self, ws: WebSocketConnection) -> None:
        self.note("closed", _reason(ws.closed))
        self.note("subprotocol", ws.subprotocol)
        parameters = ws.compression
        self.note("compression", None if parameters is None else repr(parameters))
        self.note("statistics", dataclasses.asdict(ws.statistics()))


# -- the peer


class _Peer:
    """The other end of the stream."""

    def __init__(self, stream: trio.abc.Stream, talk: Conversation, record: Record) -> None:
        self._stream = stream
        self._talk = talk
        self._record = record
        self._received = b""
        self._has_head = False
        self._end = trio.Event()

    async def run(self) -> None:
        talk = self._talk
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            await self._wait_and_note()
            try:
                for chunk in talk.chunks:
                    if talk.pause:
                        await trio.sleep(talk.pause)
                    await self._stream.send_all(chunk)
                    await self._wait_and_note()
                if talk.ending == "eof":
                    await self._stream.send_eof()  # type: ignore[attr-defined] # of a memory stream
            except trio.BrokenResourceError:
                self._record.note("the peer can't send")
            if talk.ending == "close":
                nursery.cancel_scope.cancel()
            with trio.move_on_after(_LONGEST):
                await self._end.wait()
            nursery.cancel_scope.cancel()
        self._note(is_last=True)
        await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        how = "end of stream"
        try:
            while True:
                data = await self._stream.receive_some(2**20)
                if not data:
                    break
                self._received += data
        except trio.BrokenResourceError:
            how = "broken"
        self._record.end = [how, round(trio.current_time(), 3)]
        self._end.set()

    async def _wait_and_note(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self._note()

    def _note(self, *, is_last: bool = False) -> None:
        data, self._received = self._received, b""
        if self._talk.side == "client":
            data, self._received = self._unmasked(data)
        if is_last:
            data += self._received
        self._record.sent.append(brief(data))

    def _unmasked(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the whole frames without their masks, and the rest."""
        done = b""
        if not self._has_head:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                return b"", head
            self._has_head, done = True, head + end
        while True:
            parsed = parse_frame(data)
            if parsed is None:
                return done, data
            one, is_masked, size = parsed
            done += (b"" if is_masked else b"NOT MASKED: ") + one.encode()
            data = data[size:]


# -- our side


async def _use(ws: WebSocketConnection, use: str, record: Record) -> None:
    """Use an open connection in this way, until it is closed."""

    async def ping(payload: bytes) -> None:
        try:
            record.note("pong", [payload.decode(), round(await ws.ping(payload), 3)])
        except ConnectionClosed as exc:
            record.errors.append(_error(exc))

    async def get() -> str | bytes:
        message = await ws.get_message()
        record.note("message", _message(message))
        return message

    if use == "leave":
        return
    if use == "idle":
        await trio.sleep(_IDLE)
        return
    if use == "talk":
        await ws.send_message("Hello")
        await ws.send_message(b"x" * 1000, compress=False)
        await ws.send_message(["x" * 100, "", "y" * 300])
        await ws.send_message("z" * 60_000)
    if use == "pong":
        await ws.pong(b"one way")
    async with trio.open_nursery() as nursery:
        if use == "ping":
            for payload in (b"1", b"2", b"3"):
                nursery.start_soon(ping, payload)
        try:
            await _loop(ws, use, get, record)
        except ConnectionClosed as exc:
            record.errors.append(_error(exc))
        nursery.cancel_scope.cancel()


async def _loop(
    ws: WebSocketConnection,
    use: str,
    get: Callable[[], Awaitable[str | bytes]],
    record: Record,
) -> None:
    if use == "channel":
        async for message in ws:
            record.note("message", _message(message))
            await ws.send(message)
        return
    while use == "stream":
        async with ws.receive_stream() as stream:
            pieces = [piece async for piece in stream]
        record.note("pieces", [len(pieces), *map(_message, pieces)])
        await ws.send_message(pieces or "")
    while True:
        message = await get()
        if use in ("echo", "ping"):
            await ws.send_message(message)
        elif use == "close":
            await ws.aclose(4000, "enough")
        elif use == "fail":
            raise LookupError("of the application")
        elif use == "broadcast":
            result = await broadcast([ws], message, timeout=0.3)
            record.note("broadcast", [len(result.sent), len(result.failed)])


async def _handle(talk: Conversation, record: Record, request: WebSocketRequest) -> None:
    record.note("request", [request.path, list(request.proposed_subprotocols)])
    if talk.use == "reject":
        await request.reject(403, extra_headers=[(b"X-Why", b"because")], body=b"no")
        return
    offers = request.proposed_subprotocols
    ws = await request.accept(subprotocol=offers[0] if offers else None)
    try:
        await _use(ws, talk.use, record)
    finally:
        record.note_connection(ws)


async def _serve(talk: Conversation, stream: trio.abc.Stream, record: Record) -> None:
    listener = MemoryListener(stream)

    async def handle(request: WebSocketRequest) -> None:
        await _handle(talk, record, request)

    def on_error(_: WebSocketRequest, error: Exception) -> None:
        record.errors.append(_error(_single(error)))

    server = WebSocketServer(handle, [listener], on_handler_error=on_error, **talk.options)
    with contextlib.suppress(trio.EndOfChannel):
        await server.run()


async def _serve_stream(talk: Conversation, stream: trio.abc.Stream, record: Record) -> None:
    async with _noted(record), trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream, **talk.options)
        record.note("request", [request.path, list(request.proposed_subprotocols)])
        if talk.use == "reject":
            await request.reject(404)
            return
        async with await request.accept() as ws:
            await _use(ws, talk.use, record)
        record.note_connection(ws)


async def _connect(talk: Conversation, stream: trio.abc.Stream, record: Record) -> None:
    async with _noted(record), trio.open_nursery() as nursery:
        opening = wrap_client_stream(
            nursery, stream, "example.org", "/chat", subprotocols=["chat"], **talk.options
        )
        async with await opening as ws:
            await _use(ws, talk.use, record)
        record.note_connection(ws)


@contextlib.asynccontextmanager
async def _noted(record: Record) -> AsyncIterator[None]:
    try:
        yield
    except Exception as exc:
        record.errors.append(_error(_single(exc)))


def _single(error: BaseException) -> BaseException:
    exceptions: Any = getattr(error, "exceptions", ())
    return _single(exceptions[0]) if len(exceptions) == 1 else error


# -- a conversation


def run(talk: Conversation) -> dict[str, Json]:
    """Have a conversation, and return its record for comparison."""
    record = Record()
    clock = trio.testing.MockClock(autojump_threshold=0)
    with _deterministic(), _logged(record):
        trio.run(_main, talk, record, clock=clock)
    return {
        "input": hashlib.sha256(repr(talk).encode()).hexdigest()[:16],
        "sent": list(record.sent),
        "end": record.end,
        "events": list(record.events),
        "errors": list(record.errors),
        "logs": list(record.logs),
    }


async def _main(talk: Conversation, record: Record) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    peer = _Peer(theirs, talk, record)
    ends = {"client": _connect, "server": _serve if talk.is_listening else _serve_stream}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[talk.side], talk, ours, record)
        await peer.run()
        await trio.sleep(_LONGEST)  # let our side finish
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    def urandom(size: int) -> bytes:
        return (_NONCE * (size // len(_NONCE) + 1))[:size]

    async def run_here(function: Callable[..., object], *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*args)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(os, "urandom", urandom))
        # pytest-trio may have changed how Trio shuffles.
        stack.enter_context(mock.patch("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", False))
        stack.enter_context(mock.patch.object(scheduler, "random", return_value=1.0))
        # Virtual time does not wait for threads.
        stack.enter_context(mock.patch.object(trio.to_thread, "run_sync", run_here))
        yield


@contextlib.contextmanager
def _logged(record: Record) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            record.logs.append([entry.levelname, _text(entry.getMessage())])

    handler = Handler(logging.DEBUG)
    logger = logging.getLogger("trio-websocket")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
