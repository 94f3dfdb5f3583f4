"""Other WebSocket libraries, each under one interface, so that one script runs on all of them.

A script is an async function of a `Peer`. It runs where its library does: in an event loop of
asyncio in a thread, in the test's own Trio run, or, for a synchronous library, in a thread, as a
coroutine that never waits. The libraries are optional, so their types are not used here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import threading
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    NamedTuple,
    Sequence,
    Union,
)

import pytest
import trio

HOST = "127.0.0.1"
# Seconds for each wait of a peer outside of Trio. The tests have a longer limit.
LIMIT = 60
STATUS, BODY = 403, b"no entry"
LARGE = 2**24
LARGE_TEXT = "0123456789abcdef" * 2**20
LARGE_BINARY = bytes(range(256)) * 2**16

Message = Union[str, bytes]


class Settings(NamedTuple):
    """The settings of a peer."""

    compression: bool = True
    small_windows: bool = False  # 512 bytes, no context takeover if possible
    subprotocols: tuple[str, ...] = ()
    rejects: bool = False
    max_size: int = 2**20
    answers_pings: bool = True  # automatically, without showing Pings and Pongs to the script


class Closed(Exception):
    """The peer's connection is closed. Holds the code and the reason that it received."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.close = (code, reason)


class Rejected(Exception):
    """The peer's opening handshake was rejected."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Peer:
    """A connection of another library."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws

    @property
    def subprotocol(self) -> str | None:
        raise NotImplementedError

    @property
    def is_compressed(self) -> bool:
        """True if the library negotiated compression."""
        raise NotImplementedError

    @property
    def close_code(self) -> int | None:
        """The close code that the peer received."""
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    async def send_fragments(self, fragments: Sequence[Message]) -> None:
        raise NotImplementedError

    async def receive(self) -> Message:
        raise NotImplementedError

    async def receive_fragments(self) -> list[Message]:
        """Return the next message, as a list of fragments if the library shows them."""
        return [await self.receive()]

    async def ping(self, payload: bytes) -> None:
        """Send a Ping and wait for its Pong."""
        raise NotImplementedError

    async def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    async def closed(self) -> tuple[int | None, str]:
        """Return the code and the reason of our Close frame, which must come next."""
        try:
            message = await self.receive()
        except Closed as exc:
            return exc.close
        raise AssertionError(f"not the end, but {message!r:.100}")


Script = Callable[[Any], Awaitable[None]]


class Run:
    """A script for a server's connection. It keeps exceptions, because the libraries drop them."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._errors: list[BaseException] = []
        self._is_over = False

    async def __call__(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except Exception as exc:
            self._errors.append(exc)
        self._is_over = True

    @contextlib.contextmanager
    def checked(self, settings: Settings) -> Iterator[None]:
        """After the block, raise the script's exception, even if the block raised one.

        If the block raised, a `Closed` of the script is only a consequence.
        """
        try:
            yield
        except Exception:
            if self._errors and not isinstance(self._errors[0], Closed):
                raise self._errors[0]  # noqa: B904 # the context is what the block raised
            raise
        if self._errors:
            raise self._errors[0]
        assert self._is_over != settings.rejects


class Library:
    """A library as a client and as a server of one connection."""

    sends_fragments = True

    async def connect(self, url: str, script: Script, settings: Settings) -> None:
        """Run a script with a client.

        :raises Rejected: The server rejected the connection.
        """
        raise NotImplementedError

    def serving(
        self, script: Script, settings: Settings
    ) -> contextlib.AbstractAsyncContextManager[int]:
        """Serve during the block, which gets the port, and run the script with the connection.

        The end of the block waits for the script, and raises its exception.
        """
        raise NotImplementedError


async def finished(value: Any) -> Any:
    """Return the result of a function that may be async."""
    return await value if inspect.isawaitable(value) else value


def finish(script: Awaitable[None]) -> None:
    """Run a coroutine that never waits."""
    for _ in script.__await__():
        raise AssertionError("a script of a library without async has waited")


class Stop:
    """Stops a server in a thread, from Trio."""

    def __init__(self) -> None:
        self.is_set = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    def call(self, callback: Callable[[], object]) -> None:
        """Set the function that stops the server. It is called in Trio's thread."""
        self._callbacks.append(callback)

    def set(self) -> None:
        self.is_set.set()
        for callback in self._callbacks:
            with contextlib.suppress(RuntimeError):  # a failed event loop is closed already
                callback()


