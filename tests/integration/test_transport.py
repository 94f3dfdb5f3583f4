from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from support.streams import (
    PAIRS,
    WrappedStream,
    memory_pair,
    own_tls_pair,
    reset,
    socket_pair,
    tcp_pair,
    tls_contexts,
    tls_memory_pair,
    tls_pair,
)
from support.tasks import Call
from trio_websocket import Endpoint
from trio_websocket._io.chunks import Unwritten
from trio_websocket._io.tls_stream import TlsStream
from trio_websocket._io.transport import LINGER, Transport, unwrap_network_error

if TYPE_CHECKING:
    from trio.abc import Stream


def transport(stream: Stream) -> Transport:
    return Transport(stream, None)


class FailingStream(WrappedStream):
    """A stream whose calls all fail."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise RuntimeError("receive_some")

    async def aclose(self) -> None:
        raise RuntimeError("aclose")


# -- reading and writing


@pytest.mark.parametrize(
    ("given", "asked"), [(None, 2**16 + 2**10), (4096, 2**16 + 2**10), (1, 1), (9000, 9000)]
)
async def test_read_asks_for_receive_buffer_size(given: int | None, asked: int) -> None:
    class Stream(WrappedStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            assert max_bytes == asked
            return b"read"

    ours, _ = await memory_pair()
    assert await Transport(Stream(ours), given).read() == b"read"


@pytest.mark.parametrize("kind", PAIRS)
async def test_read_at_the_end_returns_nothing(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    sending = Call(nursery, theirs.send_all, b"data")
    data = await transport(ours).read()
    assert (data, type(data)) == (b"data", bytes)
    await sending.result()
    nursery.start_soon(theirs.aclose)
    assert await transport(ours).read() == b""


@pytest.mark.parametrize("kind", PAIRS)
async def test_write_writes_everything(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    sent = bytes(10**6)
    writing = Call(nursery, transport(ours).write, sent)
    received = b""
    while len(received) < len(sent):
        received += await theirs.receive_some()
    await writing.result()
    assert received == sent


def write_now(stream: Stream, chunks: Sequence[bytes]) -> Unwritten:
    """Write more than the socket accepts, and return the rest."""
    rest = transport(stream).write_now(chunks)
    assert rest is not None
    return rest


async def test_write_now_writes_what_socket_takes() -> None:
    ours, theirs = await tcp_pair()
    sent = bytes(10**6)
    begun, (rest,) = write_now(ours, [sent])
    assert begun == 0
    assert 0 < len(rest) < len(sent)
    received = 0
    while received < len(sent) - len(rest):
        received += len(await theirs.receive_some())
    assert received == len(sent) - len(rest)


async def test_write_now_full_socket_writes_nothing() -> None:
    ours, _ = await socket_pair()
    while len(write_now(ours, [bytes(10**6)]).chunks[0]) < 10**6:
        pass
    assert write_now(ours, [b"more"]) == (0, [b"more"])


@pytest.mark.parametrize("connect", [tcp_pair, own_tls_pair], ids=["tcp", "own-tls"])
@pytest.mark.parametrize("head", [b"", b"head", b"a" * 2**16], ids=["no", "short", "long"])
async def test_write_after_write_now_writes_rest(
    nursery: trio.Nursery, connect: Callable[[], Awaitable[tuple[Stream, Stream]]], head: bytes
) -> None:
    ours, theirs = await connect()
    chunks = [chunk for chunk in (head, os.urandom(8 * 2**20)) if chunk]
    begun, rest = write_now(ours, chunks)
    assert 0 < begun + sum(map(len, rest)) <= sum(map(len, chunks))

    async def write_rest() -> None:
        if begun:
            await transport(ours).finish_begun()
        for chunk in rest:
            await transport(ours).write(chunk)

    writing = Call(nursery, write_rest)
    received = bytearray()
    while len(received) < sum(map(len, chunks)):
        received += await theirs.receive_some()
    await writing.result()
    assert received == b"".join(chunks)


async def test_write_now_peer_gone_raises() -> None:
    ours, theirs = await socket_pair()
    await theirs.aclose()
    with pytest.raises(BrokenPipeError):
        transport(ours).write_now([b"data"])


@pytest.mark.parametrize("kind", PAIRS)
async def test_write_now_other_streams_writes_nothing(kind: str) -> None:
    ours, _ = await PAIRS[kind]()
    assert transport(ours).is_direct == (kind in ("socketpair", "tcp", "own-tls"))


# -- addresses


async def test_local_and_remote_of_tcp_are_endpoints() -> None:
    ours, theirs = await tcp_pair()
    assert isinstance(ours, trio.SocketStream)
    host, port = ours.socket.getsockname()
    end = transport(ours)
    assert end.local == Endpoint(host, port, is_ssl=False)
    assert end.remote == transport(theirs).local
    assert end.local == transport(theirs).remote


async def test_local_and_remote_of_tls_are_secure() -> None:
    ours, theirs = await tls_pair()
    end = transport(ours)
    assert isinstance(end.local, Endpoint)
    assert end.local.is_ssl
    assert end.remote == transport(theirs).local


async def test_local_and_remote_of_ipv6_have_no_zone() -> None:
    class Socket(trio.socket.SocketType):
        """A socket with a link-local address, which some machines lack."""

        family = socket.AF_INET6
        type = socket.SOCK_STREAM

        def __init__(self) -> None:
            pass

        def setsockopt(self, *args: object) -> None:
            pass

        def getsockname(self) -> tuple[str, int, int, int]:
            return "fe80::1%eth0", 80, 0, 2

        getpeername = getsockname

    end = transport(trio.SocketStream(Socket()))
    assert end.local == end.remote == Endpoint("fe80::1", 80, is_ssl=False)


@pytest.mark.parametrize("kind", ["memory", "tls-memory"])
async def test_local_and_remote_of_other_streams_are_repr(kind: str) -> None:
    ours, _ = await PAIRS[kind]()
    end = transport(ours)
    assert end.local == end.remote == repr(ours)


async def test_remote_peer_gone_is_repr() -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    end = transport(ours)
    assert isinstance(end.local, Endpoint)
    assert end.remote == repr(ours)


async def test_local_and_remote_after_close_are_kept() -> None:
    ours, _ = await tcp_pair()
    end = transport(ours)
    await end.close_now()
    assert isinstance(end.remote, Endpoint)


# -- half-closing and draining


async def test_half_close_and_drain_waits_for_peer(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await memory_pair()
    hanging_up = Call(nursery, lambda: transport(ours).half_close_and_drain(peer_may_send=False))
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"still under way")
    await wait_all_tasks_blocked()
    assert not hanging_up.is_over
    await theirs.aclose()
    await hanging_up.result()


async def test_half_close_and_drain_waits_a_short_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    await transport(ours).half_close_and_drain(peer_may_send=False)
    assert trio.current_time() == pytest.approx(LINGER)
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"nobody reads")


async def test_half_close_and_drain_cancelled_closes(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    hanging_up = Call(nursery, lambda: transport(ours).half_close_and_drain(peer_may_send=False))
    await wait_all_tasks_blocked()
    await hanging_up.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"nobody reads")


async def test_half_close_and_drain_no_half_close_waits(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await memory_pair()
    hanging_up = Call(
        nursery, lambda: transport(WrappedStream(ours)).half_close_and_drain(peer_may_send=True)
    )
    await theirs.send_all(b"still under way")
    await wait_all_tasks_blocked()
    assert not hanging_up.is_over
    await theirs.aclose()
    await hanging_up.result()


async def test_half_close_and_drain_no_half_close_ended_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    await transport(WrappedStream(ours)).half_close_and_drain(peer_may_send=False)
    assert trio.current_time() == 0
    assert await theirs.receive_some() == b""


async def test_half_close_and_drain_sends_close_notify(nursery: trio.Nursery) -> None:
    ours, theirs = await tls_memory_pair(https_compatible=False)
    nursery.start_soon(lambda: transport(ours).half_close_and_drain(peer_may_send=False))
    assert await theirs.receive_some() == b""


@pytest.mark.parametrize("peer_may_send", [True, False])
async def test_half_close_and_drain_stream_raises_is_suppressed(peer_may_send: bool) -> None:
    ours, _ = await memory_pair()
    await transport(FailingStream(ours)).half_close_and_drain(peer_may_send=peer_may_send)


async def test_half_close_and_drain_reset_is_suppressed() -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    await transport(ours).half_close_and_drain(peer_may_send=True)
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


# -- closing at once


async def test_close_now_does_not_wait() -> None:
    class Stream(WrappedStream):
        async def aclose(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                await super().aclose()

    ours, theirs = await memory_pair()
    await transport(Stream(ours)).close_now()
    assert await theirs.receive_some() == b""


@pytest.mark.parametrize("is_tls", [False, True])
async def test_close_now_system_error_is_suppressed(is_tls: bool) -> None:
    for sock in await tcp_pair():
        assert isinstance(sock, trio.SocketStream)
        stream = TlsStream(sock, tls_contexts()[1], server_side=True) if is_tls else sock
        os.close(sock.socket.fileno())  # behind the library's back
        await transport(stream).close_now()
        assert sock.socket.fileno() == -1


async def test_close_now_stream_error_is_suppressed() -> None:
    ours, _ = await memory_pair()
    await transport(FailingStream(ours)).close_now()


@pytest.mark.parametrize("kind", PAIRS)
async def test_close_now_cancelled_task_goes_on(kind: str) -> None:
    ours, _ = await PAIRS[kind]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport(ours).close_now()
    assert not scope.cancelled_caught


# -- errors


async def test_unwrap_network_error_returns_os_error() -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    with pytest.raises(trio.BrokenResourceError) as excinfo:
        await ours.receive_some()
    assert isinstance(unwrap_network_error(excinfo.value), ConnectionResetError)


@pytest.mark.parametrize("exc", [trio.BrokenResourceError(), trio.ClosedResourceError(), OSError()])
def test_unwrap_network_error_without_cause_returns_it(exc: Exception) -> None:
    assert unwrap_network_error(exc) is exc


async def test_read_woken_without_data_waits(nursery: trio.Nursery) -> None:
    class Hasty(Transport):
        hastes = 1

        def read_now(self, awaited: int = 0) -> bytes | None:
            if self.hastes:
                self.hastes -= 1
                return None
            return super().read_now(awaited)

    ours, theirs = await socket_pair()
    reading = Call(nursery, Hasty(ours, None).read)
    await theirs.send_all(b"data")
    assert await reading.result() == b"data"


@pytest.mark.parametrize(
    ("size", "awaited", "most"),
    [(None, 0, 2**16 + 2**10), (None, 2**17, 2**17), (None, 2**21, 2**19), (1000, 2**20, 1000)],
)
async def test_read_larger_frame_asks_for_more(size: int | None, awaited: int, most: int) -> None:
    ours, theirs = await socket_pair()
    for stream, option in ((ours, socket.SO_RCVBUF), (theirs, socket.SO_SNDBUF)):
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, option, 2**21)
    rest = transport(theirs).write_now([bytes(2**20)])
    unwritten = 0 if rest is None else sum(map(len, rest.chunks))
    data = Transport(ours, size).read_now(awaited)
    assert data is not None
    assert len(data) == min(most, 2**20 - unwritten)


async def test_write_some_socket_not_writable_after_all_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, _ = await socket_pair()

    def write(handle: int, data: bytes) -> int:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert await Transport(ours, None).write_some(b"x") == 0
    assert await Transport(ours, None).write_some(b"x") == 1
