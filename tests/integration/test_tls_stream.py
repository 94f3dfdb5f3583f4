"""TLS on a socket, record by record: handshake, data, ends, faults and cancellation."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any, Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from support.frames import TEXT, frame
from support.peer import REQUEST
from support.streams import WrappedStream, reset, tcp_pair
from support.tasks import Call, turns_of_another
from support.tls_peer import (
    ALERT,
    DATA,
    HANDSHAKE,
    HOST,
    TLS_1_2,
    TLS_1_3,
    TlsPeer,
    authority,
    contexts,
)
from trio_websocket import WebSocketConnection, wrap_server_stream
from trio_websocket._io.tls_stream import TlsStream
from trio_websocket._io.transport import Transport
from trio_websocket._sansio.tls_engine import TlsEngine

VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
SIDES = pytest.mark.parametrize("side", ["client", "server"])

MEGABYTE = 2**20


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The file for a peer's keys."""
    return tmp_path / "keys"


async def streams(
    side: str, version: ssl.TLSVersion = TLS_1_3
) -> tuple[TlsStream, trio.SSLStream[trio.SocketStream]]:
    """Return our stream and Trio's, before the handshake.

    :param side: The side of our stream.
    """
    client, server = contexts(version)
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    assert isinstance(accepted, trio.SocketStream)
    if side == "client":
        ours = TlsStream(connected, client, server_hostname=HOST)
        return ours, trio.SSLStream(accepted, server, server_side=True)
    ours = TlsStream(accepted, server, server_side=True)
    return ours, trio.SSLStream(connected, client, server_hostname=HOST)


async def open_streams(
    side: str, version: ssl.TLSVersion = TLS_1_3
) -> tuple[TlsStream, trio.SSLStream[trio.SocketStream]]:
    """Return our stream and Trio's, after the handshake."""
    ours, theirs = await streams(side, version)
    await both(ours.do_handshake, theirs.do_handshake)
    return ours, theirs


async def with_peer(
    side: str, keys: Path, version: ssl.TLSVersion = TLS_1_3
) -> tuple[TlsStream, TlsPeer]:
    """Return our stream and a peer that sends records, before the handshake."""
    client, server = contexts(version)
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    assert isinstance(accepted, trio.SocketStream)
    if side == "client":
        ours = TlsStream(connected, client, server_hostname=HOST)
        return ours, TlsPeer(accepted, server, server_side=True, keys=keys)
    ours = TlsStream(accepted, server, server_side=True)
    return ours, TlsPeer(connected, client, server_side=False, keys=keys)


async def open_with_peer(
    side: str, keys: Path, version: ssl.TLSVersion = TLS_1_3
) -> tuple[TlsStream, TlsPeer]:
    """Return our stream and a peer that sends records, after the handshake."""
    ours, peer = await with_peer(side, keys, version)
    await both(ours.do_handshake, peer.do_handshake)
    return ours, peer


async def with_raw(side: str) -> tuple[TlsStream, trio.SocketStream]:
    """Return our stream, and the socket at the other end."""
    ours, theirs = await streams(side)
    return ours, theirs.transport_stream


