"""Connect our clients to hostile servers."""

from __future__ import annotations

import contextlib
from typing import AsyncContextManager, AsyncIterator, Sequence

import trio

from support import streams
from trio_websocket import (
    ConnectionClosed,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket,
    wrap_client_stream,
)
from trio_websocket._io.transport import LINGER
from trio_websocket._sansio.client_handshake import ClientHandshake
from trio_websocket._sansio.options import Options

from .edge import REAL, Attack, Attacker, Setting, check_close, check_pongs, ignoring_the_end
from .handshakes import ACCEPT
from .model import accept_token, expect, frames_of


async def attack_client(setting: Setting, attacks: Sequence[Attack]) -> None:
    async with trio.open_nursery() as nursery:
        for attack in attacks:
            nursery.start_soon(_attack, setting, attack)
            await trio.sleep(setting.interval)


async def _attack(setting: Setting, attack: Attack) -> None:
    client = _Client(setting, attack)
    if setting.kind not in REAL:
        ours, theirs = await streams.PAIRS[setting.kind]()
        server = _HostileServer(theirs, attack, setting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            await client.run(_wrapped(ours, setting))
            expect(await _is_closed(ours), "the client's stream is not closed")
    else:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, trio.open_nursery() as nursery:
            port = listener.socket.getsockname()[1]
            tls = streams.tls_contexts()[0] if setting.kind == "tls" else False
            opening = open_websocket("127.0.0.1", port, "/", use_ssl=tls, **setting.keywords)
            nursery.start_soon(client.run, opening)
            stream: trio.abc.Stream = await listener.accept()
            if setting.kind == "tls" and attack.is_polite:
                context = streams.tls_contexts()[1]
                stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            server = _HostileServer(stream, attack, setting)
            await server.serve()
    # a server that sends first knows neither the key nor TLS
    is_late = setting.kind == "tls" and isinstance(client.error, ConnectionTimeout)
    if attack.is_polite and not is_late:
        _check(client, server)


class _Client:
    """Our client, and the results."""

    def __init__(self, setting: Setting, attack: Attack) -> None:
        self.setting = setting
        self.attack = attack
        self.messages: list[str | bytes] = []
        self.is_open = False
        self.error: Exception | None = None

    async def run(self, opening: AsyncContextManager[WebSocketConnection]) -> None:
        setting = self.setting
        began = trio.current_time()
        most = setting.timeout
        is_closing = False
        with trio.CancelScope() as scope:
            try:
                async with opening as ws:
                    self.is_open = True
                    expect(trio.current_time() - began <= most + setting.slack, "opens late")
                    patience = sum(self.attack.pauses) + setting.patience
                    scope.deadline = trio.current_time() + patience
                    await self._use(ws)
                    scope.deadline += setting.limit
                    began = trio.current_time()
                    is_closing = True
                    most = 2 * setting.timeout + LINGER  # Close, the last bytes, the peer's end
            except (HandshakeError, ConnectionClosed) as exc:
                self.error = self.error or exc
                expect(self.is_open or isinstance(exc, HandshakeError), "opening raised", exc)
        if scope.cancelled_caught and not is_closing:
            began, most = scope.deadline, 0
        took = trio.current_time() - began
        expect(took <= most + setting.slack, "it took too long", took, most, self.error)

    async def _use(self, ws: WebSocketConnection) -> None:
        use = self.attack.use
        if use == "leave":
            return
        if use == "idle":
            await trio.sleep(self.setting.timeout / 2)
            return
        async with trio.open_nursery() as nursery:
            if use == "talk":
                nursery.start_soon(self._talk, ws)
            if use == "ping":
                nursery.start_soon(self._ping, ws)
            with contextlib.suppress(ConnectionClosed):
                await self._read(ws)

    async def _read(self, ws: WebSocketConnection) -> None:
        try:
            while True:
                self.messages.append(await ws.get_message())
        except ConnectionClosed as exc:
            self.error = exc
            raise

    async def _talk(self, ws: WebSocketConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for size in (1, 1000, 70_000):
                await ws.send_message("x" * size)

    async def _ping(self, ws: WebSocketConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await ws.ping(b"are you there?")


@contextlib.asynccontextmanager
async def _wrapped(stream: trio.abc.Stream, setting: Setting) -> AsyncIterator[WebSocketConnection]:
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            opening = wrap_client_stream(nursery, stream, "example.org", "/", **setting.keywords)
            async with await opening as ws:
                yield ws
        except Exception as exc:  # raise it without a group
            error = exc
    if error is not None:
        raise error


async def _is_closed(stream: trio.abc.Stream) -> bool:
    try:
        with trio.move_on_after(1):
            await stream.receive_some(1)
    except trio.ClosedResourceError:
        return True
    return False


class _HostileServer(Attacker):
    request = b""
    response = b""

    async def serve(self) -> None:
        data = self.attack.data
        if self.attack.is_polite:
            head = b""
            with trio.move_on_after(self.setting.limit), ignoring_the_end():
                while b"\r\n\r\n" not in head:
                    received = await self.stream.receive_some(65536)
                    if not received:
                        break
                    head += received
            self.request, _, rest = head.partition(b"\r\n\r\n")
            self.received += rest
            data = data.replace(ACCEPT, accept_token(self.key))
        self.response = data
        pieces, at = [], 0
        for piece in self.attack.chunks:
            pieces.append(data[at : at + len(piece)])
            at += len(piece)
        await self.run(pieces)

    @property
    def key(self) -> bytes:
        return self.request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]

    def behind_acceptance(self, options: Options) -> bytes | None:
        """Return the data after the response, or None if it does not accept the request."""
        key = [(b"Sec-WebSocket-Key", self.key)]
        handshake = ClientHandshake("example.org", "/", None, key, options)
        try:
            handshake.receive_data(self.response)
            opened = handshake.result()
        except HandshakeError:
            return None
        return None if opened is None else opened.trailing


def _check(client: _Client, server: _HostileServer) -> None:
    setting = client.setting
    expect(server.request.startswith(b"GET / HTTP/1.1\r\n"), "a request", server.request)
    frames, torn = frames_of(bytes(server.received), masked=True)
    behind = server.behind_acceptance(setting.options)
    if behind is None:
        expect(not client.is_open, "open, but not accepted")
        expect(not frames and not torn, "frames, but not accepted", frames, torn)
        return
    verdict = setting.judge(behind, masked=False)
    sent, got = verdict.messages, client.messages
    expect(got == sent[: len(got)], "not those messages", got, verdict)
    check_pongs(frames, verdict)
    if not (server.has_all and client.is_open):
        return
    expect(server.end.is_set(), "the client is not gone", verdict)
    expect(not torn, "a torn frame", torn)
    if client.attack.use in ("read", "ping", "talk"):
        expect(got == sent, "not all messages", got, verdict)
        check_close(frames, verdict, otherwise=(1001, 1011))
        if isinstance(client.error, ConnectionClosed):
            rcvd = client.error.rcvd
            told = None if rcvd is None else (rcvd.code, rcvd.reason or "")
            expect(told == verdict.closed, "not the Close that came", client.error, verdict)
