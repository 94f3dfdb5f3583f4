"""The state of a connection, and how it ended (RFC 6455, 4 and 7).

The states are those of the RFC. `TRANSITIONS` is the whole state machine: an event that is not
listed for a state can't happen in it, or changes nothing. The manual's diagram is generated from
`TRANSITIONS`.

Each side sends one Close frame. In CLOSING, this side has sent its Close frame and is waiting for
the peer's. If the peer's arrives first, this side replies at once, so that case needs no state
between OPEN and CLOSED. In CLOSED, nothing more will be received, and at most this side's Close
frame remains to be sent. The stream is closed later.

Two events end a connection without the closing handshake. FAIL means that this side fails the
connection; it still sends a Close frame ("Fail the WebSocket Connection", 7.1.7). LOSE means that
the stream has ended or raised an error.
"""

from __future__ import annotations

import enum
from typing import Mapping, NamedTuple, NoReturn

from .errors import CloseCode, CloseReason, ConnectionClosed, describe


class State(enum.Enum):
    """The state of a connection."""

    #: The opening handshake is not complete.
    CONNECTING = "CONNECTING"
    #: Messages can be sent and received.
    OPEN = "OPEN"
    #: This side has sent a Close frame and is waiting for the peer's.
    CLOSING = "CLOSING"
    #: Both sides have sent a Close frame, or the connection failed or was lost.
    CLOSED = "CLOSED"


class Event(enum.Enum):
    """An event that changes the state of a connection."""

    #: The opening handshake is complete.
    OPEN = "the handshake is complete"
    #: This side starts the closing handshake.
    SEND_CLOSE = "send Close"
    #: The peer's Close frame was received. If this side had not sent one yet, it replies.
    RECEIVE_CLOSE = "receive Close"
    #: This side fails the connection because the peer violated the protocol or did not respond.
    FAIL = "fail"
    #: The stream has ended.
    LOSE = "lose the stream"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.CONNECTING: {Event.OPEN: State.OPEN},
    State.OPEN: {
        Event.SEND_CLOSE: State.CLOSING,
        Event.RECEIVE_CLOSE: State.CLOSED,
        Event.FAIL: State.CLOSED,
        Event.LOSE: State.CLOSED,
    },
    State.CLOSING: {
        Event.RECEIVE_CLOSE: State.CLOSED,
        Event.FAIL: State.CLOSED,
        Event.LOSE: State.CLOSED,
    },
    State.CLOSED: {},
}

_OPEN, _CLOSED = State.OPEN, State.CLOSED


class Outcome(NamedTuple):
    """How a connection ended: with a closing handshake, or with an error."""

    #: The peer's Close frame. If it is set, `error` is None.
    rcvd: CloseReason | None = None
    #: The error that ended the connection.
    error: Exception | None = None


_NONE_YET = Outcome()


class ClosingHandshake:
    """The state of one connection.

    `state` is a plain attribute, and is compared with `is`, because every message reads it. Only
    `_move` sets it. `sent` is set in CLOSING, and also in CLOSED unless the connection was lost.
    `outcome` is empty except in CLOSED.
    """

    __slots__ = ("_abnormal", "_closer", "_is_block_over", "outcome", "sent", "state")

    def __init__(self, state: State = State.OPEN) -> None:
        """:param state: The initial state: CONNECTING or OPEN."""
        #: The current state.
        self.state: State = state
        #: The Close frame that this side sent, or None.
        self.sent: CloseReason | None = None
        #: How the connection ended; empty until it has.
        self.outcome: Outcome = _NONE_YET
        # The reason for the loss of the connection, cached when `reason` first returns it.
        self._abnormal: CloseReason | None = None
        self._closer = ""
        self._is_block_over = False

    def _move(self, event: Event) -> bool:
        """Make the transition for an event; return False if the event changes nothing."""
        state = TRANSITIONS[self.state].get(event)
        if state is None:
            return False
        self.state = state
        return True

    # -- events

    def open(self) -> None:
        """Record that the opening handshake is complete."""
        self._move(Event.OPEN)

    def start(self, sent: CloseReason) -> None:
        """Record that this side sends the first Close frame."""
        assert self.state is _OPEN
        self._closer = "closed by this side" + (": the block has ended" * self._is_block_over)
        self.sent = sent
        self._move(Event.SEND_CLOSE)

    def receive(self, rcvd: CloseReason, answer: CloseReason) -> bool:
        """Record the peer's Close frame; return True if the answer must be sent.

        :param answer: The Close frame to send, unless this side has already sent one.
        """
        must_answer = self.sent is None
        if must_answer:
            self._closer = "closed by the peer"
            self.sent = answer
        self.outcome = Outcome(rcvd=rcvd)
        self._move(Event.RECEIVE_CLOSE)
        return must_answer

    def fail(self, error: Exception, sent: CloseReason) -> bool:
        """Fail the connection; return True if the Close frame must be sent.

        :param sent: The Close frame to send, unless this side has already sent one.
        """
        must_send = self.sent is None
        if not self._move(Event.FAIL):
            return False
        if must_send:
            self.sent = sent
        self.outcome = Outcome(error=error)
        return must_send

    def lose(self, error: Exception) -> None:
        """Record that the stream has ended. This ends the connection if it has not ended yet."""
        if self._move(Event.LOSE):
            self.outcome = Outcome(error=error)

    def note_end_of_block(self) -> None:
        """Record that the connection is closing because its block or its handler has ended."""
        self._is_block_over = True

    # -- properties that follow from the state

    @property
    def is_open(self) -> bool:
        """True if messages can be sent."""
        return self.state is _OPEN

    @property
    def ended(self) -> bool:
        """True if nothing more will be sent or received."""
        return self.state is _CLOSED

    @property
    def rcvd(self) -> CloseReason | None:
        """The peer's Close frame that ended the connection, or None."""
        return self.outcome.rcvd

    @property
    def error(self) -> Exception | None:
        """The error that ended the connection, or None."""
        return self.outcome.error

    @property
    def reason(self) -> CloseReason | None:
        """The reason why the connection is closed or closing, or None while it is open.

        Every access returns the same object. So ``exc.reason is connection.closed`` shows that this
        connection raised a `ConnectionClosed`, without a reference from the exception to it.

        A reply echoes the peer's Close frame, so `sent` also holds the original reason.
        """
        error = self.outcome.error
        if error is None or self.sent is not None:
            return self.sent
        if self._abnormal is None:
            self._abnormal = CloseReason(CloseCode.ABNORMAL_CLOSURE, describe(error))
        return self._abnormal

    def closed_error(self) -> ConnectionClosed:
        """Return the exception for a call on a closed or closing connection."""
        error = _not_opened() if self.state is State.CONNECTING else self.error
        closer = self._closer if error is None else ""
        exc = ConnectionClosed(self.reason, rcvd=self.rcvd, sent=self.sent, closer=closer)
        exc.__cause__ = error
        return exc

    def raise_closed(self) -> NoReturn:
        """Raise the exception for a call on a connection that is not open."""
        if self.state is State.CONNECTING:
            raise _not_opened()
        raise self.closed_error()


def _not_opened() -> RuntimeError:
    return RuntimeError(
        "this WebSocketConnection was only constructed, so it is not open: get connections from "
        "open_websocket_url(), wrap_client_stream(), or WebSocketRequest.accept()"
    )