async def both(*functions: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


async def receive(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Receive exactly this number of bytes."""
    data = b""
    while len(data) < size:
        received = await stream.receive_some()
        assert received
        data += received
    assert len(data) == size
    return data


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive everything up to the end."""
    data = b""
    while True:
        received = await stream.receive_some()
        if not received:
            return data
        data += received


async def fill(stream: trio.SocketStream) -> int:
    """Write until the socket is full. Return the number of bytes."""
    size = 0

    async def write() -> None:
        nonlocal size
        while True:
            size += await stream.socket.send(bytes(2**16))

    async with trio.open_nursery() as writing:
        writing.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.05)
        writing.cancel_scope.cancel()
    return size


# -- data


@VERSIONS
@SIDES
async def test_send_all_both_ways_arrives(side: str, version: ssl.TLSVersion) -> None:
    ours, theirs = await open_streams(side, version)
    await ours.send_all(b"hello")
    assert await receive(theirs, 5) == b"hello"
    await theirs.send_all(b"there")
    assert await ours.receive_some() == b"there"
    assert ours.ssl_object.version() == theirs.version()


@VERSIONS
@SIDES
async def test_send_all_large_both_ways_at_once_arrives(side: str, version: ssl.TLSVersion) -> None:
    async def expect(stream: trio.abc.ReceiveStream) -> None:
        received.append(await receive(stream, len(data)))

    received: list[bytes] = []
    data = random.Random(1).getrandbits(8 * 4 * MEGABYTE).to_bytes(4 * MEGABYTE, "big")
    ours, theirs = await open_streams(side, version)
    await both(
        partial(ours.send_all, data),
        partial(theirs.send_all, data),
        partial(expect, ours),
        partial(expect, theirs),
    )
    assert received == [data, data]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_send_all_any_type_and_size_arrives(kind: Callable[[bytes], Any]) -> None:
    ours, theirs = await open_streams("server")
    for size in (0, 1, 2**14, 2**14 + 1, 2**15, 2**15 + 1):
        await ours.send_all(kind(b"x" * size))
        assert await receive(theirs, size) == b"x" * size


async def test_send_all_16_megabytes_arrives(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    data = bytes(16 * MEGABYTE)
    assert peer.decrypt(ours.engine.encrypt(data)) == data


def count_encrypted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of the data that our streams encrypt from now on."""

    def counted(engine: TlsEngine, data: bytes) -> bytes:
        sizes.append(len(data))
        return encrypt(engine, data)

    sizes: list[int] = []
    encrypt = TlsEngine.encrypt
    monkeypatch.setattr(TlsEngine, "encrypt", counted)
    return sizes


async def test_send_all_full_socket_encrypts_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, _ = await open_streams("client")
    await fill(ours.transport_stream)
    encrypted = count_encrypted(monkeypatch)
    rest = ours.send_now([b"head", bytes(MEGABYTE)])
    assert rest is not None
    assert rest.begun == sum(encrypted)
    assert b"".join(rest.chunks) == (b"head" + bytes(MEGABYTE))[rest.begun :]
    assert sum(encrypted) <= 4 * 2**15


async def test_write_some_very_large_leaves_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, _ = await open_streams("client")
    encrypted = count_encrypted(monkeypatch)
    monkeypatch.setattr(os, "writev", lambda _, chunks: sum(map(len, chunks)))
    rest = ours.send_now([bytes(4 * MEGABYTE)])
    assert rest is not None
    assert rest.begun == 0
    assert sum(encrypted) == 4 * MEGABYTE - sum(map(len, rest.chunks))
    assert MEGABYTE < sum(encrypted) < 3 * MEGABYTE
    while rest is not None:
        rest = ours.send_now([bytes(chunk) for chunk in rest.chunks])
    assert sum(encrypted) == 4 * MEGABYTE


async def test_write_some_full_socket_is_written_by_caller(keys: Path) -> None:
    ours, peer = await open_with_peer("client", keys)
    encrypted = [ours.engine.encrypt(data) for data in (b"one", b"", b"two")]
    assert peer.decrypt(b"".join(encrypted)) == b"onetwo"
    assert ours.engine.encrypt(b"") == b""


async def test_do_handshake_with_blocking_socket_works() -> None:
    def talk() -> None:
        with contexts()[0].wrap_socket(sock, server_hostname=HOST) as tls:
            tls.sendall(b"hello")
            answers.append(tls.recv(100))
            tls.unwrap()

    answers: list[bytes] = []
    accepted, sock = socket.socketpair()
    accepted.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
    ours = TlsStream(stream, contexts()[1], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, talk)
        await ours.send_all(await ours.receive_some())
        assert await ours.receive_some() == b""
        await ours.aclose()
    assert answers == [b"hello"]


@SIDES
@pytest.mark.parametrize("first", ["receive_some", "send_all"])
async def test_send_all_or_receive_some_do_handshake(side: str, first: str) -> None:
    ours, theirs = await streams(side)
    async with trio.open_nursery() as nursery:
        if first == "send_all":
            nursery.start_soon(ours.send_all, b"hello")
            assert await receive(theirs, 5) == b"hello"
        else:
            nursery.start_soon(theirs.send_all, b"hello")
            assert await ours.receive_some() == b"hello"
    await ours.do_handshake()  # nothing is left to do


async def test_write_some_before_handshake_takes_nothing() -> None:
    ours, _ = await with_raw("client")
    with pytest.raises(AssertionError):
        ours.engine.encrypt(b"x")


async def test_send_all_during_receive_some_sends(nursery: trio.Nursery) -> None:
    ours, theirs = await open_streams("server")
    call = Call(nursery, ours.receive_some)
    await trio.testing.wait_all_tasks_blocked()
    await ours.wait_send_all_might_not_block()
    await ours.send_all(b"hello")
    assert await receive(theirs, 5) == b"hello"
    await theirs.send_all(b"there")
    assert await call.result() == b"there"


# -- records


@VERSIONS
async def test_receive_some_record_cut_anywhere_is_read(
    keys: Path, version: ssl.TLSVersion
) -> None:
    ours, peer = await open_with_peer("server", keys, version)
    data = b"".join(peer.encrypt(text) for text in (b"one", b"two", b"x" * 100))
    for size in (1, 2, 3, 7, 50):
        pieces = [ours.engine.decrypt(data[i : i + size]) for i in range(0, len(data), size)]
        assert b"".join(pieces) == b"onetwo" + b"x" * 100
        data = b"".join(peer.encrypt(text) for text in (b"one", b"two", b"x" * 100))


async def test_do_handshake_byte_by_byte_works(keys: Path) -> None:
    class Slow(WrappedStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            for i in range(len(data)):
                await super().send_all(data[i : i + 1])
                await trio.lowlevel.checkpoint()

    ours, peer = await with_peer("server", keys)
    peer.stream = Slow(peer.stream)
    await both(ours.do_handshake, peer.do_handshake)
    assert ours.engine.decrypt(peer.encrypt(b"hello")) == b"hello"


async def test_receive_some_joins_records(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    await peer.send(peer.encrypt(b"one") + peer.encrypt(b"two") + peer.encrypt(b"three")[:-1])
    assert await ours.receive_some() == b"onetwo"


async def test_receive_some_reads_at_most_max_bytes(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    records = [peer.encrypt(bytes([i]) * 1000) for i in range(10)]
    await peer.send(b"".join(records))
    assert await ours.receive_some(len(records[0]) * 3) == b"".join(
        bytes([i]) * 1000 for i in range(3)
    )
    assert await ours.receive_some(1) == bytes([3]) * 1000


async def test_receive_some_data_with_handshake_is_kept(keys: Path) -> None:
    async def shake_hands() -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.engine.do_handshake()
        await peer.send(peer.take())
        await peer.receive()
        peer.engine.do_handshake()
        await peer.send(peer.take() + peer.encrypt(b"one") + peer.encrypt(b"two"))

    ours, peer = await with_peer("server", keys)
    await both(ours.do_handshake, shake_hands)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.receive_some()
    assert scope.cancelled_caught
    assert await ours.receive_some() == b"onetwo"


async def test_receive_some_empty_record_is_no_end(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    await peer.send(peer.record(DATA, b"") + peer.record(DATA, b""))
    await peer.send(peer.record(DATA, b"hello"))
    assert await receive(ours, 5) == b"hello"


@VERSIONS
async def test_do_handshake_resumes_session(version: ssl.TLSVersion) -> None:
    client, server = contexts(version)
    session = None
    for _ in range(2):
        connected, accepted = await tcp_pair()
        assert isinstance(accepted, trio.SocketStream)
        ours = TlsStream(accepted, server, server_side=True)
        theirs = trio.SSLStream(connected, client, server_hostname=HOST)
        if session is not None:
            theirs.session = session
        await both(ours.do_handshake, theirs.do_handshake)
        await ours.send_all(b"x")  # the tickets precede the data
        assert await theirs.receive_some() == b"x"
        is_resumed, session = session is not None, theirs.session
        assert theirs.session_reused == is_resumed
        assert session.has_ticket


async def test_receive_some_session_ticket_is_no_data(keys: Path) -> None:
    ours, theirs = await open_streams("client")
    await theirs.send_all(b"x")
    assert await ours.receive_some() == b"x"
    assert ours.ssl_object.session is not None
    assert ours.ssl_object.session.has_ticket


async def test_do_handshake_client_left_sends_no_tickets() -> None:
    async def leave() -> None:
        await theirs.send_all(b"the last words")
        await theirs.aclose()

    ours, theirs = await streams("server")
    await both(ours.do_handshake, leave)
    assert await receive_all(ours) == b"the last words"


@VERSIONS
@pytest.mark.parametrize("is_named", [True, False])
async def test_do_handshake_uses_context(version: ssl.TLSVersion, is_named: bool) -> None:
    names = []
    client, server = contexts(version)
    server.sni_callback = lambda tls, name, context: names.append(name)
    client.set_alpn_protocols(["http/1.1"])
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.check_hostname = is_named
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    ours = TlsStream(connected, client, server_hostname=HOST if is_named else None)
    theirs = trio.SSLStream(accepted, server, server_side=True)
    await both(ours.do_handshake, theirs.do_handshake)
    assert ours.ssl_object.selected_alpn_protocol() == "http/1.1"
    assert names == [HOST if is_named else None]


# -- new keys


@SIDES
async def test_key_update_requested_is_answered_with_next_data(side: str, keys: Path) -> None:
    ours, peer = await open_with_peer(side, keys)
    assert peer.decrypt(ours.engine.encrypt(b"")) == b""  # tickets
    usual = ours.engine.encrypt(b"hello")
    assert peer.decrypt(usual) == b"hello"
    for _ in range(3):
        update = peer.key_update(is_requested=True)
        assert ours.engine.decrypt(update + peer.record(DATA, b"x")) == b"x"
        data = ours.engine.encrypt(b"hello")
        assert len(data) > len(usual)
        assert peer.decrypt(data) == b"hello"


async def test_key_update_not_requested_is_not_answered(keys: Path) -> None:
    ours, peer = await open_with_peer("client", keys)
    assert ours.engine.decrypt(peer.key_update(is_requested=False)) == b""
    data = peer.record(DATA, b"x")
    assert ours.engine.decrypt(data) == b"x"
    answer = ours.engine.encrypt(b"x")
    assert len(answer) == len(data)
    assert peer.decrypt(answer) == b"x"


@SIDES
async def test_key_update_flood_ends_connection(side: str, keys: Path) -> None:
    ours, peer = await open_with_peer(side, keys)
    with pytest.raises(ssl.SSLError, match="too many requests") as caught:
        for _ in range(10_000):
            ours.engine.decrypt(peer.key_update(is_requested=True))
    assert caught.value.reason == "too many requests for new TLS keys"
    with pytest.raises(ssl.SSLError, match="too many requests"):
        ours.engine.encrypt(b"x")


async def test_decrypt_certificate_request_answers_at_once(
    keys: Path,
) -> None:
    client, server = contexts()
    certifying, _ = authority()
    certifying.issue_cert("user@example.org").configure_cert(client)
    certifying.configure_trust(server)
    client.post_handshake_auth = server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_REQUIRED
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    ours = TlsStream(connected, client, server_hostname=HOST)
    peer = TlsPeer(accepted, server, server_side=True, keys=keys)
    await both(ours.do_handshake, peer.do_handshake)
    peer.engine.verify_client_post_handshake()
    peer.engine.do_handshake()
    assert peer.engine.getpeercert() is None
    await peer.send(peer.take() + peer.encrypt(b"hello"))
    assert await ours.receive_some() == b"hello"
    while peer.engine.getpeercert() is None:
        peer.decrypt(bytes(await peer.stream.receive_some()))


def updates(peer: TlsPeer) -> bytes:
    """Return requests for new keys. OpenSSL answers the first when it gets the second."""
    return peer.key_update(is_requested=True) + peer.key_update(is_requested=True)


@SIDES
async def test_decrypt_full_socket_asks_to_send_answer(side: str, keys: Path) -> None:
    async def receive_up_to(last: bytes) -> None:
        received = b""
        while not received.endswith(last):
            received += peer.decrypt(bytes(await peer.stream.receive_some()))

    ours, peer = await open_with_peer(side, keys)
    asked: list[str] = []
    ours.on_unsent(lambda: asked.append("asked"))
    ours.feed(updates(peer))
    await ours.send_all(b"one")
    await receive_up_to(b"one")
    assert asked == []  # the socket has taken the answer
    left = await fill(ours.transport_stream)
    ours.feed(updates(peer))
    ours.feed(updates(peer))
    assert asked == ["asked"]
    assert ours.send_now([b"two"]) == (0, [b"two"])  # the answer precedes the data
    while left:
        left -= len(await peer.stream.receive_some(left))
    await ours.send_all(b"two")
    await receive_up_to(b"two")


async def test_feed_many_records_decrypts_some(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    updates = b"".join(peer.key_update(is_requested=False) for _ in range(1000))
    small = b"".join(peer.record(DATA, b"x") for _ in range(1000))
    fed = [ours.feed(updates + small)]
    while ours.engine.has_more:
        fed.append(ours.feed_again())
    assert len(fed) == 8  # 256 records each
    assert [len(plain or b"") for plain in fed] == [0, 0, 0, 24, 256, 256, 256, 208]
    assert ours.is_drained


async def test_feed_again_with_a_request_for_new_keys_sends_the_answer(keys: Path) -> None:
    ours, peer = await open_with_peer("client", keys)
    many = b"".join(peer.key_update(is_requested=False) for _ in range(300))
    assert ours.feed(many + updates(peer)) is None
    while ours.engine.has_more:
        assert ours.feed_again() is None
    answer = bytes(await peer.stream.receive_some())  # though nothing was sent
    assert peer.decrypt(answer) == b""
    await ours.send_all(b"x")
    assert peer.decrypt(bytes(await peer.stream.receive_some())) == b"x"


async def test_receive_some_with_many_records_lets_other_tasks_run(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    updates = b"".join(peer.key_update(is_requested=False) for _ in range(2000))
    await peer.send(updates + peer.record(DATA, b"the end"))
    async with turns_of_another() as turns:
        assert await ours.receive_some() == b"the end"
        assert turns() >= 4


async def serve_peer(
    nursery: trio.Nursery, keys: Path
) -> tuple[WebSocketConnection, TlsStream, TlsPeer]:
    """Open a server's connection. Yield it, its stream and its peer."""
    ours, peer = await open_with_peer("server", keys)
    await peer.send(peer.record(DATA, REQUEST))
    ws = await (await wrap_server_stream(nursery, ours)).accept()
    response = b""
    while b"\r\n\r\n" not in response:
        response += peer.decrypt(bytes(await peer.stream.receive_some()))
    return ws, ours, peer


async def test_get_message_after_many_records_lets_other_tasks_run(
    nursery: trio.Nursery, keys: Path
) -> None:
    ws, _, peer = await serve_peer(nursery, keys)
    updates = b"".join(peer.key_update(is_requested=False) for _ in range(2000))
    message = peer.record(DATA, frame(TEXT, b"the end", mask=True))
    await peer.send(updates + message)
    async with turns_of_another() as turns:
        assert await ws.get_message() == "the end"
        assert turns() >= 4


async def test_send_message_full_socket_sends_tls_answer_later(
    nursery: trio.Nursery, keys: Path
) -> None:
    ws, ours, peer = await serve_peer(nursery, keys)
    left = await fill(ours.transport_stream)
    await peer.send(updates(peer) + updates(peer) + peer.record(DATA, frame(TEXT, b"x", mask=True)))
    assert await ws.get_message() == "x"
    while left:
        left -= len(await peer.stream.receive_some(left))
    answer = bytes(await peer.stream.receive_some())  # though nothing was sent
    assert peer.decrypt(answer) == b""
    await ws.send_message("y")
    assert peer.decrypt(bytes(await peer.stream.receive_some())) == frame(TEXT, b"y")


async def test_read_many_records_gives_following_data(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    updates = b"".join(peer.key_update(is_requested=False) for _ in range(1000))
    await peer.send(updates + peer.record(DATA, b"the end"))
    assert await Transport(ours, None).read() == b"the end"


async def test_do_handshake_many_records_works(keys: Path) -> None:
    client, server = contexts()
    client.set_alpn_protocols(["x" * 200, "y" * 200])  # makes the first message long
    connected, accepted = await tcp_pair()
    assert isinstance(accepted, trio.SocketStream)
    ours = TlsStream(accepted, server, server_side=True)
    peer = TlsPeer(connected, client, server_side=False, keys=keys)
    with pytest.raises(ssl.SSLWantReadError):
        peer.engine.do_handshake()
    hello = peer.take()
    head = hello[:3] + b"\x00\x01"
    await peer.send(b"".join(head + hello[i : i + 1] for i in range(5, len(hello))))
    await both(ours.do_handshake, peer.do_handshake)
    assert ours.is_open


@SIDES
async def test_send_all_writes_tls_answer_too(side: str, keys: Path) -> None:
    ours, peer = await open_with_peer(side, keys)
    data = bytes(2**20)
    plain = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, data)
        await wait_all_tasks_blocked()
        ours.feed(updates(peer))
        while len(plain) < len(data):
            plain += peer.decrypt(bytes(await peer.stream.receive_some()))
    assert plain == data
    assert ours.engine.encrypt(b"") == b""


@pytest.mark.parametrize("name", [HOST, HOST + ".", HOST + "%zone"])
async def test_server_hostname_is_sent_without_dot_or_zone(name: str) -> None:
    client, server = contexts()
    names: list[object] = []
    server.sni_callback = lambda _, name, __: names.append(name)
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    ours = TlsStream(connected, client, server_hostname=name)
    theirs = trio.SSLStream(accepted, server, server_side=True)
    await both(ours.do_handshake, theirs.do_handshake)
    assert names == [HOST]


@pytest.mark.parametrize("rest", [1, 4, 5, 6, 20])
async def test_feed_with_a_record_cut_anywhere_keeps_its_beginning(keys: Path, rest: int) -> None:
    ours, peer = await open_with_peer("client", keys)
    records = peer.record(DATA, b"one") + peer.record(DATA, b"two")
    assert ours.feed(records[:-rest]) == b"one"
    assert not ours.engine.has_more
    assert ours.feed(records[-rest:]) == b"two"
    assert ours.is_drained


async def test_do_handshake_keeps_records_after_it(keys: Path) -> None:
    ours, peer = await with_peer("server", keys)

    async def send_much() -> None:
        await peer.do_handshake()
        await peer.send(b"".join(peer.record(DATA, b"%03d" % number) for number in range(900)))

    await both(ours.do_handshake, send_much)
    received = b""
    while len(received) < 2700:
        received += await ours.receive_some()
    assert received == b"".join(b"%03d" % number for number in range(900))


@SIDES
async def test_receive_some_renegotiation_ends_connection(side: str, keys: Path) -> None:
    ours, peer = await open_with_peer(side, keys, TLS_1_2)
    hello_request = bytes(4)
    request = peer.client_hello if side == "server" else hello_request
    await peer.send(peer.record(DATA, b"the last words") + peer.record(HANDSHAKE, request))
    assert await ours.receive_some() == b"the last words"
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="renegotiate"):
            await ours.receive_some()
    with pytest.raises(ssl.SSLError, match="renegotiate"):
        await ours.send_all(b"x")
    await ours.aclose()


# -- the end


@VERSIONS
@SIDES
async def test_receive_some_close_notify_is_end(side: str, version: ssl.TLSVersion) -> None:
    ours, theirs = await open_streams(side, version)
    await theirs.send_all(b"x")
    await theirs.aclose()
    assert await receive_all(ours) == b"x"
    assert ours.engine.is_ended
    for _ in range(3):
        assert await ours.receive_some() == b""
    await ours.aclose()


@VERSIONS
async def test_receive_some_data_after_close_notify_is_ignored(
    keys: Path, version: ssl.TLSVersion
) -> None:
    ours, peer = await open_with_peer("server", keys, version)
    records = [(DATA, b"x"), (ALERT, b"\1\0"), (DATA, b"y")]  # the alert is close_notify
    await peer.send(b"".join(peer.record(kind, payload) for kind, payload in records))
    assert await receive_all(ours) == b"x"
    assert await ours.receive_some() == b""
    assert peer.decrypt(ours.engine.encrypt(b"our side goes on")) == b"our side goes on"


@VERSIONS
@pytest.mark.parametrize("is_cut", [False, True])
async def test_receive_some_eof_without_notify_is_end(
    keys: Path, version: ssl.TLSVersion, is_cut: bool
) -> None:
    ours, peer = await open_with_peer("server", keys, version)
    await peer.send(peer.encrypt(b"x") + peer.encrypt(b"y")[: 10 * is_cut])
    await peer.stream.aclose()
    assert await receive_all(ours) == b"x"
    assert await ours.receive_some() == b""


@SIDES
async def test_receive_some_reset_raises(side: str) -> None:
    ours, theirs = await open_streams(side)
    reset(theirs.transport_stream)
    with pytest.raises(ConnectionResetError):
        await ours.receive_some()
    await ours.aclose()


@VERSIONS
@SIDES
async def test_send_eof_ends_one_side(side: str, version: ssl.TLSVersion) -> None:
    ours, theirs = await open_streams(side, version)
    for _ in range(2):
        await ours.send_eof()
    assert await theirs.receive_some() == b""
    with pytest.raises(ssl.SSLError):
        ours.engine.encrypt(b"x")
    await theirs.send_all(b"one")
    await theirs.send_all(b"two")
    await theirs.aclose()
    assert await receive_all(ours) == b"onetwo"
    await ours.aclose()


async def test_send_eof_by_both_sides_ends_both(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    await ours.send_eof()
    peer.decrypt(await peer.receive())
    peer.engine.unwrap()
    await peer.send(peer.take())
    for _ in range(2):
        assert await ours.receive_some() == b""


@VERSIONS
@SIDES
async def test_aclose_sends_close_notify(side: str, version: ssl.TLSVersion) -> None:
    ours, theirs = await open_streams(side, version)
    await ours.send_all(b"x")
    for _ in range(2):
        await ours.aclose()
    assert await receive_all(theirs) == b"x"  # without close_notify, Trio would raise
    with pytest.raises(OSError, match="Bad file descriptor"):
        await ours.receive_some()


async def test_aclose_cancelled_sends_close_notify() -> None:
    ours, theirs = await open_streams("server")
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose()
    assert ours.transport_stream.socket.fileno() == -1
    assert await receive_all(theirs) == b""


async def test_aclose_unread_does_not_wait() -> None:
    ours, theirs = await open_streams("server")
    await fill(ours.transport_stream)
    start = trio.current_time()
    await ours.aclose()
    assert trio.current_time() - start < 30
    assert ours.transport_stream.socket.fileno() == -1
    await theirs.transport_stream.aclose()


def drain(stream: trio.abc.Stream) -> bytes:
    """Read everything that has arrived, without waiting."""
    assert isinstance(stream, trio.SocketStream)
    chunks = []
    with contextlib.suppress(BlockingIOError):
        while True:
            chunks.append(os.read(stream.socket.fileno(), MEGABYTE))
    return b"".join(chunks)


async def test_aclose_during_send_all_writes_nothing_twice(
    keys: Path, nursery: trio.Nursery
) -> None:
    ours, peer = await open_with_peer("server", keys)
    data = bytes(8 * MEGABYTE)
    call = Call(nursery, ours.send_all, data)
    await trio.testing.wait_all_tasks_blocked()
    received = drain(peer.stream)  # now the socket is writable, but the other task doesn't know
    ours.close()
    with pytest.raises(trio.ClosedResourceError):
        await call.result()
    received += await receive_all(peer.stream)
    assert data.startswith(peer.decrypt(received))  # no part of a record is repeated


async def test_send_eof_during_send_all_tears_no_record(keys: Path, nursery: trio.Nursery) -> None:
    ours, peer = await open_with_peer("server", keys)
    data = bytes(8 * MEGABYTE)
    call = Call(nursery, ours.send_all, data)
    await trio.testing.wait_all_tasks_blocked()
    plain = peer.decrypt(drain(peer.stream))
    with pytest.raises(trio.BusyResourceError):
        await ours.send_eof()
    while len(plain) < len(data):
        plain += peer.decrypt(bytes(await peer.stream.receive_some()))
    await call.result()
    assert plain == data


@pytest.mark.parametrize("is_begun", [False, True])
async def test_aclose_before_handshake_sends_nothing(is_begun: bool) -> None:
    ours, raw = await with_raw("client")
    if is_begun:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    await ours.send_eof()
    await ours.aclose()
    assert bool(await receive_all(raw)) == is_begun


async def test_aclose_during_receive_some_ends_it(nursery: trio.Nursery) -> None:
    ours, theirs = await open_streams("server")
    call = Call(nursery, ours.receive_some)
    await trio.testing.wait_all_tasks_blocked()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await call.result()
    await theirs.transport_stream.aclose()


# -- faults


@SIDES
@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100)], ids=["HTTP", "zeros"])
async def test_do_handshake_garbage_raises(side: str, garbage: bytes) -> None:
    ours, raw = await with_raw(side)
    await raw.send_all(garbage)
    with pytest.raises(ssl.SSLError):
        await ours.do_handshake()
    await ours.aclose()
    await receive_all(raw)


