"""The queue of decoded messages that the application has not received yet."""

from __future__ import annotations

import collections
import sys
from typing import Any, Union

from .._sansio.events import MessageChunk
from .._sansio.options import Options

Item = Union[str, bytes, MessageChunk]

# An empty deque uses 600 bytes, so all empty queues share this one.
_NOTHING: collections.deque[Any] = collections.deque(maxlen=0)


class MessageQueue:
    """Messages, or the chunks of one message, in order of arrival, and the limits on them.

    The size of a batch that is decoded for a waiting task is not measured: most of the batch is
    received at once, and measuring would take longer than decoding. `measure` starts measuring,
    before any message is decoded that no task is waiting for. Measuring ends when the queue is
    empty.
    """

    __slots__ = ("_max_messages", "_max_size", "messages", "size")

    def __init__(self, options: Options) -> None:
        """:param options: The limits."""
        self._max_messages = options.message_queue_size + 1  # 0.12 held one more outside its queue
        self._max_size = options.message_queue_bytes  # bytes of memory
        #: The items. ``messages.popleft()`` is allowed only while `size` is None; otherwise, use
        #: `pop`.
        self.messages: collections.deque[Item] = _NOTHING
        #: The memory that the items use, in bytes, or None while it is not measured.
        self.size: int | None = None

    @property
    def has_room(self) -> bool:
        """True if one more message of any size may be decoded."""
        return not self.messages or (
            len(self.messages) < self._max_messages and (self.size or 0) < self._max_size
        )

    @property
    def payload_size(self) -> int:
        """The total length of all items: characters of text, and bytes of binary data."""
        return sum(map(length, self.messages))

    def fill(self, batch: list[str | bytes]) -> None:
        """Put messages into the queue, which must be empty."""
        self.messages = collections.deque(batch)
        self.size = None

    def append(self, item: Item) -> None:
        """Append an item."""
        if self.messages:
            self.messages.append(item)
        else:
            self.messages = collections.deque((item,))
        if self.size is not None:
            self.size += _memory(item)

    def pop(self) -> Item:
        """Remove and return the first item."""
        item = self.messages.popleft()
        if not self.messages:
            self.size = None
        elif self.size is not None:
            self.size -= _memory(item)
        return item

    def measure(self) -> None:
        """Keep `size` up to date from now on, until the queue is empty."""
        if self.size is None:
            self.size = sum(map(_memory, self.messages))

    def clear(self) -> None:
        """Drop all items, and free the memory of the queue itself."""
        self.messages = _NOTHING
        self.size = None


def length(item: Item) -> int:
    """Return the length of an item: characters of text, or bytes of binary data."""
    return len(item.data if isinstance(item, MessageChunk) else item)


def encoded_size(item: Item) -> int:
    """Return the size of an item's payload in bytes."""
    data = item.data if isinstance(item, MessageChunk) else item
    return len(data.encode() if isinstance(data, str) else data)


def _memory(item: Item) -> int:
    return sys.getsizeof(item.data if isinstance(item, MessageChunk) else item)


def as_type(message: str | bytes, decode: bool) -> str | bytes:
    """Return a message as str if `decode` is True, and as bytes otherwise."""
    if decode:
        return message.decode() if isinstance(message, bytes) else message
    return message.encode() if isinstance(message, str) else message
