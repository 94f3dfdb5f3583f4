"""The import path of 0.12, which dependents use and replace names of in their tests."""

import logging

from ._client.connect import (
    connect_websocket as connect_websocket,
    connect_websocket_url as connect_websocket_url,
    open_websocket as open_websocket,
    open_websocket_url as open_websocket_url,
    wrap_client_stream as wrap_client_stream,
)
from ._connection.broadcast import BroadcastResult as BroadcastResult, broadcast as broadcast
from ._connection.connection import WebSocketConnection as WebSocketConnection
from ._connection.message_stream import MessageStream as MessageStream
from ._connection.statistics import ConnectionStatistics as ConnectionStatistics
from ._io.sockets import Address as Address
from ._sansio.codec import HAS_SPEEDUPS as HAS_SPEEDUPS
from ._sansio.errors import (
    CloseReason as CloseReason,
    ConnectionClosed as ConnectionClosed,
    ConnectionFailed as ConnectionFailed,
    ConnectionRejected as ConnectionRejected,
    ConnectionTimeout as ConnectionTimeout,
    DisconnectionTimeout as DisconnectionTimeout,
    HandshakeError as HandshakeError,
)
from ._sansio.extensions import (
    DeflateParameters as DeflateParameters,
    PerMessageDeflate as PerMessageDeflate,
)
from ._sansio.options import Options
from ._sansio.url import Endpoint as Endpoint
from ._server.request import (
    WebSocketRequest as WebSocketRequest,
    wrap_server_stream as wrap_server_stream,
)
from ._server.server import WebSocketServer as WebSocketServer, serve_websocket as serve_websocket

# Names that only 0.12 used; programs import them.
CONN_TIMEOUT = Options.connect_timeout
MESSAGE_QUEUE_SIZE = Options.message_queue_size
MAX_MESSAGE_SIZE = Options.max_message_size
RECEIVE_BYTES = Options.receive_buffer_size
logger = logging.getLogger("trio-websocket")


class TrioWebsocketInternalError(Exception):
    """An error that 0.12 raised when it could not unwrap an exception group. Never raised now."""