@SIDES
async def test_do_handshake_garbage_sends_alert(side: str) -> None:
    ours, raw = await with_raw(side)
    await raw.send_all(b"\x16\3\1\0\5xxxxx")
    with pytest.raises(ssl.SSLError):
        await ours.do_handshake()
    await ours.transport_stream.aclose()
    assert (await receive_all(raw))[-7:-5] == bytes([ALERT, 3])


@VERSIONS
async def test_receive_some_data_before_garbage_is_received(
    keys: Path, version: ssl.TLSVersion
) -> None:
    ours, peer = await open_with_peer("server", keys, version)
    await peer.send(peer.encrypt(b"the last words") + b"garbage")
    assert await ours.receive_some() == b"the last words"
    for _ in range(3):
        with pytest.raises(ssl.SSLError) as caught:
            await ours.receive_some()
        assert caught.value.reason in {
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
        }  # OpenSSL 3.6
    with pytest.raises(ssl.SSLError):
        await ours.send_all(b"x")
    await ours.aclose()
    peer.take()
    with pytest.raises(ssl.SSLError) as told:
        peer.decrypt(await receive_all(peer.stream))
    assert "alert" in str(told.value).lower()


async def test_receive_some_much_data_before_garbage_is_received(keys: Path) -> None:
    ours, peer = await open_with_peer("server", keys)
    data = peer.encrypt(b"x" * 200_000) + b"garbage" * 10_000
    assert ours.engine.decrypt(data) == b"x" * 200_000
    with pytest.raises(ssl.SSLError):
        ours.engine.decrypt(data)


