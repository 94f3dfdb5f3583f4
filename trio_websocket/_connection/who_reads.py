"""The task that reads the stream and decodes.

**Two tasks can read.** One is an application task, in `get_message` or in a `receive_stream` block.
The other is the connection's own task, in `Receiver.run`. On a socket, the application task reads
directly, so that a message wakes only one task; waking a second one would take longer than all the
other work. On other streams, only the connection's task reads, because cancelling a read may break
the stream. When bytes have arrived, it wakes the application task, which decodes them.

**While the application does not receive**, the library must still answer Pings, and notice a Close
frame or the end of the stream. So the connection's task reads and decodes in the background, as
long as the queue has room. It starts only after a grace period. An application usually answers a
message as soon as it has received it, and a Close frame may be next in the buffer. If that frame
were decoded before the application had sent its answer, the answer could no longer be sent. The
grace period ends 20 to 40 ms after the application last received a message. One `IdleMonitor`
measures it for all connections, so receiving a message only sets one attribute. There is no grace
period while a task is waiting for a Pong or for the end of the connection.
"""

from __future__ import annotations

import enum


class Reader(enum.Enum):
    """The task that reads and decodes.

    ============ ===================================================== ===================
    from         when                                                  to
    ============ ===================================================== ===================
    any          a task starts to wait for a message or a chunk        APPLICATION
    APPLICATION  it stops waiting, and another task is waiting         APPLICATION
    APPLICATION  it stops waiting, and no other task is waiting        GRACE, or BACKGROUND
                                                                       if reading is urgent
    GRACE        the idle monitor begins an interval                   GRACE_ENDS
    GRACE_ENDS   the application receives a message                    GRACE
    GRACE_ENDS   the interval ends                                     BACKGROUND
    GRACE(_ENDS) a Ping or a Close frame is sent, or a write fails     BACKGROUND
    any          `Receiver.stop`                                       STOPPED, for good
    ============ ===================================================== ===================
    """

    #: The application task that holds the lock decodes the bytes. On a socket, it also reads them;
    #: on other streams, the connection's task reads for it.
    APPLICATION = enum.auto()
    #: No task: the application has just received a message, and may be about to answer it.
    GRACE = enum.auto()
    #: Like GRACE, but the application has not received a message in the monitor's current interval.
    GRACE_ENDS = enum.auto()
    #: The connection's task reads and decodes, as long as the queue has room.
    BACKGROUND = enum.auto()
    #: No task: the connection has ended.
    STOPPED = enum.auto()


# The hot path compares these by `is`, because looking up a member of the enum takes longer.
APPLICATION = Reader.APPLICATION
GRACE = Reader.GRACE
GRACE_ENDS = Reader.GRACE_ENDS
BACKGROUND = Reader.BACKGROUND
STOPPED = Reader.STOPPED
