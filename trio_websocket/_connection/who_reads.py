"""Which task reads the stream and decodes.

**Two tasks can read.** One is the application's, in `get_message` or in a block of
`receive_stream`. The other one is the connection's own task, in `Receiver.run`. On a socket, the
application's task reads by itself. Then a message wakes one task only, and to wake a second one
would take longer than all the rest. On other streams, only the connection's task reads, because a
cancelled read may break them. It wakes the application's task when bytes have arrived, and that
decodes them.

**While the application does not receive**, the library must still answer Pings, and notice a Close
frame or the end of the stream. So the connection's task reads and decodes in the background, as far
as the queue has room. It begins only after a grace period. An application usually takes a message
and answers it at once, and a Close frame may be next in the buffer. If that were decoded before the
application has sent its answer, the answer could not be sent any more. The grace period lasts for
20 to 40 ms after the last message was taken. One `IdleMonitor` measures it for all connections, so
a message only has to set one attribute. There is no grace period if a task waits for a Pong, or for
the end of the connection.
"""

from __future__ import annotations

import enum


class Reader(enum.Enum):
    """The task that reads and decodes.

    ============ ===================================================== ===================
    from         when                                                  to
    ============ ===================================================== ===================
    any          a task begins to wait for a message, or for a chunk   APPLICATION
    APPLICATION  it leaves, and another task waits                     APPLICATION
    APPLICATION  it leaves, and no task waits                          GRACE, or BACKGROUND
                                                                       if reading is urgent
    GRACE        the idle monitor begins an interval                   GRACE_ENDS
    GRACE_ENDS   a message is taken                                    GRACE
    GRACE_ENDS   the interval ends                                     BACKGROUND
    GRACE(_ENDS) a Ping or a Close frame is sent, or a write fails     BACKGROUND
    any          `Receiver.stop`                                       STOPPED, for good
    ============ ===================================================== ===================
    """

    #: The application's task that has the lock decodes. On a socket it also reads; on other streams
    #: the connection's task reads for it.
    APPLICATION = enum.auto()
    #: No task: the application has just taken a message, and may be about to answer it.
    GRACE = enum.auto()
    #: Like GRACE, but the application has taken no message in the current interval of the monitor.
    GRACE_ENDS = enum.auto()
    #: The connection's task reads and decodes, as long as the queue has room.
    BACKGROUND = enum.auto()
    #: No task: the connection has ended.
    STOPPED = enum.auto()


# The path of a message compares these by `is`: looking up a member takes longer.
APPLICATION = Reader.APPLICATION
GRACE = Reader.GRACE
GRACE_ENDS = Reader.GRACE_ENDS
BACKGROUND = Reader.BACKGROUND
STOPPED = Reader.STOPPED
