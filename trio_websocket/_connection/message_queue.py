"""The queue of decoded messages that no task has taken yet."""

from __future__ import annotations

import collections
import sys
from typing import Any, Union

from .._sansio.events import MessageChunk
from .._sansio.options import Options

Item = Union[str, bytes, MessageChunk]

# An empty deque takes 600 bytes. All empty queues share this one.
_NOTHING: collections.deque[Any] = collections.deque(maxlen=0)


class MessageQueue:
    """Messages, or chunks of one, in the order in which they arrived, and the limits on them.

    A batch that is decoded for a waiting task is not measured: most of it leaves at once, and
    measuring would take longer than decoding. `measure` starts measuring, before the first message
    is decoded that no task waits for. Measuring ends when the queue is empty.
    """

    __slots__ = ("_max_messages", "_max_size", "messages", "size")

    def __init__(self, options: Options) -> None:
        """:param options: The limits."""
        self._max_messages = options.message_queue_size + 1  # one is in hand, as in 0.12
        self._max_size = options.message_queue_bytes  # bytes of memory
        #: The items. While `size` is None, they may be taken with ``messages.popleft()``; otherwise
        #: only with `pop`.
        self.messages: collections.deque[Item] = _NOTHING
        #: The bytes of memory that the items take, or None while that is not measured.
        self.size: int | None = None

    @property
    def has_room(self) -> bool:
        """True if one more message of any size may be decoded."""
        return not self.messages or (
            len(self.messages) < self._max_messages and (self.size or 0) < self._max_size
        )

    @property
    def payload_size(self) -> int:
        """The number of characters of all texts, and of bytes of all binary data."""
        return sum(map(length, self.messages))

    def fill(self, batch: list[str | bytes]) -> None:
        """Put messages into the queue, which must be empty."""
        self.messages = collections.deque(batch)
        self.size = None

    def append(self, item: Item) -> None:
        """Put one item at the end."""
        if self.messages:
            self.messages.append(item)
        else:
            self.messages = collections.deque((item,))
        if self.size is not None:
            self.size += _memory(item)

    def pop(self) -> Item:
        """Take the first item."""
        item = self.messages.popleft()
        if not self.messages:
            self.size = None
        elif self.size is not None:
            self.size -= _memory(item)
        return item

    def measure(self) -> None:
        """Keep `size` from now on, until the queue is empty."""
        if self.size is None:
            self.size = sum(map(_memory, self.messages))

    def clear(self) -> None:
        """Drop all items, and free the memory of the queue itself."""
        self.messages = _NOTHING
        self.size = None


def length(item: Item) -> int:
    """Return the number of characters of a text, or bytes of binary data."""
    return len(item.data if isinstance(item, MessageChunk) else item)


def encoded_size(item: Item) -> int:
    """Return the number of bytes of payload."""
    data = item.data if isinstance(item, MessageChunk) else item
    return len(data.encode() if isinstance(data, str) else data)


def _memory(item: Item) -> int:
    return sys.getsizeof(item.data if isinstance(item, MessageChunk) else item)


def as_type(message: str | bytes, decode: bool) -> str | bytes:
    """Return a message as str, or else as bytes."""
    if decode:
        return message.decode() if isinstance(message, bytes) else message
    return message.encode() if isinstance(message, str) else message
