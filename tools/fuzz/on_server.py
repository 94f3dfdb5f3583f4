"""Attack our server with a batch of hostile clients, beside correct clients."""

from __future__ import annotations

import contextlib
import math
from typing import Any, AsyncIterator, Sequence

import trio

from support import streams
from support.frames import BINARY, PONG, TEXT
from support.listeners import MemoryListener
from trio_websocket import (
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    wrap_client_stream,
)
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.server_handshake import BadRequest, ServerHandshake

from .edge import REAL, Attack, Attacker, Setting, check_close, check_pongs
from .model import (
    Frame,
    Verdict,
    check_acceptance,
    check_refusal,
    expect,
    frames_of,
    response_of,
)

_GOOD = "/good"  # the path that correct clients request


async def attack_server(setting: Setting, attacks: Sequence[Attack]) -> None:
    async with trio.open_nursery() as nursery, trio.open_nursery() as handlers:
        server = _Server(setting, handlers)
        await server.start(nursery)
        async with server.good_client() as survivor:
            await server.echo(survivor)
            await trio.testing.wait_all_tasks_blocked()
            own = len(handlers.child_tasks)  # the tasks of the survivor's connection
            async with trio.open_nursery() as attackers:
                for attack in attacks:
                    attackers.start_soon(_attack, server, attack)
                    await trio.sleep(setting.interval)
            with trio.move_on_after(setting.limit):
                while len(handlers.child_tasks) > own:  # noqa: ASYNC110 # no event tells of it
                    await trio.sleep(setting.timeout / 50)
            left = len(handlers.child_tasks) - own
            expect(left == 0, "connections are left after their clients", left)
            await server.echo(survivor)
        async with server.good_client() as newcomer:
            await server.echo(newcomer)
        for error in server.errors:
            raise error
        nursery.cancel_scope.cancel()


class Mishap(Exception):
    """The exception of a handler that fails on purpose. The library logs it."""


class _Server:
    """Our server, and functions to connect to it."""

    def __init__(self, setting: Setting, handlers: trio.Nursery) -> None:
        self.setting = setting
        self._handlers = handlers
        self._memory = MemoryListener()
        self._port = 0
        #: Exceptions of handlers that should raise nothing.
        self.errors: list[Exception] = []

    async def start(self, nursery: trio.Nursery) -> None:
        listeners: Sequence[trio.abc.Listener[Any]] = [self._memory]
        if self.setting.kind in REAL:
            tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self._port = tcp[0].socket.getsockname()[1]
            listeners = tcp
            if self.setting.kind == "tls":
                context = streams.tls_contexts()[1]
                listeners = [trio.SSLListener(x, context, https_compatible=True) for x in tcp]
        server = WebSocketServer(
            self._handle,
            listeners,
            handler_nursery=self._handlers,
            on_handler_error=self._on_error,
            max_connections=self.setting.max_connections,
            **self.setting.keywords,
        )
        await nursery.start(server.run)

    async def connect(self, *, tls: bool = True) -> trio.abc.Stream:
        if self.setting.kind not in REAL:
            theirs, ours = await streams.PAIRS[self.setting.kind]()
            self._memory.connect(ours)
            return theirs
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        if self.setting.kind == "tcp" or not tls:
            return stream
        context = streams.tls_contexts()[0]
        return trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)

    async def _handle(self, request: WebSocketRequest) -> None:
        kind = "echo" if request.path == _GOOD else self.setting.handler
        if kind == "reject":
            await request.reject(403, body=b"no")
            return
        offers = request.proposed_subprotocols
        ws = await request.accept(subprotocol=offers[0] if offers else None)
        if kind == "ignore":
            await trio.sleep(self.setting.timeout)
        if kind == "fail":
            with trio.move_on_after(self.setting.timeout):
                await ws.get_message()
            raise Mishap
        patience = 20 if kind == "slow" else 0
        while kind in ("echo", "slow"):
            message = await ws.get_message()
            if patience:
                patience -= 1
                await trio.sleep(self.setting.timeout / 20)
            await ws.send_message(message)

    def _on_error(self, _: WebSocketRequest, error: Exception) -> None:
        if not isinstance(error, Mishap):
            self.errors.append(error)

    @contextlib.asynccontextmanager
    async def good_client(self) -> AsyncIterator[WebSocketConnection]:
        async with trio.open_nursery() as nursery:
            stream = await self.connect()
            async with await wrap_client_stream(nursery, stream, "example.org", _GOOD) as ws:
                yield ws

    async def echo(self, ws: WebSocketConnection) -> None:
        with trio.fail_after(self.setting.limit):
            await ws.send_message("are you there?")
            expect(await ws.get_message() == "are you there?", "not echoed")


