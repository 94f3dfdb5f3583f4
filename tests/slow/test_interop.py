"""Interoperation with other libraries and with a browser, over TCP, in both directions.

The other side always supports permessage-deflate, unless a test says otherwise, so our side decides
if it is used.
"""

from __future__ import annotations

import functools
from typing import Any, AsyncIterator, Awaitable, Callable, Iterable

import pytest
import trio

from support import interop_browser
from support.interop_peers import (
    BODY,
    HOST,
    LARGE,
    LARGE_BINARY,
    LARGE_TEXT,
    LIBRARIES,
    STATUS,
    Library,
    Message,
    Peer,
    Rejected,
    Settings,
)
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

pytestmark = pytest.mark.no_cover

each_way = pytest.mark.parametrize("we_are", ["client", "server"])
each_compression = pytest.mark.parametrize(
    "compression", [pytest.param(False, id="plain"), pytest.param(True, id="compressed")]
)

# Messages below and above the threshold of compression, of one frame and of several reads. Each is
# sent twice, so that compression can refer to the first one.
MESSAGES: list[Message] = [
    "text \u03c0 \U0001f600",
    b"\x00binary\xff",
    "",
    b"",
    "compressible " * 20,
    bytes(range(256)) * 300,
    "\u03c0" * 70_000,
] * 2
FRAGMENTED: list[list[Message]] = [
    ["in ", "fragments ", "\u03c0"],
    [b"\x00", b"\xff" * 70_000, b"", b"end"],
    ["", "", ""],
    ["compressible " * 20, "compressible " * 20],
]

OurScript = Callable[[WebSocketConnection], Awaitable[None]]
TheirScript = Callable[[Peer], Awaitable[None]]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    """Return the other library, or skip the test if it is not installed."""
    return LIBRARIES[request.param]()


async def converse(
    library: Library,
    we_are: str,
    ours: OurScript,
    theirs: TheirScript,
    *,
    compression: bool | dict[str, Any] = False,
    subprotocols: tuple[str, ...] = (),
    settings: Settings = Settings(),  # noqa: B008 # it is immutable
) -> None:
    """Connect both sides, and run a script on each. Then our side closes the connection.

    :param compression: True or settings to compress, False not to.
    """
    is_compressed = compression is not False and settings.compression

    async def run(ws: WebSocketConnection) -> None:
        assert (ws.compression is not None) == is_compressed
        await ours(ws)

    async def run_theirs(peer: Peer) -> None:
        assert peer.is_compressed == is_compressed
        await theirs(peer)

    options: dict[str, Any] = {"max_message_size": settings.max_size}
    if compression is not False:
        chosen = {} if compression is True else compression
        options["compression"] = PerMessageDeflate(**chosen)

    if we_are == "client":
        async with library.serving(run_theirs, settings) as port:
            url = f"ws://{HOST}:{port}/"
            async with open_websocket_url(url, subprotocols=subprotocols, **options) as ws:
                await run(ws)
        return

    async def handler(request: WebSocketRequest) -> None:
        offered = request.proposed_subprotocols
        assert offered == settings.subprotocols
        known = [name for name in offered if name in subprotocols]
        await run(await request.accept(subprotocol=known[0] if known else None))

    async with trio.open_nursery() as nursery:
        serve = functools.partial(serve_websocket, handler, HOST, 0, None, **options)
        server = await nursery.start(serve)
        await library.connect(f"ws://{HOST}:{server.port}/", run_theirs, settings)
        await server.aclose()


def same(message: object, expected: object) -> bool:
    """Return True if the values are equal. An assert would print pages of differences."""
    return type(message) is type(expected) and message == expected


async def until_closed(peer: Peer) -> None:
    assert await peer.closed() == (1000, "")


# -- messages


async def send_messages(ws: WebSocketConnection) -> None:
    for message in MESSAGES:
        await ws.send_message(message)
        assert same(await ws.get_message(), message)


async def echo_messages(peer: Peer) -> None:
    for message in MESSAGES:
        received = await peer.receive()
        assert same(received, message)
        await peer.send(received)
    await until_closed(peer)


