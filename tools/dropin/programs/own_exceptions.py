"""Applications that construct, subclass, pickle and copy the exceptions."""

from __future__ import annotations

import copy
import pickle

from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
)


class CdpClosed(ConnectionClosed):
    """A subclass that does not call the constructor of its base class."""

    def __init__(self, reason: CloseReason) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason})"


class Unauthorized(ConnectionRejected):
    """A subclass with its own constructor."""

    def __init__(self, user: str) -> None:
        super().__init__(401, ((b"a", b"b"),), None)
        self.args = (user,)
        self.user = user


class SlowServer(ConnectionTimeout):
    """A subclass with other arguments."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"{host} did not answer in {seconds} s")
        self.args = (host, seconds)
        self.host = host


class Bye(CloseReason):
    """A CloseReason with another name."""


REASON = CloseReason(1001, "bye")
MADE = [
    ConnectionClosed(REASON),
    CdpClosed(REASON),
    ConnectionRejected(404, ((b"x", b"y"),), b"body"),
    ConnectionRejected(status_code=500, headers=(), body=None),
    Unauthorized("ann"),
    HandshakeError("text", 1),
    ConnectionTimeout("text"),
    DisconnectionTimeout("text"),
    SlowServer("host", 1.5),
]

for made in MADE:
    for same in (made, pickle.loads(pickle.dumps(made)), copy.copy(made)):
        print(type(same).__name__, repr(same), same.args)
        names = ("reason", "status_code", "headers", "body", "user", "host")
        print([(name, getattr(same, name)) for name in names if hasattr(same, name)])
    kinds = (HandshakeError, ConnectionClosed, ConnectionRejected, Exception)
    print([isinstance(made, kind) for kind in kinds])

print(Bye(4000, None), pickle.loads(pickle.dumps(REASON)), copy.deepcopy(REASON))
try:
    raise CdpClosed(REASON) from ConnectionClosed(REASON)
except ConnectionClosed as exc:
    print(repr(exc), exc.reason is REASON, repr(exc.__cause__))
