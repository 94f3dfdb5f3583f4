"""A peer that checks every frame it receives."""

from __future__ import annotations

import collections
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Callable, Union

import trio

from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, frame, parse_frame
from support.peer import REQUEST, accepting
from support.streams import reset

if TYPE_CHECKING:
    from trio.abc import Stream

Message = Union[str, bytes]

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Violation(Exception):
    """A promise was broken."""


class Gone(Exception):
    """The peer waits for something that can't happen any more."""


class StrictPeer:
    """The peer of the connection under test. It follows the protocol.

    It always reads, unless told to pause. A separate task writes the queued data.
    """

    def __init__(self, *, is_client: bool, echoes: bool = False, trickles: bool = False) -> None:
        """
        :param is_client: True if this is the client.
        :param echoes: True if it sends messages back.
        :param trickles: True if it writes short data one byte at a time.
        """
        self.is_client = is_client
        self.head = b""  # our side's head in the opening handshake
        self.body = b""  # the body, if it was a rejection
        self.frames: list[Frame] = []
        self.messages: list[Message] = []
        self.pongs: list[bytes] = []
        self.is_started = False
        self.is_open = False
        self.is_torn = False  # True if the stream ended inside a frame or message
        self.may_be_broken_off = False  # True if the last fragment of a message may be missing
        self.is_over = False
        # Settings, see `change`.
        self.response: Callable[[bytes], bytes] = accepting
        self.reads = True
        self.answers_pings = True
        self._fault: str | None = None
        self._echoes = echoes
        self._trickles = trickles
        self._has_sent_close = False
        self._received = b""
        self._fragments: list[Frame] = []
        self._outgoing: collections.deque[bytes] = collections.deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._reading = trio.CancelScope()

    async def run(self, stream: Stream) -> None:
        """Be the peer, until the end of the stream."""
        self._stream = stream
        self.is_started = True
        if self._fault is not None:
            self.strike(self._fault)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                self.change(is_over=True)
        finally:
            await trio.aclose_forcefully(stream)

    def change(self, **facts: object) -> None:
        """Change attributes, and wake the tasks that depend on them."""
        self.__dict__.update(facts)
        self._changed.unpark_all()

    async def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true.

        :raises Gone: The connection ended before.
        """
        while not condition():
            if self.is_over:
                raise Gone
            await self._changed.park()

    async def wait_over(self) -> None:
        """Wait until the connection under test has closed the stream."""
        while not self.is_over:
            await self._changed.park()

    def strike(self, fault: str) -> None:
        """Apply a fault to the socket, now or when it is connected."""
        self._fault = fault
        if not self.is_started or self.is_over:
            return
        stream: Any = self._stream
        while not isinstance(stream, trio.SocketStream):
            is_tls = isinstance(stream, trio.SSLStream)
            stream = stream.transport_stream if is_tls else stream.stream
        if fault == "reset":
            reset(stream)
        elif fault == "eof":
            with contextlib.suppress(OSError):
                stream.socket.shutdown(socket.SHUT_WR)
        else:
            self._reading.cancel()
        self.change()

    # -- writing

    def queue(self, *writes: bytes) -> None:
        """Send each argument in a separate write, but nothing after a Close frame."""
        if not self._has_sent_close:
            self._outgoing.extend(writes)
            self.change()

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        """Return the bytes of a frame."""
        return frame(opcode, payload, fin=fin, mask=self.is_client)

    def queue_message(self, message: Message, pieces: int = 1) -> None:
        """Send a message in this number of frames."""
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        size = -(-len(payload) // pieces)
        for index in range(pieces):
            piece = payload[index * size : (index + 1) * size]
            self.queue(self.frame(opcode, piece, fin=index == pieces - 1))
            opcode = CONTINUATION

    def queue_close(self, payload: bytes) -> None:
        """Send a Close frame, unless one was sent."""
        self.queue(self.frame(CLOSE, payload))
        self._has_sent_close = True

    async def _write(self) -> None:
        with contextlib.suppress(*_GONE):
            while not self.is_over:
                if not self._outgoing or self._fault:
                    await self._changed.park()
                    continue
                data = self._outgoing.popleft()
                size = 1 if self._trickles and len(data) < 200 else max(1, len(data))
                for start in range(0, len(data), size):
                    await self._stream.send_all(data[start : start + size])

    # -- reading

    async def _read(self) -> None:
        if self.is_client:
            self.queue(REQUEST)
        while b"\r\n\r\n" not in self._received:
            if not await self._receive():
                return
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self.head = response = head + b"\r\n\r\n"
        if not self.is_client:
            response = self.response(self.head)
            self.queue(response)
        self.change(is_open=response.startswith(b"HTTP/1.1 101 "))
        self._take_apart()
        while not self._is_done and await self._receive():
            self._take_apart()
        self.is_torn = bool(self._received or (self._fragments and not self.may_be_broken_off))

    @property
    def _is_done(self) -> bool:
        """True if the peer may close the stream."""
        if not self.is_open:
            return f"ength: {len(self.body)}\r\n".encode() in self.head
        if self.is_client:  # the server closes the stream first (RFC 6455, 7.1.1)
            return False
        has_received_close = bool(self.frames) and self.frames[-1].opcode == CLOSE
        return has_received_close and self._has_sent_close and not self._outgoing

    async def _receive(self) -> bool:
        while not self.reads:
            await self._changed.park()
        data: bytes | bytearray = b""
        with trio.CancelScope() as self._reading, contextlib.suppress(*_GONE):
            data = await self._stream.receive_some(2**16)
        if self._fault == "silence":
            await trio.sleep_forever()
        self._received += data
        return bool(data)

    def _take_apart(self) -> None:
        if not self.is_open:
            self.body, self._received = self.body + self._received, b""
        while True:
            parsed = parse_frame(self._received)
            if parsed is None:
                return
            found, is_masked, size = parsed
            wrong = self._judge(found, is_masked=is_masked, size=size)
            if wrong:
                raise Violation(f"the peer saw {wrong}: {self._received[:20]!r}")
            self._received = self._received[size:]
            self.frames.append(found)
            self._answer(found)
            self.change()

    def _judge(self, found: Frame, *, is_masked: bool, size: int) -> str | None:
        """Return what is wrong with a frame (RFC 6455, 5), or None."""
        opcode, payload, fin, rsv = found
        length = len(payload)
        extended = 0 if length < 126 else 2 if length < 2**16 else 8
        if is_masked == self.is_client:
            return "a mask where none belongs, or none where one belongs"
        if rsv or size != 2 + extended + 4 * is_masked + length:
            return "reserved bits, or a length that is not the shortest"
        if self.frames and self.frames[-1].opcode == CLOSE:
            return "a frame behind a Close frame"
        if opcode in (CLOSE, PING, PONG):
            return None if fin and length < 126 else "a control frame that is none"
        if opcode not in (CONTINUATION, TEXT, BINARY):
            return "an unknown opcode"
        return None if (opcode == CONTINUATION) == bool(self._fragments) else "a fragment astray"

    def _answer(self, found: Frame) -> None:
        if found.opcode == PING:
            if self.answers_pings:
                self.queue(self.frame(PONG, found.payload))
        elif found.opcode == PONG:
            self.pongs.append(found.payload)
        elif found.opcode == CLOSE:
            self.queue_close(found.payload)
        else:
            self._fragments.append(found)
            if found.fin:
                self._finish_message()

    def _finish_message(self) -> None:
        data = b"".join(piece.payload for piece in self._fragments)
        message = data.decode() if self._fragments[0].opcode == TEXT else data
        self._fragments = []
        self.messages.append(message)
        if self._echoes:
            self.queue_message(message)