@contextlib.asynccontextmanager
async def in_thread(serve: Callable[[Callable[[int], None], Stop], None]) -> AsyncIterator[int]:
    """Run a server in a thread during the block.

    :param serve: Gets a function to call with the port, and returns when it is stopped.
    """
    stop = Stop()

    async def run(*, task_status: Any) -> None:
        def started(port: int) -> None:
            trio.from_thread.run_sync(task_status.started, port)

        await trio.to_thread.run_sync(serve, started, stop)

    async with trio.open_nursery() as nursery:
        try:
            yield await nursery.start(run)
        finally:
            stop.set()


# -- websockets


class WebsocketsPeer(Peer):
    """A connection of websockets. Its three implementations differ slightly."""

    @property
    def subprotocol(self) -> str | None:
        found: str | None = self.ws.subprotocol
        return found

    @property
    def is_compressed(self) -> bool:
        names = [extension.name for extension in self.ws.protocol.extensions]
        assert names in ([], ["permessage-deflate"])
        return bool(names)

    @property
    def close_code(self) -> int | None:
        code: int | None = self.ws.close_code
        return code

    async def send(self, message: Message) -> None:
        await finished(self.ws.send(message))

    async def send_fragments(self, fragments: Sequence[Message]) -> None:
        await finished(self.ws.send(iter(fragments)))

    async def receive(self) -> Message:
        with self._closing():
            message: Message = await finished(self.ws.recv())
        return message

    async def receive_fragments(self) -> list[Message]:
        with self._closing():
            frames = self.ws.recv_streaming()
            if isinstance(frames, AsyncIterator):
                return [frame async for frame in frames]
            return list(frames)

    async def ping(self, payload: bytes) -> None:
        pong = await finished(self.ws.ping(payload))
        if isinstance(pong, threading.Event):
            assert pong.wait(LIMIT)
        elif isinstance(pong, trio.Event):
            await pong.wait()
        else:
            await pong

    async def close(self, code: int, reason: str) -> None:
        close = getattr(self.ws, "aclose", None) or self.ws.close
        await finished(close(code, reason))
        await finished(self.ws.wait_closed())

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except importlib.import_module("websockets").ConnectionClosed as exc:
            rcvd = exc.rcvd
            if rcvd is None:
                raise
            raise Closed(rcvd.code, rcvd.reason) from exc


class Websockets(Library):
    """The common part of the three implementations."""

    def __init__(self, kind: str) -> None:
        # It needs a newer Python than our library.
        pytest.importorskip("websockets", minversion="17")
        self.client: Any = importlib.import_module(f"websockets.{kind}.client")
        self.server: Any = importlib.import_module(f"websockets.{kind}.server")
        self.invalid_status: Any = importlib.import_module("websockets").InvalidStatus

    def options(self, settings: Settings) -> dict[str, Any]:
        is_default = settings.compression and not settings.small_windows
        return {
            "compression": "deflate" if is_default else None,
            "subprotocols": settings.subprotocols or None,
            "max_size": settings.max_size,
            "ping_interval": None,
            "open_timeout": LIMIT,
            "close_timeout": LIMIT,
        }

    def client_options(self, settings: Settings) -> dict[str, Any]:
        extensions = self.extensions("Client") if settings.small_windows else None
        return {**self.options(settings), "extensions": extensions, "proxy": None}

    def server_options(self, settings: Settings) -> dict[str, Any]:
        def process_request(connection: Any, request: Any) -> Any:
            return connection.respond(STATUS, BODY.decode()) if settings.rejects else None

        extensions = self.extensions("Server") if settings.small_windows else None
        return {
            **self.options(settings),
            "extensions": extensions,
            "process_request": process_request,
        }

    def extensions(self, side: str) -> list[Any]:
        module = importlib.import_module("websockets.extensions.permessage_deflate")
        factory: Any = getattr(module, f"{side}PerMessageDeflateFactory")
        return [
            factory(
                server_no_context_takeover=True,
                client_no_context_takeover=True,
                server_max_window_bits=9,
                client_max_window_bits=9,
            )
        ]

    def rejected(self, exc: Any) -> Rejected:
        assert exc.response.body == BODY
        return Rejected(exc.response.status_code)


