"""The events that a receiver reports to its connection."""

from __future__ import annotations

from typing import Protocol

from wsproto.events import Ping, Pong


class ConnectionEvents(Protocol):
    """The part of a connection that its receiver uses."""

    def on_control(self, event: Ping | Pong) -> None:
        """Handle a Ping or Pong from the peer."""

    def on_ended(self) -> None:
        """Handle the end of the connection, which the protocol has detected."""

    def on_failure(self, exc: Exception) -> None:
        """End the connection because of an error on this side."""

    @property
    def is_urgent(self) -> bool:
        """True if reading must continue because a task is waiting for a Pong or a Close frame."""
