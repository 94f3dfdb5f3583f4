"""Traffic statistics of a connection."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ConnectionStatistics:
    """A connection's traffic at one moment, from :meth:`WebSocketConnection.statistics`."""

    #: Messages that were queued or written. A message is not counted if the call that sent it
    #: raised :exc:`ConnectionClosed`.
    messages_sent: int
    #: Messages received in full, whether the application has read them or not.
    messages_received: int
    #: Payload bytes of the messages sent, before compression.
    bytes_sent: int
    #: Payload bytes of the messages received, after decompression.
    bytes_received: int
    #: Bytes of the frames written, including control frames.
    wire_bytes_sent: int
    #: Bytes received after the opening handshake.
    wire_bytes_received: int
    #: Messages that are waiting for ``get_message``.
    messages_unread: int
    #: Received data that has not been read: the size of the unread messages (for text, in
    #: characters), and the bytes that have not been decoded.
    bytes_unread: int
    #: Frames that have not been written, or only partly written.
    frames_unsent: int
    #: Bytes that are waiting to be written.
    bytes_unsent: int
    #: Tasks in ``get_message``, or in another call that receives.
    tasks_receiving: int
    #: Tasks that are waiting to send.
    tasks_sending: int
    #: Our Pings whose Pong a task is waiting for.
    pings_in_flight: int
    #: The round-trip time of the latest answered Ping, in seconds, or None.
    latency: float | None
