"""Messages that are sent, or received, in pieces."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import sys
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    TypeVar,
    Union,
)

import trio

from .._io.cancel import cancel
from .._io.interrupt import call_unprotected
from .._io.pacing import run_in_thread
from .._sansio.compat import Buffer, Self
from .._sansio.errors import MessageTypeError, safe_repr
from .._sansio.frame_writer import COMPRESSED_AT_ONCE, LONG_TO_COMPRESS
from .._sansio.frames import check_utf8
from .._sansio.protocol import MessageChunk
from .receiver import Receiver

if sys.version_info < (3, 10):  # pragma: no cover # coverage is measured on a newer one
    from async_generator import aclosing
else:
    from contextlib import aclosing

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

    from .connection import WebSocketConnection

# Iterating over a file gives lines of any size, and reads in the event loop.
_FILE_ERROR = (
    "message must not be a file object, which would be sent line by line, not {!r:.100}. "
    "Open the file with trio.open_file(path, 'rb'), and send an async generator that yields "
    "the chunks of `await file.read(65536)` until one is empty"
)
_PIECE = 8  # what it costs to send one, as a `CheckpointBudget` counts

Message = Union[str, Buffer]
_Chunk_co = TypeVar("_Chunk_co", covariant=True)  # str, bytes, or either


class MessageStream(AsyncIterator[_Chunk_co]):
    """A message that is received in pieces; see :meth:`WebSocketConnection.receive_stream`."""

    def __init__(self, receiver: Receiver, max_size: float | None, decode: bool | None) -> None:
        """
        :param inbox: Where the message is to come from.
        :param max_size: Bytes that it may have.
        :param decode: True for chunks of str, False for bytes, None for the type of the message.
        """
        self._receiver = receiver
        self._max_size = max_size
        self._piece: MessageChunk | None = None
        self._is_entered = self._is_open = False
        self._turn = trio.StrictFIFOLock()  # of the tasks that wait for a piece
        self._waiting = trio.CancelScope()  # of the one that has it
        self._decode = decode
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # of a binary message as str
        #: True if the message is text. The chunks are str, unless ``decode`` says otherwise. It is
        #: known in the block.
        self.is_text: bool = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("this is for one message: receive_stream() gives the next")
        self._is_entered = True
        self._piece = await self._receiver.begin_stream(self._max_size)
        self.is_text = isinstance(self._piece.data, str)
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
        if self._turn.locked():
            # It would take a piece of the next message.
            cancel(self._waiting, "the block of receive_stream() has ended")
            with trio.CancelScope(shield=True):  # all of them leave at once
                await self._turn.acquire()
                self._turn.release()
        self._receiver.end_stream()

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> _Chunk_co:
        """The next piece. It is never empty, and a character of a text is never split.

        Each piece goes to one of the tasks that wait for it. If cancelled, no piece is lost.

        :raises ConnectionClosed: The connection ended in the middle of the message.
        :raises UnicodeDecodeError: The chunks of a binary message are to be str, and the message is
            not UTF-8. Each further call raises it, too.
        """
        if self._turn.locked():
            await self._turn.acquire()
        else:
            self._turn.acquire_nowait()
        try:
            chunk: Any = await self._next_chunk()
            return chunk  # type: ignore[no-any-return] # the type follows from `decode`
        finally:
            self._turn.release()

    async def _next_chunk(self) -> str | bytes:
        if not self._is_open:
            raise _out_of_block()
        while True:
            if self._piece is None:
                with trio.CancelScope() as self._waiting:
                    self._piece = await self._receiver.next_chunk()
                if self._piece is None:
                    raise _out_of_block()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            data, is_last = self._piece
            chunk = self._converted(data, is_last)
            if chunk:
                self._piece = MessageChunk(data[:0], is_last=True) if is_last else None
                return chunk
            if is_last:
                raise StopAsyncIteration
            self._piece = None

    def _converted(self, data: str | bytes, is_last: bool) -> str | bytes:
        """Return a chunk of the type that was asked for."""
        if self._decode is None or self._decode == isinstance(data, str):
            return data
        if isinstance(data, str):
            return data.encode()
        return self._utf8.decode(data, is_last)


def _out_of_block() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("pieces are received in the block of receive_stream()")


def is_buffer(message: object) -> TypeGuard[Buffer]:
    """Whether its bytes can be had."""
    try:
        memoryview(message)  # type: ignore[arg-type] # which is the question
    except TypeError:
        return False
    return True


def encoded(message: object, text: bool | None) -> tuple[bool, bytes] | None:
    """Whether a message is a text, and its payload; None if it is neither str nor bytes-like.

    :raises UnicodeDecodeError: Bytes that are to be text are not UTF-8.
    """
    if isinstance(message, str):
        return text is not False, message.encode()
    if not is_buffer(message):
        return None
    payload = bytes(memoryview(message))
    if text:
        check_utf8(payload)
    return bool(text), payload


async def send_fragments(
    connection: WebSocketConnection, message: object, text: bool | None, *, compress: bool
) -> None:
    """Send an iterable, or async iterable, as one message; see `send_message`."""
    check_no_file(message)
    if isinstance(message, AsyncIterable):
        pieces = message.__aiter__()
    elif isinstance(message, Iterable) and not isinstance(message, Mapping):
        pieces = _each(message)
    else:
        kinds = "str or bytes-like, or an iterable of such pieces"
        raise MessageTypeError(f"a message is {kinds}, not {message!r:.100}")
    closable: Any = pieces
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(pieces, "aclose"):
            await stack.enter_async_context(aclosing(closable))
        await connection._budget.checkpoint()
        async with connection._sender:  # other messages wait
            await _FragmentedSend(connection, text, compress).send(pieces)


def check_no_file(message: object) -> None:
    """Raise if the message is a file object, also an asynchronous one of `trio.open_file`."""
    if isinstance(message, io.IOBase) or callable(getattr(message, "read", None)):
        raise MessageTypeError(_FILE_ERROR.format(message))


async def _each(pieces: Iterable[Any]) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


class _FragmentedSend:
    """A message on its way out."""

    def __init__(self, connection: WebSocketConnection, text: bool | None, compress: bool) -> None:
        self._connection = connection
        self._text = text
        self._compress = compress
        self._kind: type[str | bytes] | None = None  # of the pieces
        self._is_begun = False
        self._size = 0  # bytes of the pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # checks bytes that are to be text

    async def send(self, pieces: AsyncIterator[Any]) -> None:
        try:
            await self._connection._check_open()
            while True:
                try:
                    piece = await call_unprotected(pieces.__anext__)
                except StopAsyncIteration:
                    break
                await self._append(self._payload(piece), is_last=False)
            await self._append(b"", is_last=True)
        except BaseException as exc:
            if self._is_begun and self._connection._can_close:
                what = safe_repr(exc) if isinstance(exc, Exception) else "cancelled"
                text = "a message was broken off half-way"
                error = ConnectionAbortedError(f"{text}: {what:.200}")
                self._connection._give_up(1011, text, error)  # what it was is not for the peer
            raise
        await self._connection._wait_accepted(self._size)

    def _payload(self, piece: object) -> bytes:
        if not isinstance(piece, str) and not is_buffer(piece):
            raise MessageTypeError(f"a piece of a message is str or bytes-like, not {piece!r:.100}")
        kind = str if isinstance(piece, str) else bytes
        if self._kind not in (None, kind):
            raise MessageTypeError("the pieces of a message are all str, or all bytes-like")
        self._kind = kind
        return piece.encode() if isinstance(piece, str) else bytes(memoryview(piece))

    async def _append(self, payload: bytes, *, is_last: bool) -> None:
        is_text = self._kind is str if self._text is None else self._text
        if is_text and self._kind is not str:
            self._utf8.decode(payload, is_last)
        connection = self._connection
        await connection._budget.checkpoint(_PIECE)
        await connection._send_queue.wait_room()
        await connection._check_open()
        fragment = functools.partial(
            connection._protocol.fragment,
            is_text,
            payload,
            is_first=not self._is_begun,
            is_last=is_last,
            compress=self._compress,
        )
        is_compressed = self._compress and connection.compression is not None
        if is_compressed and len(payload) >= LONG_TO_COMPRESS:
            frame = await run_in_thread(fragment)
            await connection._check_open()
        else:
            frame = fragment()
            if is_compressed:
                connection._budget.remaining -= len(payload) // COMPRESSED_AT_ONCE
        connection._send_queue.append(frame)
        self._size += len(payload)
        self._is_begun = True