@VERSIONS
async def test_receive_some_any_bytes_raises_ssl_errors_only(
    keys: Path, version: ssl.TLSVersion
) -> None:
    rng = random.Random(7)
    for number in range(40):
        ours, peer = await open_with_peer("server", keys, version)
        keys.unlink()
        data = bytearray(peer.encrypt(b"x" * 50) + peer.encrypt(b"y" * 50))
        for _ in range(number % 4 + 1):
            data[rng.randrange(len(data))] = rng.randrange(256)
        received = b""
        with contextlib.suppress(ssl.SSLError):
            for i in range(0, len(data), 30):
                received += ours.engine.decrypt(bytes(data[i : i + 30]))
        assert (b"x" * 50 + b"y" * 50).startswith(received)
        await ours.aclose()
        await peer.stream.aclose()


@VERSIONS
async def test_receive_some_alert_raises(keys: Path, version: ssl.TLSVersion) -> None:
    ours, peer = await open_with_peer("client", keys, version)
    await peer.send(peer.record(ALERT, bytes([2, 80])))
    with pytest.raises(ssl.SSLError, match="internal error"):
        await ours.receive_some()


@VERSIONS
@pytest.mark.parametrize("fault", ["authority", "name"])
async def test_do_handshake_untrusted_certificate_sends_alert(
    version: ssl.TLSVersion, fault: str
) -> None:
    async def refuse() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ours.do_handshake()
        await ours.aclose()

    async def learn_why() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await theirs.do_handshake()
        assert "alert" in str(caught.value.__cause__).lower()

    client, server = contexts(version)
    connected, accepted = await tcp_pair()
    assert isinstance(connected, trio.SocketStream)
    if fault == "authority":
        ours = TlsStream(connected, ssl.create_default_context(), server_hostname=HOST)
    else:
        ours = TlsStream(connected, client, server_hostname="other.example")
    theirs = trio.SSLStream(accepted, server, server_side=True)
    await both(refuse, learn_why)