class WebsocketsAsyncio(Websockets):
    def __init__(self) -> None:
        super().__init__("asyncio")

    async def connect(self, url: str, script: Script, settings: Settings) -> None:
        async def main() -> None:
            try:
                async with self.client.connect(url, **self.client_options(settings)) as ws:
                    await script(WebsocketsPeer(ws))
            except self.invalid_status as exc:
                raise self.rejected(exc) from exc

        await trio.to_thread.run_sync(run_asyncio, main())

    @contextlib.asynccontextmanager
    async def serving(self, script: Script, settings: Settings) -> AsyncIterator[int]:
        run = Run(script)

        async def main(started: Callable[[int], None], stopped: asyncio.Event) -> None:
            async def handler(ws: Any) -> None:
                await run(WebsocketsPeer(ws))

            async with self.server.serve(
                handler, HOST, 0, **self.server_options(settings)
            ) as server:
                started(server.sockets[0].getsockname()[1])
                await stopped.wait()
                server.close(close_connections=False)

        with run.checked(settings):
            async with in_thread(functools.partial(serve_asyncio, main)) as port:
                yield port


class WebsocketsTrio(Websockets):
    def __init__(self) -> None:
        super().__init__("trio")

    async def connect(self, url: str, script: Script, settings: Settings) -> None:
        try:
            async with self.client.connect(url, **self.client_options(settings)) as ws:
                await script(WebsocketsPeer(ws))
        except self.invalid_status as exc:
            raise self.rejected(exc) from exc

    @contextlib.asynccontextmanager
    async def serving(self, script: Script, settings: Settings) -> AsyncIterator[int]:
        run = Run(script)

        async def handler(ws: Any) -> None:
            await run(WebsocketsPeer(ws))

        options = self.server_options(settings)
        with run.checked(settings):
            async with trio.open_nursery() as nursery:
                serve = functools.partial(self.server.serve, handler, 0, host=HOST, **options)
                server: Any = await nursery.start(serve)
                yield server.listeners[0].socket.getsockname()[1]
                await server.aclose(close_connections=False)


class WebsocketsSync(Websockets):
    def __init__(self) -> None:
        super().__init__("sync")

    async def connect(self, url: str, script: Script, settings: Settings) -> None:
        def main() -> None:
            try:
                with self.client.connect(url, **self.client_options(settings)) as ws:
                    finish(script(WebsocketsPeer(ws)))
            except self.invalid_status as exc:
                raise self.rejected(exc) from exc

        await trio.to_thread.run_sync(main)

    @contextlib.asynccontextmanager
    async def serving(self, script: Script, settings: Settings) -> AsyncIterator[int]:
        run = Run(script)

        def handler(ws: Any) -> None:
            finish(run(WebsocketsPeer(ws)))

        def main(started: Callable[[int], None], stop: Stop) -> None:
            server = self.server.serve(handler, HOST, 0, **self.server_options(settings))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                started(server.socket.getsockname()[1])
                stop.is_set.wait()
            finally:
                server.shutdown(close_connections=False)
                thread.join()

        with run.checked(settings):
            async with in_thread(main) as port:
                yield port


# -- aiohttp


