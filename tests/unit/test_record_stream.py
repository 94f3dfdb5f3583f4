"""`RecordStream`: TLS records from any stream, a limited number at a time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from support.streams import WrappedStream
from trio_websocket._io.record_stream import RecordStream
from trio_websocket._sansio.costs import TLS_RECORDS_PER_STEP


class ChunkStream(WrappedStream):
    """A stream that returns at most so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        super().__init__(ours)
        self.sent = theirs
        self._data, self._size = data, size
        self.is_closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        assert max_bytes is not None
        size = min(self._size, max_bytes)
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + size.to_bytes(2, "big") + b"x" * size


async def read_all(stream: RecordStream) -> list[bytes]:
    parts = []
    while True:
        with trio.testing.assert_checkpoints():
            parts.append(await stream.receive_some(1))
        if not parts[-1]:
            return parts[:-1]


DATA = {
    "nothing": b"",
    "short records": record(0) * 300,
    "records": record(100) * 20 + record(2**10) * 3,
    "half a record": record(10) + record(100)[:50],
    "half a head": record(10) + record(100)[:3],
    "no TLS": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 2, 7, 2**20])
@pytest.mark.parametrize("name", DATA)
async def test_receive_some_returns_all_bytes_in_order(name: str, size: int) -> None:
    parts = await read_all(RecordStream(ChunkStream(DATA[name], size)))
    assert b"".join(parts) == DATA[name]


async def test_receive_some_returns_limited_number_of_records() -> None:
    parts = await read_all(RecordStream(ChunkStream(record(0) * 700, 2**20)))
    assert [len(part) // 5 for part in parts] == [
        TLS_RECORDS_PER_STEP,
        TLS_RECORDS_PER_STEP,
        700 - 2 * TLS_RECORDS_PER_STEP,
    ]


async def test_receive_some_cancelled_loses_nothing() -> None:
    stream = RecordStream(ChunkStream(record(0) * 700, 2**20))
    first = await stream.receive_some()
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    assert first + b"".join(await read_all(stream)) == record(0) * 700


async def test_other_methods_are_those_of_the_stream() -> None:
    transport = ChunkStream(b"", 1)
    stream = RecordStream(transport)
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"hello")
    assert await transport.sent.receive_some() == b"hello"
    await stream.aclose()
    assert transport.is_closed
