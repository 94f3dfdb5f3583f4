"""Convert messages to payloads, and send iterables as fragmented messages (RFC 6455, 5.4)."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
from typing import Any, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Union

from .._io.interrupt import call_unprotected
from .._sansio.compat import Buffer, TypeGuard
from .._sansio.errors import MessageTypeError, safe_repr
from .._sansio.frames import check_utf8
from .sender import Sender

if sys.version_info < (3, 10):  # pragma: no cover # coverage is measured on a newer Python
    from async_generator import aclosing
else:
    from contextlib import aclosing

# Iterating over a file yields lines of any size, and reading blocks the event loop.
_FILE_ERROR = (
    "message must not be a file object, which would be sent line by line, not {!r:.100}. "
    "Open the file with trio.open_file(path, 'rb'), and send an async generator that yields "
    "the chunks of `await file.read(65536)` until one is empty"
)

_BROKEN_OFF = "a message was broken off half-way"

Message = Union[str, Buffer]


def is_buffer(message: object) -> TypeGuard[Buffer]:
    """Return True if the object supports the buffer protocol."""
    try:
        memoryview(message)  # type: ignore[arg-type] # tests whether this raises
    except TypeError:
        return False
    return True


def encoded(message: object, text: bool | None) -> tuple[bool, bytes] | None:
    """Return (is_text, payload), or None if the message is not str or bytes-like.

    :raises UnicodeDecodeError: Bytes to be sent as text are not valid UTF-8.
    """
    if isinstance(message, str):
        return text is not False, message.encode()
    if not is_buffer(message):
        return None
    payload = bytes(memoryview(message))
    if text:
        check_utf8(payload)
    return bool(text), payload


def check_no_file(message: object) -> None:
    """Raise a TypeError if the message is a file object, including one from `trio.open_file`."""
    if isinstance(message, io.IOBase) or callable(getattr(message, "read", None)):
        raise MessageTypeError(_FILE_ERROR.format(message))


async def send_fragments(
    sender: Sender,
    message: object,
    text: bool | None,
    compress: bool,
    fail: Callable[[str, Exception], None],
) -> None:
    """Send an iterable or async iterable of chunks as one message.

    :param fail: `Lifecycle.fail_at_once`, called if the message can't be completed.
    """
    check_no_file(message)
    if isinstance(message, AsyncIterable):
        chunks = message.__aiter__()
    elif isinstance(message, Iterable) and not isinstance(message, Mapping):
        chunks = _iterate(message)
    else:
        kinds = "str or bytes-like, or an iterable of such chunks"
        raise MessageTypeError(f"message must be {kinds}, not {message!r:.100}")
    closable: Any = chunks
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(chunks, "aclose"):
            await stack.enter_async_context(aclosing(closable))
        await sender.budget.checkpoint()
        async with sender.turn:  # other messages wait
            await _FragmentedMessage(sender, text, compress).send(chunks, fail)


async def _iterate(chunks: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


class _FragmentedMessage:
    """A message that is sent chunk by chunk."""

    def __init__(self, sender: Sender, text: bool | None, compress: bool) -> None:
        self._sender = sender
        self._text = text
        self._compress = compress
        self._kind: type[str | bytes] | None = None  # the type of the chunks
        self._is_begun = False
        self._size = 0  # the total size of the chunks in bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # checks bytes that are sent as text

    async def send(
        self, chunks: AsyncIterator[Any], fail: Callable[[str, Exception], None]
    ) -> None:
        try:
            await self._sender.check_open()
            while True:
                try:
                    chunk = await call_unprotected(chunks.__anext__)
                except StopAsyncIteration:
                    break
                await self._send_fragment(self._payload(chunk), is_last=False)
            await self._send_fragment(b"", is_last=True)
        except BaseException as exc:
            if self._is_begun and self._sender.can_send:
                what = safe_repr(exc) if isinstance(exc, Exception) else "cancelled"
                fail(_BROKEN_OFF, ConnectionAbortedError(f"{_BROKEN_OFF}: {what:.200}"))
            raise
        await self._sender.wait_queued(self._size)

    def _payload(self, chunk: object) -> bytes:
        if not isinstance(chunk, str) and not is_buffer(chunk):
            text = f"each chunk of a message must be str or bytes-like, not {chunk!r:.100}"
            raise MessageTypeError(text)
        kind = str if isinstance(chunk, str) else bytes
        if self._kind not in (None, kind):
            raise MessageTypeError("the chunks of a message must be all str, or all bytes-like")
        self._kind = kind
        return chunk.encode() if isinstance(chunk, str) else bytes(memoryview(chunk))

    async def _send_fragment(self, payload: bytes, *, is_last: bool) -> None:
        is_text = self._kind is str if self._text is None else self._text
        if is_text and self._kind is not str:
            self._utf8.decode(payload, is_last)
        await self._sender.send_fragment(
            is_text, payload, is_first=not self._is_begun, is_last=is_last, compress=self._compress
        )
        self._size += len(payload)
        self._is_begun = True
