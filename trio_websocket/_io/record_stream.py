"""A stream below Trio's TLS that limits how many records Trio decrypts in one step."""

from __future__ import annotations

import trio

from .._sansio.costs import TLS_READ_BYTES
from .._sansio.tls_engine import HEAD_SIZE, end_of_step


class RecordStream(trio.abc.Stream):
    """A stream that returns a limited number of TLS records at a time.

    `trio.SSLStream` decrypts all data from one read without letting other tasks run, and records
    can be very short: see `TlsEngine`.

    Invariants: `_queued` begins with the head of a record. If `_missing` is not 0, `_queued` is
    empty.
    """

    def __init__(self, transport_stream: trio.abc.Stream) -> None:
        """:param transport_stream: The stream. Only this object can use it from now on."""
        self.transport_stream = transport_stream
        self._queued = b""  # bytes that have been read but not returned
        self._missing = 0  # the number of bytes missing from the last returned record

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the data."""
        await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream might accept data without blocking."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some records; ``b""`` means the end. If cancelled, this object loses no data.

        :param max_bytes: Ignored.
        """
        del max_bytes
        while True:
            data = self._queued
            if len(data) >= HEAD_SIZE:
                await trio.lowlevel.checkpoint()
            else:
                received = await self.transport_stream.receive_some(TLS_READ_BYTES)
                if not received:
                    self._queued = b""
                    return data
                data += received
            end, self._missing = end_of_step(data, self._missing)
            records, self._queued = data[:end], data[end:]
            if records:
                return records

    async def aclose(self) -> None:
        """Close the stream."""
        await self.transport_stream.aclose()