async def _attack(server: _Server, attack: Attack) -> None:
    setting = server.setting
    attacker = Attacker(await server.connect(tls=attack.is_polite), attack, setting)
    attacker.is_end_due = _is_end_due(attack, setting)
    await attacker.run(attack.chunks)
    if setting.kind != "tls" or attack.is_polite:
        _check_reply(attacker)
    elif attack.listens:
        expect(attacker.end.is_set(), "plain bytes to TLS: not gone at its time-out")


def _is_end_due(attack: Attack, setting: Setting) -> bool:
    """Return True if our server must end the connection by itself."""
    has_eof = attack.ending == "eof" and setting.kind != "tls"
    if has_eof or setting.handler not in ("echo", "slow"):
        return True
    try:
        request = _request_in(attack.data, setting.options)
    except BadRequest:
        return True
    return request is None or setting.judge(request[1], masked=True).is_final


def _request_in(data: bytes, options: Options) -> tuple[bytes, bytes] | None:
    """Return the key of the request and the data after it, or None if it is incomplete."""
    handshake = ServerHandshake(options)
    if data:  # b"" would be the end of the stream
        handshake.receive_data(data)
    if not data or not handshake.has_request():
        return None
    (key,) = [value for name, value in handshake.headers if name == b"sec-websocket-key"]
    return key, handshake.accept(None, None)[1].trailing


def _check_reply(attacker: Attacker) -> None:
    attack, setting, reply = attacker.attack, attacker.setting, bytes(attacker.received)
    if attacker.has_all and attacker.is_end_due:
        expect(attacker.end.is_set(), "not gone at its time-out", attack.data, reply)
    is_turned_away = not reply or reply.startswith(b"HTTP/1.1 503 ")
    if setting.max_connections < math.inf and is_turned_away:
        expect(not reply or not response_of(reply).rest, "something behind 503", reply)
        return
    try:
        request = _request_in(attack.data, setting.options)
    except BadRequest:
        if attacker.has_all:
            expect(not attacker.is_reset, "a reset", reply)
            check_refusal(reply, to_head=attack.data.lstrip().startswith(b"HEAD "))
        return
    if request is None:
        # the client may have sent only a part, which may be a bad request
        expect(not reply or not attacker.has_sent, "an answer to half a request", reply)
        return
    key, behind = request
    if setting.handler == "reject":
        if attacker.has_all:
            expect(response_of(reply).status == 403, "not rejected", reply)
        return
    if b"\r\n\r\n" not in reply:
        expect(not attacker.has_all, "no answer", reply)
        return
    frames, torn = frames_of(check_acceptance(reply, key).rest, masked=False)
    verdict = setting.judge(behind, masked=True)
    if attacker.has_all:
        # TLS has no half-close: a client that sends data after its Close may be reset
        may_be_reset = setting.kind == "tls" and verdict.closed
        expect(may_be_reset or not attacker.is_reset, "a reset", verdict, frames)
        expect(not torn, "a torn frame", torn)
    check_pongs(frames, verdict)
    if setting.handler in ("echo", "slow"):
        # the connection may end while a slow handler still processes a message
        _check_echo(frames, verdict, whole=attacker.has_all and setting.handler == "echo")
        if attacker.has_all:
            check_close(frames, verdict, otherwise=(1011,))  # the code of the keep-alive


def _check_echo(frames: list[Frame], verdict: Verdict, *, whole: bool) -> None:
    echoed = [
        payload.decode() if opcode == TEXT else payload
        for opcode, payload in frames
        if opcode in (TEXT, BINARY)
    ]
    sent = verdict.messages
    expect(echoed == (sent if whole else sent[: len(echoed)]), "not echoed", echoed, verdict)
    if whole and verdict.pings:
        pongs = [payload for opcode, payload in frames if opcode == PONG]
        expect(pongs[-1:] == verdict.pings[-1:], "the last Ping has no Pong", pongs, verdict)