@VERSIONS
async def test_receive_some_certificate_required_raises(
    version: ssl.TLSVersion,
) -> None:
    async def refuse() -> None:
        with pytest.raises(ssl.SSLError) as caught:
            await ours.do_handshake()
        assert caught.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        await ours.aclose()

    async def learn_why() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await theirs.receive_some()
        assert "alert" in str(caught.value.__cause__).lower()

    client, server = contexts(version)
    server.verify_mode = ssl.CERT_REQUIRED
    authority()[0].configure_trust(server)
    connected, accepted = await tcp_pair()
    assert isinstance(accepted, trio.SocketStream)
    ours = TlsStream(accepted, server, server_side=True)
    theirs = trio.SSLStream(connected, client, server_hostname=HOST)
    await both(refuse, learn_why)


@SIDES
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_do_handshake_peer_leaves_raises(side: str, ending: str) -> None:
    async def leave() -> None:
        if side == "client":
            await raw.receive_some()
        if ending == "close":
            await raw.aclose()
        else:
            reset(raw)

    ours, raw = await with_raw(side)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        if ending == "close":
            text = "the peer closed the connection during the TLS handshake"
            with pytest.raises(ConnectionAbortedError, match=text):
                await ours.do_handshake()
        else:
            with pytest.raises(ConnectionResetError):
                await ours.do_handshake()
    await ours.aclose()


