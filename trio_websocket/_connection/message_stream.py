"""Messages that are received in chunks."""

from __future__ import annotations

import codecs
from types import TracebackType
from typing import Any, AsyncIterator, TypeVar

import trio

from .._io.cancel import cancel
from .._sansio.compat import Self
from .._sansio.events import MessageChunk
from .receiver import Receiver

_Chunk_co = TypeVar("_Chunk_co", covariant=True)  # str, bytes, or either


class MessageStream(AsyncIterator[_Chunk_co]):
    """A message that is received in chunks; see :meth:`WebSocketConnection.receive_stream`."""

    def __init__(self, receiver: Receiver, max_size: float | None, decode: bool | None) -> None:
        """
        :param receiver: The receiver of the connection.
        :param max_size: The size limit of the message in bytes, or None for the connection's limit.
        :param decode: True for chunks of str, False for bytes, None for the type of the message.
        """
        self._receiver = receiver
        self._max_size = max_size
        self._chunk: MessageChunk | None = None
        self._is_entered = self._is_open = False
        self._lock = trio.StrictFIFOLock()  # held by the task that is waiting for a chunk
        self._waiting = trio.CancelScope()  # around that task's wait
        self._decode = decode
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # decodes a binary message to str
        #: True if the message is text. Set when the block begins. Chunks are str for a text message
        #: and bytes for a binary message, unless ``decode`` requests another type.
        self.is_text: bool = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("call receive_stream() again for the next message")
        self._is_entered = True
        self._chunk = await self._receiver.begin_stream(self._max_size)
        self.is_text = isinstance(self._chunk.data, str)
        self._is_open = True
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        if self._lock.locked():
            # Otherwise, the waiting task would receive a chunk of the next message.
            cancel(self._waiting, "the block of receive_stream() has ended")
            with trio.CancelScope(shield=True):  # the waiting tasks release the lock at once
                await self._lock.acquire()
                self._lock.release()
        self._receiver.end_stream()

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> _Chunk_co:
        """Return the next chunk. It is never empty, and it never splits a character of a text.

        If several tasks are waiting, each chunk goes to one of them. If cancelled, no chunk is
        lost.

        :raises ConnectionClosed: The connection ended in the middle of the message.
        :raises UnicodeDecodeError: With ``decode=True``, the message is binary and not valid UTF-8.
            Each further call also raises this exception.
        """
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()
        try:
            chunk: Any = await self._next_chunk()
            return chunk  # type: ignore[no-any-return] # the type follows from `decode`
        finally:
            self._lock.release()

    async def _next_chunk(self) -> str | bytes:
        if not self._is_open:
            raise _out_of_block()
        while True:
            if self._chunk is None:
                with trio.CancelScope() as self._waiting:
                    self._chunk = await self._receiver.next_chunk()
                if self._chunk is None:
                    raise _out_of_block()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            data, is_last = self._chunk
            chunk = self._converted(data, is_last)
            if chunk:
                self._chunk = MessageChunk(data[:0], is_last=True) if is_last else None
                return chunk
            if is_last:
                raise StopAsyncIteration
            self._chunk = None

    def _converted(self, data: str | bytes, is_last: bool) -> str | bytes:
        """Return a chunk, converted to the type that ``decode`` requests."""
        if self._decode is None or self._decode == isinstance(data, str):
            return data
        if isinstance(data, str):
            return data.encode()
        return self._utf8.decode(data, is_last)


def _out_of_block() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("chunks are received in the block of receive_stream()")
