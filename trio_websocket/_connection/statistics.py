"""Traffic statistics of a connection."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ConnectionStatistics:
    """A connection's traffic at one moment, from :meth:`WebSocketConnection.statistics`."""

    #: Messages that were queued or written. A message whose call raised
    #: :exc:`ConnectionClosed` does not count.
    messages_sent: int
    #: Messages that were received whole, read by the application or not.
    messages_received: int
    #: Bytes of payload of the messages sent, before compression.
    bytes_sent: int
    #: Bytes of payload of the messages received, after decompression.
    bytes_received: int
    #: Bytes of frames that were written, including control frames.
    wire_bytes_sent: int
    #: Bytes that were received after the opening handshake.
    wire_bytes_received: int
    #: Messages that wait for ``get_message``.
    messages_unread: int
    #: Received data that was not read: the size of the unread messages (of a text, its
    #: characters), and the bytes that are not decoded yet.
    bytes_unread: int
    #: Frames that are not written, or only in part.
    frames_unsent: int
    #: Bytes that wait to be written.
    bytes_unsent: int
    #: Tasks in ``get_message``, or in another call that receives.
    tasks_receiving: int
    #: Tasks that wait until they may send.
    tasks_sending: int
    #: Our Pings that a task waits for.
    pings_in_flight: int
    #: The round-trip time of the latest Ping that was answered, in seconds, or None.
    latency: float | None