@each_compression
@each_way
async def test_send_message_to_library_is_echoed(
    library: Library, we_are: str, compression: bool
) -> None:
    await converse(library, we_are, send_messages, echo_messages, compression=compression)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"window_bits": 9}, Settings()),
        ({"window_bits": 15}, Settings()),
        ({"window_bits": 15}, Settings(small_windows=True)),
        ({"context_takeover": False, "threshold": 0}, Settings()),
        ({}, Settings(compression=False)),
    ],
    ids=["small windows", "large windows", "theirs small", "no takeover", "theirs none"],
)
@each_way
async def test_compression_settings_with_library_work(
    library: Library, we_are: str, ours: dict[str, Any], theirs: Settings
) -> None:
    await converse(library, we_are, send_messages, echo_messages, compression=ours, settings=theirs)


@each_compression
@each_way
async def test_send_message_large_to_library_is_echoed(
    library: Library, we_are: str, compression: bool
) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        await ws.send_message(LARGE_BINARY)
        assert same(await ws.get_message(), LARGE_TEXT)

    async def theirs(peer: Peer) -> None:
        assert same(await peer.receive(), LARGE_BINARY)
        await peer.send(LARGE_TEXT)
        await until_closed(peer)

    settings = Settings(max_size=LARGE)
    await converse(library, we_are, ours, theirs, compression=compression, settings=settings)


@each_compression
@each_way
async def test_max_message_size_exceeded_by_library_closes(
    library: Library, we_are: str, compression: bool
) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1009

    async def theirs(peer: Peer) -> None:
        await peer.send(bytes(Settings().max_size + 1))
        code, _ = await peer.closed()
        assert code == 1009

    await converse(library, we_are, ours, theirs, compression=compression)


@each_compression
@each_way
async def test_get_message_fragments_of_library(
    library: Library, we_are: str, compression: bool
) -> None:
    if not library.sends_fragments:
        pytest.skip("this library does not send fragments")

    async def ours(ws: WebSocketConnection) -> None:
        for fragments in FRAGMENTED:
            assert same(await ws.get_message(), joined(fragments))

    async def theirs(peer: Peer) -> None:
        for fragments in FRAGMENTED:
            await peer.send_fragments(fragments)
        await until_closed(peer)

    await converse(library, we_are, ours, theirs, compression=compression)


@pytest.mark.parametrize("is_async", [False, True], ids=["iterable", "async"])
@each_compression
@each_way
async def test_send_message_fragments_to_library(
    library: Library, we_are: str, compression: bool, is_async: bool
) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        for fragments in FRAGMENTED:
            await ws.send_message(one_by_one(fragments) if is_async else iter(fragments))

    async def theirs(peer: Peer) -> None:
        for fragments in FRAGMENTED:
            received = await peer.receive_fragments()
            assert same(joined(received), joined(fragments))
            if library.sends_fragments and not compression:  # other libraries don't show fragments
                assert len(received) >= sum(map(bool, fragments))
        await until_closed(peer)

    await converse(library, we_are, ours, theirs, compression=compression)


async def one_by_one(fragments: list[Message]) -> AsyncIterator[Message]:
    for fragment in fragments:
        await trio.lowlevel.checkpoint()
        yield fragment


def joined(fragments: Iterable[Any]) -> Message:
    parts = list(fragments)
    empty: Message = parts[0][:0]
    return empty.join(parts)


# -- control frames


@each_compression
@each_way
async def test_ping_library_answers(library: Library, we_are: str, compression: bool) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        assert await ws.ping(b"from us") == ws.latency
        await ws.ping()

    await converse(library, we_are, ours, until_closed, compression=compression)


@each_compression
@each_way
async def test_ping_of_library_is_answered(
    library: Library, we_are: str, compression: bool
) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        assert await ws.get_message() == "answered"

    async def theirs(peer: Peer) -> None:
        await peer.ping(b"from them")
        await peer.ping(b"")
        await peer.send("answered")
        await until_closed(peer)

    settings = Settings(answers_pings=False)
    await converse(library, we_are, ours, theirs, compression=compression, settings=settings)


