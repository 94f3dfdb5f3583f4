"""Turn clients away if the server has no room for them, or is being closed."""

from __future__ import annotations

import logging

import trio

from .._io.transport import LINGER, Transport, close_now
from .exchange import send_final_response

# The number of clients that can be turned away with a response at the same time. Responses must not
# use up the resources that `max_connections` saves, so the streams of further clients are closed at
# once.
MAX_TURNED_AWAY = 100
_RESPONSE = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

logger = logging.getLogger("trio-websocket")


class TurnAway:
    """Answers clients with status 503 without reading their requests."""

    def __init__(self) -> None:
        self._count = 0  # the number of clients being turned away

    async def start(self, nursery: trio.Nursery, stream: trio.abc.Stream, reason: str) -> None:
        """Turn away a client in a separate task.

        :param nursery: The nursery for the task.
        :param stream: The client's stream, which the task closes.
        :param reason: The reason to log.
        """
        if self._count >= MAX_TURNED_AWAY:
            await close_now(stream)
            return
        nursery.start_soon(self._turn_away, stream, reason)
        self._count += 1

    @trio.lowlevel.enable_ki_protection
    async def _turn_away(self, stream: trio.abc.Stream, reason: str) -> None:
        try:
            with trio.move_on_after(LINGER):
                transport = Transport(stream, None)
                if logger.isEnabledFor(logging.INFO):
                    logger.info("rejected %s with status 503: %s", transport.peer, reason)
                await send_final_response(transport, _RESPONSE)
        except Exception:
            logger.exception("can't turn away a client")
            await close_now(stream)
        finally:
            self._count -= 1