async def test_tls_stream_context_of_wrong_side_raises() -> None:
    _, raw = await with_raw("client")
    with pytest.raises(ValueError, match="check_hostname"):
        TlsStream(raw, contexts()[0])


# -- cancellation


async def test_receive_some_cancelled_loses_nothing() -> None:
    ours, theirs = await open_streams("server")
    data = bytes(range(256)) * 400
    rng = random.Random(3)

    async def trickle() -> None:
        sent = 0
        while sent < len(data):
            size = rng.randrange(1, 3000)
            await theirs.send_all(data[sent : sent + size])
            sent += size

    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        while len(received) < len(data):
            for kind in (0, 1):
                with trio.CancelScope() as scope:
                    if kind:
                        nursery.start_soon(_cancel_later, scope, rng.randrange(3))
                    else:
                        scope.cancel()
                    received += await ours.receive_some(rng.randrange(1, 2000))
    assert received == data


async def _cancel_later(scope: trio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@VERSIONS
@SIDES
async def test_do_handshake_cancelled_can_continue(
    side: str, version: ssl.TLSVersion, nursery: trio.Nursery
) -> None:
    ours, theirs = await streams(side, version)
    for _ in range(2):
        with trio.move_on_after(0.01) as scope:
            await ours.do_handshake()
        assert scope.cancelled_caught
    nursery.start_soon(theirs.do_handshake)
    turns = 0
    while not ours.is_open:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_later, scope, turns)
            await ours.do_handshake()
        turns += 1
    await ours.send_all(b"hello")
    assert await receive(theirs, 5) == b"hello"


