"""The events that a receiver passes on to its connection."""

from __future__ import annotations

from typing import Protocol

from wsproto.events import Ping, Pong


class ConnectionEvents(Protocol):
    """The connection, as its receiver needs it."""

    def on_control(self, event: Ping | Pong) -> None:
        """Handle a Ping or Pong of the peer."""

    def on_ended(self) -> None:
        """Handle the end of the connection, which the protocol has reached."""

    def on_failure(self, exc: Exception) -> None:
        """End the connection, because of an error of this side."""

    @property
    def is_urgent(self) -> bool:
        """True if reading must go on, because a task waits for a Pong or a Close frame."""