@each_compression
@each_way
async def test_aclose_library_answers(library: Library, we_are: str, compression: bool) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        await ws.aclose(3001, "from us \u03c0")
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.sent == CloseReason(3001, "from us \u03c0")
        assert caught.value.rcvd is not None

    async def theirs(peer: Peer) -> None:
        assert await peer.closed() == (3001, "from us \u03c0")

    await converse(library, we_are, ours, theirs, compression=compression)


@each_compression
@each_way
async def test_aclose_of_library_is_answered(
    library: Library, we_are: str, compression: bool
) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.reason == CloseReason(4002, "from them \u03c0")
        assert caught.value.rcvd == CloseReason(4002, "from them \u03c0")

    async def theirs(peer: Peer) -> None:
        await peer.close(4002, "from them \u03c0")
        assert peer.close_code == 4002

    await converse(library, we_are, ours, theirs, compression=compression)


# -- handshakes


@each_way
async def test_subprotocol_with_library_is_chosen(library: Library, we_are: str) -> None:
    async def ours(ws: WebSocketConnection) -> None:
        assert ws.subprotocol == "chat"

    async def theirs(peer: Peer) -> None:
        assert peer.subprotocol == "chat"
        await until_closed(peer)

    offered, known = ("superchat", "chat"), ("chat",)
    ours_are, theirs_are = (offered, known) if we_are == "client" else (known, offered)
    settings = Settings(subprotocols=theirs_are)
    await converse(library, we_are, ours, theirs, subprotocols=ours_are, settings=settings)


async def test_open_websocket_url_library_rejects(library: Library) -> None:
    async with library.serving(until_closed, Settings(rejects=True)) as port:
        with pytest.raises(ConnectionRejected) as caught:
            async with open_websocket_url(f"ws://{HOST}:{port}/"):
                raise AssertionError("it was not rejected")
    assert (caught.value.status_code, caught.value.body) == (STATUS, BODY)


async def test_reject_library_sees_rejection(library: Library) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(STATUS, body=BODY)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handler, HOST, 0, None)
        with pytest.raises(Rejected) as caught:
            await library.connect(f"ws://{HOST}:{server.port}/", until_closed, Settings())
        await server.aclose()
    assert caught.value.status == STATUS


# -- a browser

BROWSER_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compressed": {"compression": PerMessageDeflate()},
}
each_kind = pytest.mark.parametrize("kind", BROWSER_KINDS)


@pytest.fixture(scope="module")
def browser() -> interop_browser.Outcome:
    """Start the browser once, run all cases, and return the results."""
    program = interop_browser.find()
    if program is None:
        pytest.skip("there is no Chromium here")
    return interop_browser.browse(program, BROWSER_KINDS)


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("messages", "same"),
        ("large", "same"),
        ("fragments", "same"),
        ("ping", "answered"),
        ("ourClose", [4001, "from us \u03c0", True]),
        ("theirClose", [4002, "from them \u03c0", True]),
        ("rejection", 1006),
        ("subprotocol", "chat"),
    ],
)
@each_kind
def test_browser_script_succeeds(
    browser: interop_browser.Outcome, kind: str, case: str, result: object
) -> None:
    assert browser.results[kind, case] == result


@each_kind
def test_browser_is_seen_by_server(browser: interop_browser.Outcome, kind: str) -> None:
    assert browser.seen[kind, "large"] is True
    assert 0 <= browser.seen[kind, "ping"] < 10
    assert browser.seen[kind, "our-close"] == CloseReason(4001, "from us \u03c0")
    assert browser.seen[kind, "their-close"] == CloseReason(4002, "from them \u03c0")


@each_kind
def test_browser_compression_works(browser: interop_browser.Outcome, kind: str) -> None:
    is_compressed = kind == "compressed"
    agreed = "permessage-deflate" if is_compressed else ""
    assert browser.results[kind, "compression"] == agreed
    assert (browser.seen[kind, "compression"] is not None) == is_compressed