async def test_do_handshake_cancelled_in_write_can_continue(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await streams("client")
    raw = theirs.transport_stream
    size = await fill(ours.transport_stream)
    for _ in range(2):
        with trio.move_on_after(0.01) as scope:
            await ours.do_handshake()
        assert scope.cancelled_caught
    nursery.start_soon(ours.do_handshake)
    while size:
        size -= len(await raw.receive_some(min(size, 2**16)))
    await theirs.do_handshake()
    await theirs.send_all(b"hello")
    assert await ours.receive_some() == b"hello"


# -- memory


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Check that no object of the library, and no error, is left for the garbage collector."""
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        found = [x for x in gc.garbage if isinstance(x, (TlsStream, ssl.SSLObject, BaseException))]
        assert found == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()


@VERSIONS
@pytest.mark.parametrize("ending", ["close", "garbage", "renegotiation", "reset", "refusal"])
def test_tls_stream_leaves_no_garbage(keys: Path, version: ssl.TLSVersion, ending: str) -> None:
    async def main() -> None:
        ours, peer = await with_peer("server", keys, version)
        if ending != "refusal":
            await both(ours.do_handshake, peer.do_handshake)
            await ours.send_all(b"x")
            await peer.receive()
            await peer.send(peer.record(DATA, b"x"))
            await ours.receive_some()
        if ending == "reset":
            reset(peer.stream)
        elif ending == "close":
            await peer.stream.aclose()
        elif ending == "renegotiation":  # not in TLS 1.3
            await peer.send(peer.record(HANDSHAKE, peer.client_hello))
        else:
            await peer.send(b"garbage")
        with contextlib.suppress(OSError):
            await ours.receive_some()
        await ours.aclose()
        await peer.stream.aclose()

    with no_garbage():
        trio.run(main)


# -- callers that read the socket themselves


@SIDES
async def test_feed_takes_what_was_read(side: str) -> None:
    ours, theirs = await open_streams(side)
    await theirs.send_all(b"data")
    data = await ours.transport_stream.receive_some()
    if side == "client":
        plain = ours.feed(data)
        while plain is None:  # tickets
            plain = ours.feed(await ours.transport_stream.receive_some())
        assert plain == b"data"
    else:
        assert ours.feed(data[:10]) is None
        assert ours.feed_again() is None
        assert ours.feed(data[10:]) == b"data"
    assert ours.is_drained
    assert ours.feed_again() is None


@SIDES
async def test_receive_some_end_after_data_comes_next(side: str) -> None:
    ours, theirs = await open_streams(side)
    await theirs.send_all(b"data")
    await theirs.aclose()
    plain = b""
    while True:
        data = await ours.transport_stream.receive_some()
        if not data:
            break
        plain += ours.feed(data) or b""
    assert plain == b"data"
    assert ours.engine.is_ended
    assert ours.feed_again() == b""


@SIDES
async def test_receive_some_fault_after_data_raises_next(side: str) -> None:
    ours, theirs = await open_streams(side)
    await theirs.send_all(b"data")
    await theirs.transport_stream.send_all(b"garbage" * 10)
    await theirs.transport_stream.aclose()
    plain = b""
    with pytest.raises(ssl.SSLError):
        while True:
            data = await ours.transport_stream.receive_some()
            again = ours.feed(data) if data else ours.feed_again()
            plain += again or b""
    assert plain == b"data"
    with pytest.raises(ssl.SSLError):
        ours.feed_again()
