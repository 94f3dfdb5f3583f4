"""Messages that are sent: whole ones as payloads, and iterables in fragments."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Union,
)

from .._io.interrupt import call_unprotected
from .._io.pacing import run_in_thread
from .._sansio.compat import Buffer
from .._sansio.errors import MessageTypeError, safe_repr
from .._sansio.frame_writer import COMPRESSED_AT_ONCE, LONG_TO_COMPRESS
from .._sansio.frames import check_utf8

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