class AiohttpPeer(Peer):
    """A connection of aiohttp."""

    def __init__(self, ws: Any, *, is_client: bool) -> None:
        super().__init__(ws)
        self._is_client = is_client
        self._kinds: Any = importlib.import_module("aiohttp").WSMsgType

    @property
    def subprotocol(self) -> str | None:
        found: str | None = self.ws.protocol if self._is_client else self.ws.ws_protocol
        return found

    @property
    def is_compressed(self) -> bool:
        return bool(self.ws.compress)

    @property
    def close_code(self) -> int | None:
        code: int | None = self.ws.close_code
        return code

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self.ws.send_str(message)
        else:
            await self.ws.send_bytes(message)

    async def receive(self) -> Message:
        received = await self.ws.receive()
        if received.type == self._kinds.CLOSE:
            raise Closed(received.data, received.extra)
        assert received.type in {self._kinds.TEXT, self._kinds.BINARY}, received
        message: Message = received.data
        return message

    async def ping(self, payload: bytes) -> None:
        await self.ws.ping(payload)
        received = await self.ws.receive()
        assert (received.type, received.data) == (self._kinds.PONG, payload)

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code=code, message=reason.encode())


class Aiohttp(Library):
    sends_fragments = False  # the library has no API for it

    def __init__(self) -> None:
        self.aiohttp: Any = pytest.importorskip("aiohttp")  # the library has no API for it
        self.web: Any = importlib.import_module("aiohttp.web")

    async def connect(self, url: str, script: Script, settings: Settings) -> None:
        async def main() -> None:
            async with self.aiohttp.ClientSession() as session:
                try:
                    async with session.ws_connect(
                        url,
                        compress=self._window_bits(settings),
                        **self._options(settings),
                    ) as ws:
                        await script(AiohttpPeer(ws, is_client=True))
                except self.aiohttp.WSServerHandshakeError as exc:
                    raise Rejected(exc.status) from exc

        await trio.to_thread.run_sync(run_asyncio, main())

    @contextlib.asynccontextmanager
    async def serving(self, script: Script, settings: Settings) -> AsyncIterator[int]:
        if settings.small_windows:
            pytest.skip("a server of aiohttp has no such setting")
        run = Run(script)

        async def handler(request: Any) -> Any:
            if settings.rejects:
                return self.web.Response(status=STATUS, body=BODY)
            ws = self.web.WebSocketResponse(
                compress=settings.compression, **self._options(settings)
            )
            await ws.prepare(request)
            await run(AiohttpPeer(ws, is_client=False))
            return ws

        async def main(started: Callable[[int], None], stopped: asyncio.Event) -> None:
            runner = self.web.ServerRunner(self.web.Server(handler), shutdown_timeout=LIMIT)
            await runner.setup()
            try:
                await self.web.TCPSite(runner, HOST, 0).start()
                started(runner.addresses[0][1])
                await stopped.wait()
            finally:
                await runner.cleanup()

        with run.checked(settings):
            async with in_thread(functools.partial(serve_asyncio, main)) as port:
                yield port

    def _window_bits(self, settings: Settings) -> int:
        if not settings.compression:
            return 0
        return 9 if settings.small_windows else 15

    def _options(self, settings: Settings) -> dict[str, Any]:
        return {
            "protocols": settings.subprotocols,
            "autoping": settings.answers_pings,
            # in this library, a message of exactly this size is refused
            "max_msg_size": settings.max_size + 1,
        }


# -- asyncio


def run_asyncio(main: Coroutine[Any, Any, None]) -> None:
    """Run a client in this thread."""

    async def bounded() -> None:
        await asyncio.wait_for(main, LIMIT)

    asyncio.run(bounded())


def serve_asyncio(
    main: Callable[[Callable[[int], None], asyncio.Event], Awaitable[None]],
    started: Callable[[int], None],
    stop: Stop,
) -> None:
    """Run a server in this thread."""

    async def until_stopped() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.call(lambda: loop.call_soon_threadsafe(stopped.set))
        await main(started, stopped)

    asyncio.run(until_stopped())


LIBRARIES: dict[str, Callable[[], Library]] = {
    "websockets-asyncio": WebsocketsAsyncio,
    "websockets-sync": WebsocketsSync,
    "websockets-trio": WebsocketsTrio,
    "aiohttp": Aiohttp,
}
